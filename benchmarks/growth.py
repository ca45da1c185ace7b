"""`python -m benchmarks.growth`: what topics for very many WebSockets on several machines take.

Figures that were measured, times a plan: all else is arithmetic, whose formulas are in the tables.
`--into FILE` replaces what is between `<!-- growth:begin NAME -->` and `<!-- growth:end -->` there;
NAME is `figures`, `plan` or `redis`. With other options the tables are those of another plan:

    python -m benchmarks.growth --websockets 1000000 --machines 4 --topics 200 --each 3
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.runner import RESULTS

MARKED = re.compile(r"(<!-- growth:begin (\w+) -->\n).*?(<!-- growth:end -->)", re.DOTALL)
#: What the network adds to a small message: WebSocket header 4, TCP with timestamps 32, IPv4 20,
#: Ethernet with preamble and gap 38 (RFC 6455, 9293, 791, IEEE 802.3).
FRAME_BYTES = 4 + 32 + 20 + 38
#: Of a link between Redis and a machine: what stands around a message of pub/sub, with its id.
UPSTREAM_BYTES = 120
#: How full a core is to be: what is left takes bursts, reconnects and the machine that fails.
FULL = 0.6


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on the machine of docs/performance.md, µs of CPU and bytes."""

    delivery_us: float
    idle_us: float  # each second, with a ping and a pong every 20 s
    open_us: float
    websocket_bytes: float
    subscription_bytes: float
    kernel_bytes: float
    redis: dict[bool, tuple[float, float]]  # with history: of a publication, of each listener
    asked_us: float  # Redis's, for a client that comes back and has missed ten messages

    @classmethod
    def read(cls) -> Figures:
        """From benchmarks/results, and from the page where it has a figure of a long run."""
        memory, upstream = _result("subscription-memory.json"), _result("upstream-redis.json")
        return cls(
            delivery_us=DELIVERY_US,
            idle_us=IDLE_US,
            open_us=OPEN_US,
            websocket_bytes=memory["websocket_bytes"],
            subscription_bytes=memory["subscription_bytes"],
            kernel_bytes=KERNEL_BYTES,
            redis={
                has_history: line_of(upstream["rows"], way)
                for has_history, way in ((False, "without history"), (True, "with history"))
            },
            asked_us=upstream["asked_us"]["10"],
        )


# Of docs/topics.md, "What it costs", compiled build. Then of docs/performance.md: "CPU of idle
# WebSockets" at 100,000; opening, compiled build; "a million", memory in all less clients and ours.
DELIVERY_US = 9.54
IDLE_US = 0.92
OPEN_US = 68.2
KERNEL_BYTES = 3_400


@dataclass(frozen=True, slots=True)
class Plan:
    """`each`: topics that a WebSocket has. `rate`: messages a second to each topic."""

    websockets: int = 10_000_000
    machines: int = 20
    topics: int = 1_000
    each: int = 1
    rate: float = 1.0
    payload_bytes: int = 256

    @property
    def here(self) -> float:
        """WebSockets of a machine."""
        return self.websockets / self.machines

    @property
    def publications(self) -> float:
        """A second, of all topics."""
        return self.topics * self.rate

    @property
    def deliveries(self) -> float:
        """A second, on a machine."""
        return self.here * self.each * self.rate

    @property
    def listening(self) -> float:
        """Machines with a subscriber of a topic, if subscribers are anywhere."""
        subscribers = self.websockets * self.each / self.topics
        missed: float = (1 - 1 / self.machines) ** subscribers  # the chance of one machine
        return self.machines * (1 - missed)


#: What docs/topics.md has.
STANDARD = Plan()


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: how it is reckoned, and what comes out."""

    what: str
    formula: str
    value: str


def line_of(rows: Iterable[dict[str, Any]], way: str, pipelined: int = 1) -> tuple[float, float]:
    """CPU of a publication and of each listener, µs: least squares over the measured numbers."""
    points = [
        (row["listeners"], row["cpu_us"])
        for row in rows
        if row["way"] == way and row["pipelined"] == pipelined
    ]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
        (x - mean_x) ** 2 for x, _ in points
    )
    return mean_y - slope * mean_x, slope


def of_machine(plan: Plan, figures: Figures) -> list[Row]:
    """What each machine has to do."""
    delivering = plan.deliveries * figures.delivery_us / 1e6
    idling = plan.here * figures.idle_us / 1e6
    cores = delivering + idling
    each = figures.websocket_bytes + figures.kernel_bytes + plan.each * figures.subscription_bytes
    wire = plan.deliveries * (plan.payload_bytes + FRAME_BYTES)
    opening = plan.here * figures.open_us / 1e6
    spared = max(_whole(cores / FULL) - cores, 0.1)
    more = plan.here / max(plan.machines - 1, 1)
    return [
        Row("WebSockets", "W / M", f"{plan.here:,.0f}"),
        Row("deliveries a second", "W / M · k · r", f"{plan.deliveries:,.0f}"),
        Row("cores that deliver", "deliveries · d", f"{delivering:.1f}"),
        Row("cores for pings, every 20 s", "W / M · p", f"{idling:.1f}"),
        Row(f"cores, {FULL:.0%} busy", f"both / {FULL}", f"{_whole(cores / FULL)}"),
        Row("memory", "W / M · (m + k · s + n)", f"{plan.here * each / 1e9:.1f} GB"),
        Row("network out", "deliveries · (b + 94)", f"{wire * 8 / 1e9:.2f} Gbit/s"),
        Row("packets out a second", "deliveries", f"{plan.deliveries:,.0f}"),
        Row(
            "all come back at once",
            "W / M · o / free cores",
            f"{opening:.0f} core-seconds, {opening / spared:.0f} s",
        ),
        Row("one machine of M fails: more on each", "W / M / (M - 1)", f"{more:,.0f} WebSockets"),
    ]


def of_redis(plan: Plan, figures: Figures) -> list[Row]:
    """What one Redis has to do for the plan."""
    out = plan.publications * plan.listening
    sent = out * (plan.payload_bytes + UPSTREAM_BYTES)
    subscriptions = plan.topics * plan.listening
    rows = [
        Row("Redis: publications a second", "T · r", f"{plan.publications:,.0f}"),
        Row("Redis: messages out a second", "T · r · L", f"{out:,.0f}"),
        Row("Redis: subscriptions", "T · L", f"{subscriptions:,.0f}"),
        Row("Redis: network out", "messages out · (b + 120)", f"{sent * 8 / 1e6:,.0f} Mbit/s"),
    ]
    for has_history, words in ((False, "without history"), (True, "with history")):
        fixed, listener = figures.redis[has_history]
        busy = plan.publications * (fixed + listener * plan.listening) / 1e6
        rows.append(Row(f"Redis: its core, {words}", "T · r · (a + c · L)", f"{busy:.1%}"))
    asking = plan.here * plan.each * figures.asked_us / 1e6
    of_one = f"{asking:.0f} core-seconds"
    rows.append(Row("Redis: the clients of one machine come back", "W / M · k · q", of_one))
    of_all = f"{asking * plan.machines:.0f} core-seconds"
    rows.append(Row("Redis: all clients come back", "W · k · q", of_all))
    return rows


def ends(figures: Figures, payload_bytes: int, machines: Sequence[int]) -> str:
    """Publications a second at which one Redis is full, by machines that listen."""
    lines = [
        "| machines that listen | a second, without history | with history | network out then |",
        "|---|---|---|---|",
    ]
    for count in machines:
        most = {}
        for has_history, (fixed, listener) in figures.redis.items():
            most[has_history] = FULL * 1e6 / (fixed + listener * count)
        sent = most[True] * count * (payload_bytes + UPSTREAM_BYTES) * 8 / 1e6
        lines.append(f"| {count} | {most[False]:,.0f} | {most[True]:,.0f} | {sent:,.0f} Mbit/s |")
    return "\n".join(lines)


def measured_table(figures: Figures) -> str:
    """What the rest is reckoned from."""
    rows = [
        ("d", "server CPU of a delivery", f"{figures.delivery_us:.2f} µs"),
        ("p", "server CPU of an idle WebSocket a second", f"{figures.idle_us:.2f} µs"),
        ("o", "server CPU to open a WebSocket", f"{figures.open_us:.1f} µs"),
        ("m", "memory of a WebSocket", f"{figures.websocket_bytes:,.0f} bytes"),
        ("s", "memory of a subscription", f"{figures.subscription_bytes:,.0f} bytes"),
        ("n", "the kernel's part, while nothing waits", f"{figures.kernel_bytes:,.0f} bytes"),
    ]
    for has_history, words in ((False, "without history"), (True, "with history")):
        fixed, listener = figures.redis[has_history]
        value = f"{fixed:.1f} + {listener:.2f} L µs"
        rows.append(("a + c L", f"Redis's CPU of a publication, {words}", value))
    asked = "Redis's CPU of a client that comes back and has missed 10 messages"
    rows.append(("q", asked, f"{figures.asked_us:.0f} µs"))
    body = "\n".join(f"| {name} | {what} | {value} |" for name, what, value in rows)
    return f"| | measured | |\n|---|---|---|\n{body}"


def plan_table(plan: Plan, figures: Figures) -> str:
    """The plan, reckoned."""
    rows = [*of_machine(plan, figures), *of_redis(plan, figures)]
    body = "\n".join(f"| {row.what} | {row.formula} | {row.value} |" for row in rows)
    return f"| computed | from | |\n|---|---|---|\n{body}"


def tables(plan: Plan, figures: Figures) -> dict[str, str]:
    """All of them, by name."""
    return {
        "figures": measured_table(figures),
        "plan": plan_table(plan, figures),
        "redis": ends(figures, plan.payload_bytes, (1, 5, 20, 50, 100)),
    }


def filled(text: str, made: dict[str, str]) -> str:
    """`text` with the tables in their places."""
    return MARKED.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", text)


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def _whole(value: float) -> int:
    return -int(-value // 1)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--websockets", default=STANDARD.websockets, help="W, of all machines.")
@click.option("--machines", default=STANDARD.machines, help="M.")
@click.option("--topics", default=STANDARD.topics, help="T, of all.")
@click.option("--each", default=STANDARD.each, help="k, topics that a WebSocket has subscribed to.")
@click.option("--rate", default=STANDARD.rate, help="r, messages a second to each topic.")
@click.option("--payload-bytes", default=STANDARD.payload_bytes, help="b.")
@click.option("--into", type=click.Path(dir_okay=False, path_type=Path), help="A page with marks.")
def main(into: Path | None, **plan: Any) -> None:
    """Print the tables, or write them."""
    made = tables(Plan(**plan), Figures.read())
    if into is None:
        click.echo("\n\n".join(made.values()))
    else:
        into.write_text(filled(into.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
