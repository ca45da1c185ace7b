"""Writes the tables of docs/metrics.md from the catalogue; with --check it only says if they are
stale.

python docs/generate_metrics.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from asgi_poller.monitor.catalogue import SECTIONS, Metric

PAGE = Path(__file__).with_name("metrics.md")
_BEGIN = "<!-- Made by docs/generate_metrics.py from asgi_poller/monitor/catalogue.py. -->"
_END = "<!-- End of what is made. -->"


def tables() -> str:
    """One table for each section of the catalogue."""
    parts = []
    for title, metrics in SECTIONS:
        rows = "\n".join(map(_row, metrics))
        parts.append(
            f"### {title}\n\n| | kind | unit | labels | |\n|---|---|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |"


def page(current: str) -> str:
    """`current` with the tables of now between the two marks."""
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    made, count = pattern.subn(lambda _: f"{_BEGIN}\n\n{tables()}\n{_END}", current)
    if count != 1:
        raise SystemExit(f"{PAGE.name} has its two marks {count} times")
    return made


def main(arguments: list[str]) -> int:
    """Writes the page; with --check, 1 if it would change."""
    current = PAGE.read_text(encoding="utf-8")
    wanted = page(current)
    if "--check" in arguments:
        if current == wanted:
            return 0
        print(f"{PAGE.name} is out of date: run python docs/generate_metrics.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
