"""Tables of the headline runs' results, for the same marked places as the comparisons'."""

from __future__ import annotations

from typing import Any

from asgi_poller.storm.stats import CAUSES
from benchmarks.holding import CALM_S

Document = dict[str, Any]


def tables(documents: list[Document]) -> dict[str, str]:
    """By name, the tables that these results give: of each kind the later document wins."""
    bursts = {one["peer"]: one for one in documents if "peer" in one}
    holds = {one["holding"]["connections"]: one for one in documents if "holding" in one}
    curves = [one for one in documents if "pollers" in one]
    found = {}
    if bursts:
        found["headline-burst"] = burst_table(list(bursts.values()))
    if holds:
        found["headline-hold"] = hold_table([holds[count] for count in sorted(holds)])
    if curves:
        found["headline-pollers"] = rows_table(curves[-1]["pollers"], POLLER_COLUMNS)
        found["headline-connections"] = rows_table(curves[-1]["connections"], IDLE_COLUMNS)
    return found


def burst_table(documents: list[Document]) -> str:
    """The burst, a row for each server, the fewest failures first."""
    rows = []
    for one in sorted(documents, key=lambda one: (one["storm"]["failed"]["total"], -_rate(one))):
        storm = one["storm"]
        failed = storm["failed"]
        causes = ", ".join(f"{failed[cause]:,} {cause}" for cause in CAUSES if failed[cause])
        rows.append(
            [
                one["peer"],
                f"{one['workers']}",
                f"{failed['total']:,} of {storm['attempted']:,}",
                causes or "none",
                f"{_rate(one):,.0f}",
                f"{storm['open_ms']['p50']:,.0f} / {storm['open_ms']['p99']:,.0f}",
                f"{storm['server']['listen_overflows'] or 0:,}",
            ]
        )
    heads = ["", "workers", "failed", "causes", "opened/s", "p50 / p99 ms", "listen overflows"]
    return _markdown(heads, rows)


def _rate(document: Document) -> float:
    return float(document["storm"]["open_per_s"])


def hold_table(documents: list[Document]) -> str:
    """Connections held at once, a row for each run."""
    rows = []
    for one in documents:
        held, storm, holding = one["held"], one["storm"], one["holding"]
        each = held.get("server_octets_each")
        rows.append(
            [
                f"{held.get('open_at_once', storm['opened']):,}",
                f"{holding['workers']}",
                f"{storm['failed']['total']:,}",
                f"{held.get('seconds_to_open', storm['seconds']):,.1f}",
                "" if each is None else f"{each:,}",
                f"{held.get('octets_each_in_all', 0):,}",
                _seconds(held, "echo_from_each_s", holding["limit_s"] / 4 + CALM_S),
                _seconds(held, "message_to_each_s", holding["limit_s"]),
            ]
        )
    heads = ["open at once", "workers", "failed", "s to open", "server octets each"]
    heads += ["octets each in all", "s, one from each", "s, one to each"]
    return _markdown(heads, rows)


def _seconds(held: Document, name: str, limit_s: float) -> str:
    """How long it took; or that it took longer than anybody looked, or did not happen."""
    if name in held:
        return f"{held[name]:,.1f}"
    return f"over {limit_s:,.0f}" if held.get("all_had_both") else "not all"


POLLER_COLUMNS = {
    "pollers": "pollers",
    "burst_failed": "burst: failed",
    "burst_per_s": "opened/s",
    "burst_p99_ms": "p99 ms",
    "steady_per_s": "steady: opened/s",
    "steady_p99_ms": "p99 ms",
    "steady_cpu_us": "server µs each",
}
IDLE_COLUMNS = {
    "idle": "idle channels",
    "open_per_s": "opened/s",
    "open_cpu_us": "server µs to open",
    "octets_each": "octets each",
    "idle_cpu_percent": "idle CPU, % of a core",
    "idle_cpu_us_each_s": "µs each per second",
    "echo_per_s": "echoes/s of 100 active",
    "echo_cpu_us": "server µs each",
    "echo_p99_ms": "p99 ms",
}


def rows_table(rows: list[dict[str, float]], columns: dict[str, str]) -> str:
    """A curve's points as a table."""
    cells = [[f"{row[name]:,.10g}" if name in row else "" for name in columns] for row in rows]
    return _markdown(list(columns.values()), cells)


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
