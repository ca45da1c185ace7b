"""The one table of the README: ours beside the four peers that come nearest, from one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import COMPILED, OURS, is_ours

NEAREST = 4


@dataclass(frozen=True, slots=True)
class Line:
    """A row: its words, and the scenario and metric that it shows."""

    label: str
    scenario: str
    metric: str = "cpu_us"


LINES = (
    Line("WebSocket echo, 32 bytes, µs", "echo-32-binary-1"),
    Line("the same, 16 in flight", "echo-32-binary-16"),
    Line("4 KiB", "echo-4k-binary-1"),
    Line("64 KiB", "echo-64k-binary-1"),
    Line("in FastAPI, 32 bytes", "framework-echo-1"),
    Line("Message to 1,000 WebSockets, µs each", "fan-out"),
    Line("Opening a WebSocket, µs", "opens"),
    Line("HTTP GET, µs", "http"),
    Line("HTTP GET, FastAPI JSON, µs", "framework-json"),
    Line("Memory of an idle WebSocket, bytes", "idle-memory", "octets"),
    Line("18,000 connect at once: p99 ms", "burst", "p99_ms"),
    Line("16,000 connect to a busy application: failed", "burst-busy", "failed"),
)


def nearest(scenarios: dict[str, Any]) -> list[str]:
    """The peers with the least CPU time beside ours (geometric mean of the rows); only those that
    have every row, and of each product the best set-up.
    """
    shown = [line.scenario for line in LINES if line.metric == "cpu_us"]
    medians = [
        {name: one["median"]["cpu_us"] for name, one in scenarios[scenario]["peers"].items()}
        for scenario in shown
        if scenario in scenarios
    ]
    common = set.intersection(*(set(one) for one in medians)) if medians else set()
    score = {
        name: sum(math.log(one[name] / one[OURS]) for one in medians)
        for name in common
        if not is_ours(name) and OURS in common
    }
    best: dict[str, str] = {}
    for name in sorted(score, key=lambda name: score[name]):
        best.setdefault(name.partition(",")[0], name)
    return list(best.values())[:NEAREST]


def summary_table(scenarios: dict[str, Any]) -> str:
    """Ours, compiled and as pure Python, and the nearest peers: the figure, and in brackets how
    many times ours (the first column) it is.
    """
    peers = nearest(scenarios)
    measured = {name for one in scenarios.values() for name in one["peers"]}
    builds = [name for name in (COMPILED, OURS) if name in measured]
    heads = [f"**{name}**" for name in builds] + peers
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for line in LINES:
        if line.scenario not in scenarios:
            continue
        found = scenarios[line.scenario]["peers"]
        values = [found.get(name, {}).get("median", {}).get(line.metric) for name in builds + peers]
        first = values[0]
        cells = [
            _cell(value, first if place >= len(builds) else None)
            for place, value in enumerate(values)
        ]
        lines.append(f"| {line.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None, ours: float | None) -> str:
    """A figure with three digits, and how many times `ours` it is."""
    if value is None:
        return ""
    shown = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{shown} ({value / ours:.2f})" if ours else shown
