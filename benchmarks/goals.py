"""What the project set out to reach beside the best of the others, and what a run reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.peers import OURS

REFERENCE = "uvicorn"  # the one that users come from


@dataclass(frozen=True, slots=True)
class Goal:
    """So many times the best peer's rate, or its CPU time for one operation; of memory, so much
    less.
    """

    scenario: str
    wanted: float


GOALS = (
    Goal("echo-32-binary-1", 1.7),
    Goal("echo-32-binary-16", 3.5),
    Goal("fan-out", 1.7),
    Goal("echo-deflate-1", 1.5),
    Goal("opens", 3.0),
    Goal("idle-memory", 3.0),
    Goal("http", 1.5),
    Goal("framework-json", 1.1),
)


def goals_table(scenarios: dict[str, Any]) -> str:
    """A row for each goal whose scenario was run, in Markdown: times the best peer, and which one
    that is; times the reference.
    """
    lines = [
        f"| | goal | rate, best peer | CPU, best peer | rate, {REFERENCE} | CPU, {REFERENCE} |",
        "|---|---|---|---|---|---|",
    ]
    for goal in GOALS:
        scenario = scenarios.get(goal.scenario)
        if scenario is None or OURS not in scenario["peers"]:
            continue
        medians = {name: one["median"] for name, one in scenario["peers"].items()}
        cells = [scenario["title"], f"{goal.wanted:g}"]
        first = next(iter(scenario["columns"]))
        for names in (set(medians) - {OURS}, {REFERENCE} & set(medians)):
            # a peer that was offered compression and sent plain messages did other work
            peers = {name for name in names if medians[name].get("deflated") != 0}
            less_is_better = scenario["less_is_better"]
            cells.append(_times(medians, peers, first, less_is_better=less_is_better))
            cells.append(_times(medians, peers, "cpu_us", less_is_better=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _times(
    medians: dict[str, dict[str, float]], peers: set[str], metric: str, *, less_is_better: bool
) -> str:
    """How many times better than the best of `peers` ours is, and who that is if there are more."""
    found = {name: medians[name][metric] for name in peers if medians[name].get(metric)}
    ours = medians[OURS].get(metric)
    if not found or not ours:
        return ""
    best = (min if less_is_better else max)(found, key=lambda name: found[name])
    times = found[best] / ours if less_is_better else ours / found[best]
    return f"{times:.2f}" if len(peers) == 1 else f"{times:.2f} ({best})"
