"""The HTML report: one page, self-contained (inline SVG, inline style, no script), from a summary
document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import Any

from asgi_poller.storm.summary import CAUSE_WORDS, rows
from asgi_poller.storm.svg import Series, histogram, line_chart

# Client processes report five times a second: a rate over less than two reports is noise.
RATE_STEP_S = 0.4

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } code { overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; }
td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
td:first-child { white-space: pre; opacity: .8; }
td:last-child { font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; margin: 1rem 0; } .failed { color: #d55e00; font-weight: 600; }
"""


def page(found: dict[str, Any]) -> str:
    """The report of one run. The document itself is in it too, for programs: `<script
    type="application/json">`.
    """
    failed = found["failed"]["total"]
    verdict = (
        f'<p class="failed">{failed:,} of {found["attempted"]:,} attempts failed.</p>'
        if failed
        else f"<p>All {found['attempted']:,} attempts opened.</p>"
    )
    if found["interrupted"]:
        verdict += (
            '<p class="failed">The run was interrupted: this is what there was until then.</p>'
        )
    table = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows(found)
    )
    # "</" would end the script element early (HTML, 13.2.5.15); JSON allows the escape.
    data = json.dumps(found).replace("</", "<\\/")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>asgi-poller-storm: {escape(found['plan']['url'])}</title>"
        f"<style>{STYLE}</style></head><body>"
        f"<h1>asgi-poller-storm <code>{escape(found['plan']['url'])}</code></h1>"
        f"<p>{escape(_sentence(found))}</p>{verdict}<table>{table}</table>{''.join(_charts(found))}"
        f'<script type="application/json" id="run">{data}</script></body></html>\n'
    )


def _sentence(found: dict[str, Any]) -> str:
    plan = found["plan"]
    what = {
        "open": "opened and closed",
        "hold": f"opened and held for {plan['duration_s']:g} s",
        "echo": f"opened, then echoing {plan['payload_octets']:,} octets, "
        f"{plan['in_flight']} in flight",
        "fan-out": f"opened, then sent {plan['payload_octets']:,} octets each, one message to all",
    }[plan["mode"]]
    return (
        f"{plan['connections']:,} connections in bursts of {plan['burst']:,} "
        f"every {1000 * plan['interval_s']:g} ms, "
        f"{what}; {plan['processes']} client processes; started {found['started_at']}."
    )


def _charts(found: dict[str, Any]) -> Iterator[str]:
    times = _column(found, "at_s")
    yield line_chart(
        "Attempts",
        [
            Series(name, _over(times, _column(found, name)))
            for name in ("attempted", "opened", "failed", "live")
        ],
        x_label="seconds",
        y_label="connections",
    )
    yield line_chart(
        "Rates",
        [
            Series("opened per second", _slopes(times, _column(found, "opened"))),
            Series("failed per second", _slopes(times, _column(found, "failed"))),
        ],
        x_label="seconds",
        y_label="per second",
    )
    causes = {
        CAUSE_WORDS[cause]: n for cause, n in found["failed"].items() if cause != "total" and n
    }
    if causes:
        yield (
            "<p>Failed: "
            + escape(", ".join(f"{n:,} {cause}" for cause, n in causes.items()))
            + ".</p>"
        )
    yield histogram(
        "Time to open", found["open_ms"]["histogram"], x_label="milliseconds", y_label="connections"
    )
    if found["round_trip_ms"]["count"]:
        bars = found["round_trip_ms"]["histogram"]
        yield histogram("Round trip", bars, x_label="milliseconds", y_label="messages")
        yield line_chart(
            "Messages per second",
            [Series("received", _slopes(times, _column(found, "messages")))],
            x_label="seconds",
            y_label="per second",
        )
    yield from _server_charts(found, times)


def _server_charts(found: dict[str, Any], times: list[float | None]) -> Iterator[str]:
    if not found["server"]["local"]:
        yield "<p>The server is not on this machine's loopback: no accept queue to show.</p>"
        return
    yield line_chart(
        "Server's accept queue",
        [Series("connections waiting for accept()", _over(times, _column(found, "queue")))],
        x_label="seconds",
        y_label="connections",
    )
    yield line_chart(
        "Listen overflows",
        [
            Series(
                "dropped because the accept queue was full",
                _over(times, _column(found, "overflows")),
            )
        ],
        x_label="seconds",
        y_label="since the start",
    )


def _column(found: dict[str, Any], name: str) -> list[float | None]:
    at = found["timeline_columns"].index(name)
    return [row[at] for row in found["timeline"]]


def _over(times: list[float | None], values: list[float | None]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(times, values, strict=True) if x is not None and y is not None]


def _slopes(times: list[float | None], values: list[float | None]) -> list[tuple[float, float]]:
    """Per second, over steps in which every client process has reported."""
    points: list[tuple[float, float]] = []
    for point in _over(times, values):
        if not points or point[0] - points[-1][0] >= RATE_STEP_S:
            points.append(point)
    return [
        (x, max(0.0, (y - y_before) / (x - x_before)))
        for (x_before, y_before), (x, y) in pairwise(points)
        if x > x_before
    ]
