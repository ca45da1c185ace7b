"""What the project set out to reach, and what a run reached: python -m benchmarks.goals RESULT ...

A goal is a ratio of one run: how many times a peer's figure is ours (where less is better), or ours
the peer's (where more is). The exit code is 1 where one is missed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.peers import COMPILED, DIRECT, LOOPS, OURS, WORKERS, is_ours

# A peer's name that stands for the best of all others, and for our own server at another commit.
BEST, BEFORE = "the best peer", "before"
RATES = ("per_s",)  # metrics of which more is better
UNITS = {"cpu_us": "µs", "octets": "octets", "p99_ms": "ms", "failed": "failed", "mib": "MiB"}
UNITS |= {"per_s": "/s"}
HEADINGS = {"cpu_us": "", "p99_ms": ", p99", "per_s": ", rate", "mib": ", memory"}
# The rounds of one run differ by so much; "no slower" means no slower than that.
NOISE = 0.02


@dataclass(frozen=True, slots=True)
class Goal:
    """`build` of ours is to be `wanted` times as good as `peer` in a scenario's `metric`, or, with
    `other`, as itself in that scenario.
    """

    scenario: str
    peer: str
    wanted: float
    metric: str = "cpu_us"
    build: str = COMPILED
    other: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """Both builds are to have no more than `at_most` of a scenario's metric."""

    scenario: str
    metric: str
    at_most: float
    build: str = COMPILED


@dataclass(frozen=True, slots=True)
class Row:
    """A goal as a run shows it; `reached` is empty and `met` None where it was not measured."""

    title: str
    build: str
    against: str
    wanted: str
    reached: str
    met: bool | None


CPU_SCENARIOS = (
    "http",
    "framework-json",
    "echo-32-binary-1",
    "echo-32-binary-16",
    "echo-4k-binary-1",
    "echo-64k-binary-1",
    "framework-echo-1",
    "opens",
)
FAN_OUTS = ("fan-out", "fan-out-deflate", "framework-fan-out", "framework-fan-out-deflate")
BURSTS = ("burst", "burst-busy")
# A run for the goals: about 20 minutes.
SCENARIOS = (*CPU_SCENARIOS, *FAN_OUTS, "idle-memory", *BURSTS)
PEERS = (OURS, COMPILED, DIRECT, "peregrine", "h2corn", "uvicorn", "granian")

GOALS: tuple[Goal | Limit, ...] = (
    Goal("framework-json", "peregrine", 1.0),
    Goal("framework-json", "uvicorn", 1.5),
    Goal("framework-json", "granian", 1.3),
    Goal("echo-32-binary-1", "peregrine", 1.0),
    Goal("echo-32-binary-1", "uvicorn", 2.1),
    Goal("framework-echo-1", "peregrine", 1.0),
    Goal("framework-echo-1", "uvicorn", 2.1),
    Goal("echo-32-binary-16", "h2corn", 1.4),
    Goal("echo-32-binary-16", "peregrine", 3.5),
    Goal("http", "peregrine", 0.85),
    Goal("http", "h2corn", 1.1),
    Goal("http", "uvicorn", 2.1),
    Goal("opens", "peregrine", 0.75),
    Goal("opens", "h2corn", 1.6),
    Goal("opens", "uvicorn", 4.5),
    Goal("echo-4k-binary-1", "uvicorn", 1.8),
    Goal("echo-64k-binary-1", "uvicorn", 1.35),
    *(Goal(name, BEFORE, 1 - NOISE, build=OURS) for name in CPU_SCENARIOS),
    *(Limit("idle-memory", "octets", 5600, build) for build in (OURS, COMPILED)),
    *(Limit(name, "failed", 0) for name in BURSTS),
    *(Goal(name, BEST, 2.0, metric="p99_ms") for name in BURSTS),
    Goal("opens", OURS, 1 / 1.05, build=DIRECT),
    Goal("topics", "C, only writes", 1 / 1.25),
    Goal("topics", "the loop", 1 / 0.6, other="topics-loop"),
    Goal("topics-deflate", "not compressed", 1 / 1.3, other="topics"),
    Goal("workers-topics-2", "one worker", 1 / 1.3, metric="p99_ms", other="workers-topics-1"),
    Goal("computing-echo", WORKERS, 0.95, metric="per_s", build=LOOPS),
    Goal("computing-echo", WORKERS, 2.0, metric="mib", build=LOOPS),
)


def rows(scenarios: dict[str, Any]) -> Iterator[Row]:
    """Each goal whose scenario was run with the build that it is about. Where the compiled build
    was not run, pure Python stands for it.
    """
    seen: set[Goal | Limit] = set()
    for goal in GOALS:
        measured = scenarios.get(goal.scenario, {"peers": {}})["peers"]
        if goal.build == COMPILED and COMPILED not in measured:
            goal = replace(goal, build=OURS)
        if goal.build not in measured or goal in seen:
            continue
        seen.add(goal)
        scenario = scenarios[goal.scenario]
        if isinstance(goal, Limit):
            yield from _limit_row(scenario, goal)
        else:
            yield from _goal_row(scenario, goal, scenarios.get(goal.other, {"peers": {}}))


def _limit_row(scenario: dict[str, Any], limit: Limit) -> Iterator[Row]:
    ours = scenario["peers"][limit.build]["median"].get(limit.metric)
    wanted = f"{limit.at_most:,g} {UNITS[limit.metric]} at most"
    met = None if ours is None else ours <= limit.at_most
    reached = "" if ours is None else f"{ours:,g}"
    yield Row(scenario["title"], limit.build, "", wanted, reached, met)


def _goal_row(scenario: dict[str, Any], goal: Goal, other: dict[str, Any]) -> Iterator[Row]:
    """Nothing where a goal is about a commit that was not run."""
    ours = scenario["peers"][goal.build]["median"].get(goal.metric)
    name, theirs = _beside(scenario, goal)
    if goal.other:
        theirs = other["peers"].get(goal.build, {"median": {}})["median"].get(goal.metric)
    if goal.peer == BEFORE and name is None:
        return
    against = (name or goal.peer) + HEADINGS[goal.metric]
    reached, met = "", None
    if ours and theirs:
        times = ours / theirs if goal.metric in RATES else theirs / ours
        reached = f"{times:.2f} ({theirs:,.4g} : {ours:,.4g} {UNITS[goal.metric]})"
        met = times >= goal.wanted
    elif goal.peer == BEST and any(not is_ours(one) for one in scenario["peers"]):
        reached, met = "all lost some", True
    yield Row(scenario["title"], goal.build, against, f"{goal.wanted:.2f}", reached, met)


def _beside(scenario: dict[str, Any], goal: Goal) -> tuple[str | None, float | None]:
    """The peer that a goal compares with, and its figure. Where everybody is meant, those that lost
    connections do not count.
    """
    medians = {name: one["median"] for name, one in scenario["peers"].items()}
    if goal.peer == BEFORE:
        name = next((name for name in medians if name.startswith(f"{OURS}, commit ")), None)
        return name, medians[name].get(goal.metric) if name else None
    if goal.peer != BEST:
        return goal.peer, medians.get(goal.peer, {}).get(goal.metric)
    found = {
        name: one[goal.metric]
        for name, one in medians.items()
        if not is_ours(name) and not one.get("failed") and one.get(goal.metric)
    }
    if not found:
        return None, None
    best = min(found, key=lambda name: found[name])
    return best, found[best]


def goals_table(scenarios: dict[str, Any]) -> str:
    """The goals of what was run, in Markdown."""
    lines = ["| | build | against | wanted | reached | |", "|---|---|---|---|---|---|"]
    for row in rows(scenarios):
        verdict = {None: "not measured", True: "met", False: "**missed**"}[row.met]
        cells = (row.title, row.build, row.against, row.wanted, row.reached, verdict)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(results: tuple[Path, ...]) -> None:
    """Print what RESULTS reached of each goal; of several the later ones win."""
    scenarios: dict[str, Any] = {}
    for path in results:
        scenarios |= json.loads(path.read_text())["scenarios"]
    click.echo(goals_table(scenarios))
    sys.exit(any(row.met is False for row in rows(scenarios)))


if __name__ == "__main__":
    main()
