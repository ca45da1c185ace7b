"""Interleaved rounds: in each, every peer takes its turn at every set-up, so that what the machine
does meanwhile falls on all of them. The figures are medians over the rounds, with their spread.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import environments, machine
from benchmarks.interpreters import CURRENT, Interpreter
from benchmarks.measures import Asked, Metrics
from benchmarks.peers import APPLICATIONS, Peer
from benchmarks.scenarios import Scenario, Setup
from benchmarks.servers import Server, ServerFailed, free_port

SCHEMA = 1
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Run:
    """What is run, and how long. `budget_s` ends it: no measure begins after so many seconds.
    `kind` is what a result says of itself: run, quick or goals. The scenarios named in `once` are
    measured in the first round only.
    """

    peers: tuple[Peer, ...]
    scenarios: tuple[Scenario, ...]
    rounds: int
    seconds: float
    warmup_s: float
    scale: float
    budget_s: float = float("inf")
    interpreter: Interpreter = CURRENT
    kind: str = "run"
    once: tuple[str, ...] = ()


@dataclass(slots=True)
class Results:
    """What was found: per (scenario, peer) the metrics of each round, and what went wrong."""

    runs: dict[tuple[str, str], list[Metrics]] = field(default_factory=dict)
    problems: dict[tuple[str, str], str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    complete: bool = True


class Runner:
    """Carries out a Run. One thread; the load's processes and the servers are its children."""

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self.run = run
        self.results = Results()
        self._say = say
        self._began_s = time.monotonic()
        self._cores = machine.Cores(frozenset(), frozenset())

    def carry_out(self) -> dict[str, Any]:
        """The whole run; the document of its results."""
        about = machine.describe(self.run.interpreter)
        peers = tuple(self.installed())
        self._cores = machine.cores()
        machine.pin_load()
        self._began_s = time.monotonic()  # making environments is not measuring
        try:
            for number in range(self.run.rounds):
                self._round(peers, number)
        except KeyboardInterrupt:
            self.results.complete = False
            self._say("interrupted: what was measured until now is kept")
        return self._document(about, peers)

    def _round(self, peers: tuple[Peer, ...], number: int) -> None:
        # Another first peer in each round.
        turn = number % max(1, len(peers))
        for setup in dict.fromkeys(one.setup for one in self.run.scenarios):
            for peer in peers[turn:] + peers[:turn]:
                self._visit(peer, setup, number)

    def installed(self) -> Iterator[Peer]:
        """The peers whose environments there are, or can be made."""
        for peer in self.run.peers:
            try:
                versions = environments.prepare(peer, self._say, self.run.interpreter)
            except environments.NotInstalled as problem:
                self.results.skipped[peer.name] = str(problem)
                self._say(f"{peer.name} does not install here and is skipped: {problem}")
                continue
            self.results.versions[peer.name] = {
                name: versions[name] for name in peer.shown if name in versions
            }
            yield peer

    def _visit(self, peer: Peer, setup: Setup, number: int) -> None:
        """One peer's server for one set-up, and every scenario that wants it."""
        wanted = [
            one
            for one in self._scenarios_of(peer)
            if one.setup == setup and (number == 0 or one.name not in self.run.once)
        ]
        if not wanted or self._too_late():
            return
        cores = self._cores.server if setup.pinned else self._cores.all
        try:
            with (
                serving(peer, setup, cores=cores, interpreter=self.run.interpreter) as server,
                self._cores.shared_with_load() if not setup.pinned else nullcontext(),
            ):
                for scenario in wanted:
                    if self._too_late():
                        return
                    self._measure(peer, scenario, server, number)
        except ServerFailed as problem:
            for scenario in wanted:
                self.results.problems[scenario.name, peer.name] = str(problem)
            self._say(f"{peer.name}: {problem}")

    def _scenarios_of(self, peer: Peer) -> Iterator[Scenario]:
        """Those that the peer takes part in; what it cannot do is recorded."""
        for scenario in self.run.scenarios:
            if not peer.takes_part(scenario.name) or not scenario.is_for(peer.name):
                continue
            lacking = [peer.cannot[need] for need in scenario.needs if need in peer.cannot]
            if lacking:
                self.results.problems[scenario.name, peer.name] = ", ".join(lacking)
            else:
                yield scenario

    def _measure(self, peer: Peer, scenario: Scenario, server: Server, number: int) -> None:
        run = self.run
        asked = Asked(server, seconds=run.seconds, warmup_s=run.warmup_s, scale=run.scale)
        try:
            metrics = scenario.measure(asked)
        except Exception as problem:  # one figure that cannot be taken must not cost all others
            self.results.problems[scenario.name, peer.name] = f"{type(problem).__name__}: {problem}"
            self._say(f"round {number + 1}  {scenario.name:24} {peer.name:20} {problem!r}")
            return
        if not server.alive():
            raise ServerFailed(f"died in {scenario.name}: {server.last_words()}")
        self.results.runs.setdefault((scenario.name, peer.name), []).append(metrics)
        shown = ", ".join(
            f"{heading} {metrics[name]:,.10g}"
            for name, heading in scenario.columns.items()
            if name in metrics
        )
        self._say(f"round {number + 1}  {scenario.name:24} {peer.name:20} {shown}")

    def _too_late(self) -> bool:
        late = time.monotonic() - self._began_s > self.run.budget_s
        if late and self.results.complete:
            self.results.complete = False
            self._say(
                f"the time of this run ({self.run.budget_s:.0f} s) is over: the rest is skipped"
            )
        return late

    def _document(self, about: dict[str, Any], peers: tuple[Peer, ...]) -> dict[str, Any]:
        run, results = self.run, self.results
        return {
            "schema": SCHEMA,
            "kind": run.kind,
            "interpreter": run.interpreter.tag,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": about,
            "seconds": run.seconds,
            "rounds": run.rounds,
            "scale": run.scale,
            "complete": results.complete,
            "took_s": round(time.monotonic() - self._began_s, 1),
            "peers": {
                peer.name: {"versions": results.versions[peer.name], "command": peer.command}
                for peer in peers
            },
            "skipped": results.skipped,
            "scenarios": {
                one.name: {
                    "title": one.title,
                    "columns": dict(one.columns),
                    "less_is_better": one.less_is_better,
                    "peers": {
                        peer.name: condensed(rounds)
                        for peer in peers
                        if (rounds := results.runs.get((one.name, peer.name)))
                    },
                    "problems": {
                        peer: problem
                        for (scenario, peer), problem in results.problems.items()
                        if scenario == one.name
                    },
                }
                for one in run.scenarios
            },
        }


def serving(
    peer: Peer, setup: Setup, *, cores: frozenset[int], interpreter: Interpreter = CURRENT
) -> Server:
    """The peer's server for a set-up, to be entered."""
    port = free_port()
    folder = environments.bin_folder(peer, interpreter)
    words = peer.words(bin_folder=folder, app=setup.app, port=port, workers=setup.workers)
    words += setup.more.split()
    extra = {name: value.format(bin=folder) for name, value in peer.extra_environ.items()}
    paths = [str(APPLICATIONS), extra.get("PYTHONPATH", "")]
    environ = {**extra, "PYTHONPATH": ":".join(filter(None, paths)), **dict(setup.environ)}
    if interpreter.free_threaded:
        environ["PYTHON_GIL"] = "0"  # also beside a module that asks for the GIL
    # Not where this runs: a server must not import our package from there.
    return Server(words, port=port, environ=environ, cores=cores, cwd=APPLICATIONS)


def condensed(rounds: list[Metrics]) -> dict[str, Any]:
    """Median, least and most of each metric, and every round's own figures."""
    names = rounds[0].keys()
    return {
        "median": {name: statistics.median(one[name] for one in rounds) for name in names},
        "min": {name: min(one[name] for one in rounds) for name in names},
        "max": {name: max(one[name] for one in rounds) for name in names},
        "rounds": rounds,
    }


def save(found: dict[str, Any], path: Path) -> None:
    """Write a result so that it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    draft.replace(path)
