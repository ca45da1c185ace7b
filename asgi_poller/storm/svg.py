"""Plots as SVG text: lines over time, and bars over a logarithmic axis. As much as our reports
need, and no script.

Colours are the Okabe-Ito set, which colour-blind readers can tell apart; text and axes take the
page's own colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
WIDTH, HEIGHT = 760, 280
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 40, 44
TICK_COUNT = 5
# More points than this cannot be told apart at this width; a line keeps the highest of each group.
POINT_LIMIT_COUNT = 600


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend and its (x, y) points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


def number(value: float) -> str:
    """A tick's label: 1,500 → 1.5k."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def ticks(top: float) -> list[float]:
    """About TICK_COUNT round values from 0 to at least `top`."""
    if top <= 0:
        return [0.0, 1.0]
    raw = top / TICK_COUNT
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    return [step * index for index in range(math.ceil(top / step - 1e-9) + 1)]


def line_chart(title: str, series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Lines over a common x axis that starts at 0; words where no series has two points."""
    if all(len(one.points) < 2 for one in series):
        return _nothing(title)
    shown = [Series(one.name, _thinned(one.points)) for one in series if one.points]
    x_ticks = ticks(max((x for one in shown for x, _ in one.points), default=0.0))
    y_ticks = ticks(max((y for one in shown for _, y in one.points), default=0.0))

    def place(x: float, y: float) -> str:
        return f"{_x(x / x_ticks[-1]):.1f},{_y(y / y_ticks[-1]):.1f}"

    parts = [_frame(title, x_label, y_label), _y_axis(y_ticks)]
    parts += [_x_tick(tick / x_ticks[-1], number(tick)) for tick in x_ticks]
    for index, one in enumerate(shown):
        points = " ".join(place(x, y) for x, y in one.points)
        colour = COLOURS[index % len(COLOURS)]
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
    parts.append(_legend([one.name for one in shown]))
    return _svg(title, parts)


def histogram(
    title: str, bars: Sequence[tuple[float, float, int]], *, x_label: str, y_label: str
) -> str:
    """Bars of (from, to, count) over a logarithmic x axis; words where there are none."""
    if not bars:
        return _nothing(title)
    parts = [_frame(title, x_label, y_label)]
    y_ticks = ticks(max(count for _, _, count in bars))
    parts.append(_y_axis(y_ticks))
    low, high = math.log10(max(bars[0][0], 1e-6)), math.log10(max(bars[-1][1], 2e-6))
    span = high - low
    for start, end, count in bars:
        left = _x((math.log10(max(start, 1e-6)) - low) / span)
        right = _x((math.log10(max(end, 1e-6)) - low) / span)
        top = _y(count / y_ticks[-1])
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 0.5):.1f}" '
            f'height="{_y(0) - top:.1f}" fill="{COLOURS[0]}">'
            f"<title>{start:.3g} to {end:.3g}: {count:,}</title></rect>"
        )
    for power in range(math.floor(low), math.ceil(high) + 1):
        for factor in (1, 2, 5):
            at = (math.log10(factor) + power - low) / span
            if 0 <= at <= 1:
                parts.append(_x_tick(at, number(factor * 10.0**power)))
    return _svg(title, parts)


def _nothing(title: str) -> str:
    """In the place of an empty picture, which looks as if something had gone wrong."""
    return f"<p>{escape(title)}: too little was measured to draw it.</p>"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    group = -(-len(points) // POINT_LIMIT_COUNT) or 1
    return [
        max(points[at : at + group], key=lambda point: point[1])
        for at in range(0, len(points), group)
    ]


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", size: int = 11, more: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="currentColor"{more}>{escape(text)}</text>'
    )


def _frame(title: str, x_label: str, y_label: str) -> str:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f' transform="rotate(-90 14 {middle:.0f})"'
    return (
        _text(LEFT, 18, title, anchor="start", size=14, more=' font-weight="600"')
        + _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label)
        + _text(14, middle, y_label, more=turned)
    )


def _y_axis(values: Sequence[float]) -> str:
    parts = []
    for value in values:
        y = _y(value / values[-1])
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="currentColor" stroke-opacity="{0.6 if not value else 0.15}"/>'
        )
        parts.append(_text(LEFT - 6, y + 4, number(value), anchor="end"))
    return "".join(parts)


def _x_tick(share: float, label: str) -> str:
    x, y = _x(share), _y(0)
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y + 4:.1f}" stroke="currentColor"/>'
    return line + _text(x, y + 16, label)


def _legend(names: Sequence[str]) -> str:
    parts, x = [], float(LEFT)
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{x:.0f}" y="26" width="10" height="4" fill="{colour}"/>')
        parts.append(_text(x + 14, 32, name, anchor="start"))
        x += 32 + 6.4 * len(name)
    return "".join(parts)


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}" font-family="system-ui, sans-serif">'
        f"{''.join(parts)}</svg>"
    )
