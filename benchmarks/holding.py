"""Very many WebSockets open at once: counted, sent one message from each and one to each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asgi_poller.storm.fleet import Fleet, Outcome
from asgi_poller.storm.summary import document
from benchmarks.measures import plan_for
from benchmarks.peers import Peer
from benchmarks.runner import serving
from benchmarks.scenarios import Setup

# Between "all are open" and the first message: what opening left behind is worked off.
CALM_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What is held, by how many processes on each side, and what ends it early."""

    connections: int
    workers: int
    processes: int
    burst: int
    interval_s: float
    timeout_s: float
    limit_s: float
    spare_octets: int
    server_args: str


class Watch:
    """Follows a hold from the fleet's ticks: memory, the two rounds of messages, and when to end.

    The run's phases: `opening`; `warming up` is the wait for one echo from every channel (`touch`);
    `holding` the wait for one message to every channel, which `trigger` sets off.
    """

    def __init__(
        self,
        fleet_of: Callable[[], Fleet],
        holding: Holding,
        trigger: Path,
        tell: Callable[[Outcome], None],
    ) -> None:
        self._fleet_of = fleet_of
        self._holding = holding
        self._trigger = trigger
        self._tell = tell
        self._phase = ""
        self._since_s = 0.0
        self.memory_before = available_octets()
        self.held: dict[str, Any] = {"stopped_for_memory": False}

    def __call__(self, outcome: Outcome) -> None:
        """The fleet's tick."""
        self._tell(outcome)
        now_s = time.monotonic()
        if outcome.phase != self._phase:
            self._phase, self._since_s = outcome.phase, now_s
            if outcome.phase == "warming up":
                self._opened(outcome)
        left = available_octets()
        if left < self._holding.spare_octets and not self.held["stopped_for_memory"]:
            self.held |= {"stopped_for_memory": True, "open_when_stopped": outcome.tally.live}
            self._fleet_of().finish()
        messages, opened = outcome.tally.messages, outcome.tally.opened
        if (
            messages >= opened
            and "echo_from_each_s" not in self.held
            and self._phase == "warming up"
        ):
            self.held["echo_from_each_s"] = round(now_s - self._since_s, 2)
        if self._phase == "holding":
            self._trigger.touch()
            if messages >= 2 * opened and "message_to_each_s" not in self.held:
                self.held["message_to_each_s"] = round(now_s - self._since_s, 2)
                self._fleet_of().finish()

    def _opened(self, outcome: Outcome) -> None:
        opened = max(1, outcome.tally.opened)
        used = self.memory_before - available_octets()
        server = outcome.server_memory
        self.held |= {
            "open_at_once": outcome.tally.live,
            "seconds_to_open": round(outcome.tally.last_outcome_s - outcome.tally.first_dial_s, 2),
            "octets_each_in_all": round(used / opened),
            "memory_in_all_octets": used,
        }
        if {"before", "opening"} <= server.keys():
            grown = server["opening"] - server["before"]
            self.held |= {
                "server_octets_each": round(grown / opened),
                "server_octets": server["opening"],
            }


def hold(
    peer: Peer, holding: Holding, *, say: Callable[[str], None], teller: Callable[[Outcome], None]
) -> dict[str, Any]:
    """The whole run; `held` has the figures, `storm` the load tester's document. Raises
    ServerFailed.
    """
    with tempfile.TemporaryDirectory() as folder:
        trigger = Path(folder) / "everyone"
        setup = Setup(
            workers=holding.workers,
            environ=(("BENCH_TRIGGER", str(trigger)),),
            more=holding.server_args,
        )
        with serving(peer, setup, cores=frozenset()) as server:
            plan = plan_for(
                server.port,
                "/",
                mode="hold",
                connections=holding.connections,
                burst=holding.burst,
                interval_s=holding.interval_s,
                timeout_s=holding.timeout_s,
                processes=holding.processes,
                payload=b"from everyone",
                touch=True,
                warmup_s=holding.limit_s / 4 + CALM_S,
                duration_s=holding.limit_s,
            )
            say(f"{peer.name}: {holding.connections:,} to hold, {holding.workers} workers")
            watch = Watch(lambda: fleet, holding, trigger, teller)
            fleet = Fleet(plan, server_pids=(server.pid,), on_tick=watch)
            found = document(fleet.run())
    exact = found["messages"]["per_channel"]
    watch.held["channels_by_messages"] = exact
    watch.held["all_had_both"] = exact == {"2": found["opened"]}
    return {"holding": asdict(holding), "held": watch.held, "storm": found}


def available_octets() -> int:
    """Memory that may still be had (MemAvailable in proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")
