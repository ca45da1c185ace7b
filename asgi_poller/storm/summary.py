"""The outcome of a run as one JSON document (schema below) and as rows for a table. Everything else
reads these.

Schema, `"schema": 1`; durations in the unit that the name says, sizes in octets: `plan`,
`attempted` = `opened` + `failed.total`, `failed` by cause, `lost` (opened, then ended by the
server) by cause, `http_statuses`, `details`, `open_per_s`, `open_ms` and `round_trip_ms`
(percentiles and histogram), `messages`, `server` (accept queue, overflows, CPU, memory), `client`,
`timeline` (rows of `timeline_columns`), `interrupted`.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from asgi_poller.storm import probe
from asgi_poller.storm.fleet import Outcome, Sample
from asgi_poller.storm.stats import CAUSES

SCHEMA = 1
TIMELINE_COLUMNS = tuple(field.name for field in dataclasses.fields(Sample))
CAUSE_WORDS = {
    "refused": "refused",
    "reset": "reset",
    "timeout": "timeout",
    "status": "HTTP status",
    "protocol": "protocol error",
    "closed": "closed before the answer",
    "tls": "TLS handshake",
    "local": "this side (descriptors, addresses)",
    "interrupted": "interrupted",
}


def document(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome, ready for json.dumps."""
    tally = outcome.tally
    opening_s = max(0.0, tally.last_outcome_s - tally.first_dial_s)
    return {
        "schema": SCHEMA,
        "started_at": datetime.fromtimestamp(outcome.started_at, UTC).isoformat(timespec="seconds"),
        "interrupted": outcome.interrupted,
        "plan": _plan(outcome),
        "attempted": tally.attempted,
        "opened": tally.opened,
        "failed": {
            "total": tally.failures,
            **{cause: tally.failed.get(cause, 0) for cause in CAUSES},
        },
        "failure_rate": round(tally.failures / tally.attempted, 6) if tally.attempted else 0.0,
        "http_statuses": dict(sorted(tally.statuses.items())),
        "lost": {"total": tally.lost.total(), **dict(sorted(tally.lost.items()))},
        "details": dict(sorted(tally.details.items())),
        "seconds": round(opening_s, 4),
        "open_per_s": round(tally.opened / opening_s, 1) if opening_s else 0.0,
        "open_ms": outcome.opening.summary(),
        "deflate_channels": tally.deflated,
        "throttled_processes": tally.throttled,
        "messages": _messages(outcome),
        "round_trip_ms": outcome.round_trips.summary(),
        "server": _server(outcome),
        "client": {
            "processes": outcome.plan.processes,
            "cpu_s": round(outcome.client_cpu_s, 3),
            "dead": outcome.dead_processes,
        },
        "timeline_columns": list(TIMELINE_COLUMNS),
        "timeline": [_row(sample) for sample in outcome.samples],
    }


def _plan(outcome: Outcome) -> dict[str, Any]:
    plan = outcome.plan
    skipped = ("payload", "headers", "sources", "address")
    fields = {
        f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name not in skipped
    }
    # Header values may be credentials: the names say enough.
    names = [name for name, _ in plan.headers]
    return {"url": plan.url, **fields, "payload_octets": len(plan.payload), "headers": names}


def _messages(outcome: Outcome) -> dict[str, Any]:
    window_s = outcome.window_s
    return {
        "received": outcome.tally.messages,
        "measured": outcome.measured,
        "window_s": round(window_s, 4),
        "per_s": round(outcome.measured / window_s, 1) if window_s else 0.0,
        "rounds": outcome.rounds,
        "per_channel": dict(
            sorted(outcome.tally.per_channel.items(), key=lambda item: int(item[0]))
        ),
    }


def _server(outcome: Outcome) -> dict[str, Any]:
    samples = outcome.samples
    queues = [sample.queue for sample in samples if sample.queue is not None]
    overflows = [sample.overflows for sample in samples if sample.overflows is not None]
    return {
        "local": outcome.queue_seen,
        "accept_queue_max": max(queues, default=None),
        "listen_overflows": max(overflows, default=None),
        "somaxconn": probe.somaxconn() if outcome.queue_seen else None,
        "cpu_s": {phase: round(seconds, 3) for phase, seconds in outcome.server_cpu_s.items()},
        "memory_octets": outcome.server_memory,
    }


def _row(sample: Sample) -> list[float | int | None]:
    values = [getattr(sample, name) for name in TIMELINE_COLUMNS]
    return [round(value, 3) if isinstance(value, float) else value for value in values]


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know of a document, as (name, value); zero causes are left out."""
    plan, failed = found["plan"], found["failed"]
    lines = [
        ("attempted", f"{found['attempted']:,}"),
        ("opened", f"{found['opened']:,}"),
        ("failed", f"{failed['total']:,} ({100 * found['failure_rate']:.2f} %)"),
    ]
    for cause in CAUSES:
        if failed[cause]:
            lines.append((f"  {CAUSE_WORDS[cause]}", f"{failed[cause]:,}"))
    lines += [
        (f"    HTTP {status}", f"{count:,}") for status, count in found["http_statuses"].items()
    ]
    lines += [(f"    {what}", f"{count:,}") for what, count in found["details"].items()]
    if found["lost"]["total"]:
        lines.append(("opened, then lost", f"{found['lost']['total']:,}"))
        lines += [
            (f"  {cause}", f"{count:,}")
            for cause, count in found["lost"].items()
            if cause != "total"
        ]
    lines.append(("opened per second", f"{found['open_per_s']:,.0f} in {found['seconds']:.2f} s"))
    lines.append(("time to open", percentiles(found["open_ms"])))
    messages = found["messages"]
    if plan["mode"] in ("echo", "fan-out"):
        lines.append(
            ("messages per second", f"{messages['per_s']:,.0f} for {messages['window_s']:.1f} s")
        )
        lines.append(("round trip", percentiles(found["round_trip_ms"])))
    elif messages["received"]:
        lines.append(("messages received", f"{messages['received']:,}"))
    return lines + _server_rows(found)


def _server_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    server, lines = found["server"], []
    if server["local"]:
        lines.append(
            (
                "accept queue, deepest seen",
                f"{server['accept_queue_max']:,} (somaxconn {server['somaxconn']:,})",
            )
        )
        if server["listen_overflows"] is not None:
            lines.append(("listen overflows", f"{server['listen_overflows']:,}"))
    cpu, memory = server["cpu_s"], server["memory_octets"]
    if "opening" in cpu and found["attempted"]:
        lines.append(
            ("server CPU per attempt", f"{1e6 * cpu['opening'] / found['attempted']:,.1f} µs")
        )
    if "measuring" in cpu and found["round_trip_ms"]["count"]:
        lines.append(
            (
                "server CPU per message",
                f"{1e6 * cpu['measuring'] / found['messages']['measured']:,.2f} µs",
            )
        )
    if (
        found["plan"]["mode"] == "hold"
        and {"before", "opening"} <= memory.keys()
        and found["opened"]
    ):
        octets = (memory["opening"] - memory["before"]) / found["opened"]
        lines.append(("server memory per channel", f"{octets:,.0f} octets"))
    return lines


def percentiles(found: dict[str, Any]) -> str:
    """One line for a document's duration summary."""
    if not found["count"]:
        return "none measured"
    return " · ".join(
        f"{name.replace('_', '.')} {found[name]:,.2f} ms"
        for name in ("p50", "p90", "p99", "p99_9", "max")
    )
