"""Horizontal bar charts as SVG files, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, ROW, TOP, LABEL, VALUE = 720, 26, 56, 170, 110
OURS_COLOUR, THEIRS_COLOUR = "#0072B2", "#8C8C8C"
STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:13px;fill:#1f2328}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: median, with its spread as a whisker."""

    name: str
    value: float
    low: float
    high: float
    ours: bool


def bar_chart(title: str, subtitle: str, bars: Sequence[Bar]) -> str:
    """The chart, bars in the order given."""
    height = TOP + ROW * len(bars) + 12
    top = max((bar.high for bar in bars), default=0.0) or 1.0
    span = WIDTH - LABEL - VALUE
    parts = [
        f'<text x="8" y="22" style="font-size:16px;font-weight:600">{escape(title)}</text>',
        f'<text x="8" y="42" opacity="0.75">{escape(subtitle)}</text>',
    ]
    for place, bar in enumerate(bars):
        y = TOP + ROW * place
        width = max(1.0, span * bar.value / top)
        colour = OURS_COLOUR if bar.ours else THEIRS_COLOUR
        low, high = (LABEL + span * end / top for end in (bar.low, bar.high))
        weight = ' style="font-weight:600"' if bar.ours else ""
        shown = f"{bar.value:,.0f}" if bar.value >= 1000 else f"{bar.value:.4g}"
        after = max(LABEL + width, high) + 6
        parts += (
            f'<text x="{LABEL - 8}" y="{y + 16}" text-anchor="end"{weight}>'
            f"{escape(bar.name)}</text>",
            f'<rect x="{LABEL}" y="{y + 3}" width="{width:.1f}" height="{ROW - 8}" '
            f'fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 12}" y2="{y + 12}" stroke="#D55E00"/>',
            f'<text x="{after:.1f}" y="{y + 16}"{weight}>{shown}</text>',
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def standing_alone(drawn: str) -> str:
    """An SVG made for a page that gives it its colour, as a file: readable on light and dark."""
    style = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
    head, _, rest = drawn.partition(">")
    return f"{head}>{style}{rest}\n"
