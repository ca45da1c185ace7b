"""How cost grows: opening over the number of pollers, everything over the number of connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from asgi_poller.storm.fleet import Fleet, Outcome
from asgi_poller.storm.limits import processes_for
from asgi_poller.storm.plan import StormError, made_payload
from asgi_poller.storm.svg import Series, line_chart
from benchmarks.measures import ALL_AT_ONCE, Asked, plan_for, storm
from benchmarks.peers import Peer
from benchmarks.runner import serving
from benchmarks.scenarios import Setup
from benchmarks.servers import Server

Row = dict[str, float]
HOLD_LIMIT_S = 600.0
OPEN_LIMIT_S = 300.0


def poller_curve(
    peer: Peer,
    counts: list[int],
    *,
    attempts: int,
    server_args: str,
    say: Callable[[str], None],
) -> list[Row]:
    """The burst, and opening at a steady pace, for each number of pollers; two workers."""
    found = []
    for pollers in counts:
        setup = Setup(workers=2, more=f"--pollers {pollers} {server_args}")
        with serving(peer, setup, cores=frozenset()) as server:
            asked = Asked(server, seconds=0.0, warmup_s=0.0)
            burst = storm(
                asked,
                "/",
                connections=attempts,
                burst=10_000,
                interval_s=0.05,
                timeout_s=10.0,
                processes=2,
            )
            steady = storm(
                asked, "/", connections=attempts, burst=ALL_AT_ONCE, concurrency=200, processes=2
            )
        row = {
            "pollers": pollers,
            "burst_failed": burst["failed"]["total"],
            "burst_per_s": burst["open_per_s"],
            "burst_p99_ms": burst["open_ms"]["p99"],
            "steady_per_s": steady["open_per_s"],
            "steady_p99_ms": steady["open_ms"]["p99"],
            "steady_cpu_us": round(1e6 * steady["server"]["cpu_s"]["opening"] / attempts, 2),
        }
        say(f"{pollers} pollers: {row}")
        found.append(row)
    return found


class Held:
    """Idle connections held in the background, by a thread that runs a fleet."""

    def __init__(self, server: Server, connections: int) -> None:
        plan = plan_for(
            server.port,
            "/",
            mode="hold",
            connections=connections,
            burst=10_000,
            timeout_s=60.0,
            processes=processes_for(mode="hold", connections=connections, asked=None),
            warmup_s=0.0,
            duration_s=HOLD_LIMIT_S,
        )
        self._opened = threading.Event()
        self._fleet = Fleet(plan, server_pids=(server.pid,), on_tick=self._tick)
        self._thread = threading.Thread(target=self._fleet.run, name="held")

    def _tick(self, outcome: Outcome) -> None:
        if outcome.phase == "holding":
            self._opened.set()

    def __enter__(self) -> Outcome:
        self._thread.start()
        if not self._opened.wait(OPEN_LIMIT_S):
            self.__exit__()
            raise StormError(f"not everything was open after {OPEN_LIMIT_S:.0f} s")
        return self._fleet.outcome

    def __exit__(self, *_: object) -> None:
        self._fleet.finish()
        self._thread.join()


def connection_curve(
    peer: Peer,
    counts: list[int],
    *,
    workers: int,
    seconds: float,
    idle_seconds: float,
    server_args: str,
    say: Callable[[str], None],
) -> list[Row]:
    """With each number of idle connections: what they cost, and what 100 active ones still get."""
    found = []
    for idle in counts:
        with serving(peer, Setup(workers=workers, more=server_args), cores=frozenset()) as server:
            row: Row = {"idle": idle}
            if idle:
                with Held(server, idle) as outcome:
                    row |= _idle_cost(server, outcome, idle_seconds) | _activity(server, seconds)
            else:
                row |= _activity(server, seconds)
        say(f"{idle:,} idle: {row}")
        found.append(row)
    return found


def _idle_cost(server: Server, outcome: Outcome, seconds: float) -> Row:
    tally = outcome.tally
    memory = outcome.server_memory
    opened = max(1, tally.opened)
    before_s, since_s = server.cpu_s(), time.monotonic()
    time.sleep(seconds)
    idle_cpu = (server.cpu_s() - before_s) / (time.monotonic() - since_s)
    return {
        "opened": tally.opened,
        "failed": tally.failures,
        "open_per_s": round(tally.opened / max(1e-9, tally.last_outcome_s - tally.first_dial_s), 1),
        "open_cpu_us": round(1e6 * outcome.server_cpu_s.get("opening", 0.0) / opened, 2),
        "octets_each": round((memory.get("opening", 0) - memory.get("before", 0)) / opened),
        "idle_cpu_percent": round(100 * idle_cpu, 2),
        "idle_cpu_us_each_s": round(1e6 * idle_cpu / opened, 4),
    }


def _activity(server: Server, seconds: float) -> Row:
    asked = Asked(server, seconds=seconds, warmup_s=1.0)
    echo = storm(
        asked,
        "/",
        mode="echo",
        connections=100,
        payload=made_payload(32),
        warmup_s=asked.warmup_s,
        duration_s=seconds,
    )
    measured = max(1, echo["messages"]["measured"])
    return {
        "echo_per_s": echo["messages"]["per_s"],
        "echo_p99_ms": echo["round_trip_ms"]["p99"],
        "echo_cpu_us": round(1e6 * echo["server"]["cpu_s"]["measuring"] / measured, 3),
    }


def drawings(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, SVG) of the curves."""
    by_pollers, by_idle = found["pollers"], found["connections"]

    def series(rows: list[Row], over: str, name: str, what: str) -> Series:
        return Series(name, [(row[over], row[what]) for row in rows if what in row])

    yield (
        "pollers",
        line_chart(
            "Opening WebSockets over the number of pollers",
            [
                series(by_pollers, "pollers", "bursts", "burst_per_s"),
                series(by_pollers, "pollers", "steady", "steady_per_s"),
            ],
            x_label="pollers",
            y_label="opened per second",
        ),
    )
    yield (
        "connections-echo",
        line_chart(
            "Echoes of 100 active channels over idle ones",
            [series(by_idle, "idle", "echoes per second", "echo_per_s")],
            x_label="idle channels",
            y_label="per second",
        ),
    )
    yield (
        "connections-memory",
        line_chart(
            "Memory of an idle channel",
            [series(by_idle, "idle", "octets", "octets_each")],
            x_label="idle channels",
            y_label="octets",
        ),
    )
    yield (
        "connections-cpu",
        line_chart(
            "CPU of the idle channels together",
            [series(by_idle, "idle", "% of one core", "idle_cpu_percent")],
            x_label="idle channels",
            y_label="%",
        ),
    )
