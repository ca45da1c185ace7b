"""What is seen while a run goes on, by rich: one panel on a terminal, a line every few seconds
elsewhere.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from asgi_poller.storm.fleet import Outcome
from asgi_poller.storm.stats import CAUSES, Histogram
from asgi_poller.storm.summary import CAUSE_WORDS, rows

REFRESH_S = 0.25
LINE_S = 5.0
RATE_SPAN_S = 1.0


class Progress:
    """Shows an outcome that grows; the fleet's thread calls `tick`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )
        self._next_s = 0.0

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tick(self, outcome: Outcome) -> None:
        """Show it, if the last showing is long enough ago."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (REFRESH_S if self._live is not None else LINE_S)
        if self._live is not None:
            self._live.update(_panel(outcome), refresh=True)
        else:
            self._console.print(_line(outcome), highlight=False)


def _pace(outcome: Outcome) -> tuple[float, float]:
    """Opened and messages per second over the last RATE_SPAN_S."""
    if not outcome.samples:
        return 0.0, 0.0
    last = outcome.samples[-1]
    first = next(one for one in outcome.samples if one.at_s >= last.at_s - RATE_SPAN_S)
    span_s = last.at_s - first.at_s
    if span_s <= 0:
        return 0.0, 0.0
    return (last.opened - first.opened) / span_s, (last.messages - first.messages) / span_s


def _line(outcome: Outcome) -> str:
    tally = outcome.tally
    opened_per_s, messages_per_s = _pace(outcome)
    return (
        f"{outcome.samples[-1].at_s:6.1f} s  {outcome.phase}: "
        f"{tally.opened:,} of {outcome.plan.connections:,} opened, "
        f"{tally.failures:,} failed, {opened_per_s:,.0f} opened/s"
        + (f", {messages_per_s:,.0f} messages/s" if tally.messages else "")
    )


def _panel(outcome: Outcome) -> Table:
    tally, plan = outcome.tally, outcome.plan
    opened_per_s, messages_per_s = _pace(outcome)
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "[bold]" + outcome.phase, f"{outcome.samples[-1].at_s:.1f} s" if outcome.samples else ""
    )
    table.add_row("attempted", f"{tally.attempted:,} of {plan.connections:,}")
    table.add_row("opened", f"[green]{tally.opened:,}[/]  ({opened_per_s:,.0f}/s)")
    table.add_row("failed", f"[red]{tally.failures:,}[/]" if tally.failures else "0")
    for cause in CAUSES:
        if tally.failed.get(cause):
            table.add_row(f"  {CAUSE_WORDS[cause]}", f"[red]{tally.failed[cause]:,}[/]")
    for status, count in sorted(tally.statuses.items()):
        table.add_row(f"    HTTP {status}", f"[red]{count:,}[/]")
    if tally.lost:
        table.add_row("opened, then lost", f"[red]{tally.lost.total():,}[/]")
    table.add_row("open now", f"{tally.live:,}")
    table.add_row("time to open", _points(outcome.opening))
    if tally.messages:
        table.add_row("messages", f"{tally.messages:,}  ({messages_per_s:,.0f}/s)")
    if outcome.round_trips.total:
        table.add_row("round trip", _points(outcome.round_trips))
    if outcome.samples and outcome.samples[-1].queue is not None:
        last = outcome.samples[-1]
        table.add_row("accept queue", f"{last.queue:,}, {last.overflows or 0:,} overflows")
    return table


def _points(histogram: Histogram) -> str:
    if not histogram.total:
        return "none yet"
    return (
        f"p50 {histogram.percentile_ms(0.5):,.1f} ms  p99 {histogram.percentile_ms(0.99):,.1f} ms"
    )


def show_summary(console: Console, found: dict[str, Any]) -> None:
    """The table at the end."""
    table = Table(
        title=found["plan"]["url"],
        title_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2),
    )
    for name, value in rows(found):
        failing = name.strip().startswith(("failed", "opened, then")) and not value.startswith("0")
        table.add_row(name, f"[red]{value}[/]" if failing else value)
    console.print(table)
