"""How `asgi-poller status` looks, by rich: the facts of the dashboard.

On a terminal it has colours and is drawn again each second; elsewhere it is plain
lines, one block a time.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asgi_poller.commands.status_words import NONE, age, duration, rate, size, whole
from asgi_poller.metrics.histogram import NO_DURATIONS, HistogramValue
from asgi_poller.metrics.loop_counts import CLOSED_BY
from asgi_poller.metrics.snapshot import Snapshot, WorkerSnapshot
from asgi_poller.monitor.reading import Between, accepted, closes, refusals

PLAIN_WIDTH = 130  # columns, where nobody says how many there are
WIDE = 110  # columns from which on tables stand side by side
BAR_WIDTH = 20
EVENTS_SHOWN = 8

STATES = {"starting": "cyan", "serving": "green", "draining": "yellow"}
_KINDS = {"started": "green", "recovered": "green", "blocked": "yellow"} | dict.fromkeys(
    ("crashed", "lost", "failed"), "bold red"
)


class StatusView:
    """Shows a server's status. `place` is where it was asked."""

    def __init__(self, place: str) -> None:
        self._place = place
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # not every terminal has all of the signs
        # Texts come from elsewhere: nothing in them is rich's markup.
        self._console = Console(markup=False, emoji=False, highlight=False)
        if not self._console.is_terminal:
            self._console.width = PLAIN_WIDTH

    def print(self, between: Between) -> None:
        """Once."""
        self._console.print(self._all(between, None))

    @contextlib.contextmanager
    def watching(self) -> Iterator[Callable[[Between, str | None], None]]:
        """Gives what shows it again and again; the second argument says why it is no news."""
        if not self._console.is_terminal:
            yield lambda between, trouble: self._console.print(self._all(between, trouble))
            return
        with Live(console=self._console, screen=True, auto_refresh=False) as live:

            def show(between: Between, trouble: str | None) -> None:
                live.update(self._all(between, trouble), refresh=True)

            yield show

    def _all(self, between: Between, trouble: str | None) -> RenderableType:
        snapshot = between.after
        parts: list[RenderableType] = [self._head(snapshot)]
        if trouble is not None:
            parts.append(Text(f"These figures are old: {clean(trouble)}", "bold red"))
        left, right = [_now(between), _refusals(snapshot)], [_loops(snapshot), _closes(snapshot)]
        if self._console.width >= WIDE:
            beside = Table.grid(padding=(0, 6))
            beside.add_row(Group(*left), Group(*right))
            parts.append(beside)
        else:
            parts += [*left, *right]
        parts += [_workers(between), _listeners(snapshot), _events(snapshot)]
        return Group(*parts)

    def _head(self, snapshot: Snapshot) -> Text:
        up = age(snapshot.time - snapshot.started_at)
        listens = ", ".join(clean(each.url) for each in snapshot.listeners) or NONE
        return Text.assemble(
            ("asgi-poller", "bold"),
            f" {clean(snapshot.version)} ({clean(snapshot.build)})  ",
            (f"● {clean(snapshot.state)}", STATES.get(snapshot.state, "")),
            f"  up {up}  {clean(snapshot.role)} {snapshot.pid}\n"
            f"listens on {listens}, tells its status on {self._place}\n",
        )


def clean(text: str) -> str:
    """Without what a terminal would take for a command: it comes from somewhere else."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _table(title: str, *columns: str) -> Table:
    """Columns whose name begins with ">" have numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=" ",  # an empty line
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in columns:
        is_number = column.startswith(">")
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(column.removeprefix(">"), justify=justify, no_wrap=is_number)
    return table


def _now(between: Between) -> Table:
    table = _table("Now", "", ">open", ">per second", ">in all")
    total = between.after.total

    def row(name: str, count: Callable[[Snapshot], int], is_open: int | None = None) -> None:
        opened = "" if is_open is None else whole(is_open)
        table.add_row(name, opened, rate(between.rate(count)), whole(count(between.after)))

    row("Connections", accepted, total.connections_open)
    row("WebSockets", lambda each: each.total.websockets_opened, total.websockets_open)
    row("Refused or failed", lambda each: sum(refusals(each).values()))
    row("Messages received", lambda each: each.total.messages_received)
    row("Messages sent", lambda each: each.total.messages_sent)
    if total.topic_subscriptions or total.topic_publications or total.topic_deliveries:
        row("Topics: published", lambda each: each.total.topic_publications)
        row(
            "Topics: delivered",
            lambda each: each.total.topic_deliveries,
            total.topic_subscriptions,
        )
        row("Topics: lost", lambda each: each.total.topic_drops)
    for name, of in (("Handshake", _handshakes), ("Loop lag", _lags)):
        p50, p99 = (duration(between.quantile_s(of, share)) for share in (0.5, 0.99))
        table.add_row(name, "", f"p50 {p50}", f"p99 {p99}")
    return table


def _handshakes(snapshot: Snapshot) -> HistogramValue:
    return snapshot.total.handshake


def _lags(snapshot: Snapshot) -> HistogramValue:
    return snapshot.total.lag


def _refusals(snapshot: Snapshot) -> RenderableType:
    found = {why: count for why, count in refusals(snapshot).items() if count}
    if not found:
        return Text("Nothing was refused.\n", "dim")
    table = _table("Refused and failed", "why", ">times")
    for why, count in found.items():
        table.add_row(clean(why), whole(count))
    return table


def _loops(snapshot: Snapshot) -> RenderableType:
    loops = [(worker, loop) for worker in snapshot.workers for loop in worker.loops]
    if not loops:
        return Text("No loop runs.\n", "dim")
    table = _table("Connections per loop", "worker", "loop", ">connections", ">share", "")
    counts = [loop.values.connections_open for _, loop in loops]
    total, most = sum(counts), max([*counts, 1])
    for (worker, loop), count in zip(loops, counts, strict=True):
        share = f"{100 * count / total:.1f} %" if total else NONE
        bar = Text("━" * round(BAR_WIDTH * count / most), "blue")
        table.add_row(_name(worker), str(loop.index), whole(count), share, bar)
    return table


def _name(worker: WorkerSnapshot) -> str:
    return str(worker.number) if worker.number else "server"


def _closes(snapshot: Snapshot) -> RenderableType:
    found = closes(snapshot)
    if not found:
        return Text("No WebSocket has ended.\n", "dim")
    table = _table("Close codes", "code", *(f">by {by}" for by in CLOSED_BY))
    for code, counts in found.items():
        table.add_row(code, *map(whole, counts))
    return table


def _workers(between: Between) -> Table:
    snapshot = between.after
    replaced = ", ".join(
        f"{count} {clean(why)}" for why, count in snapshot.restarts.items() if count
    )
    names = (">pid", "state", ">age", ">memory", ">connections", ">WebSockets", ">lag p99")
    table = _table(f"Workers (replaced: {replaced or 'none'})", "worker", *names)
    for worker in snapshot.workers:
        silent_s = max([loop.silent_s for loop in worker.loops], default=0.0)
        state = clean(worker.state) + (f", no answer for {silent_s:.0f} s" if silent_s >= 1 else "")
        connections, websockets = (
            sum(getattr(loop.values, each) for loop in worker.loops)
            for each in ("connections_open", "websockets_open")
        )
        table.add_row(
            _name(worker),
            str(worker.pid),
            Text(state, STATES.get(worker.state, "")),
            age(worker.age_s),
            size(worker.memory_bytes),
            whole(connections),
            whole(websockets),
            duration(between.quantile_s(_lag_of(worker), 0.99)),
        )
    return table


def _lag_of(worker: WorkerSnapshot) -> Callable[[Snapshot], HistogramValue]:
    def lag(snapshot: Snapshot) -> HistogramValue:
        same = (each for each in snapshot.workers if each.pid == worker.pid)
        return sum((loop.values.lag for each in same for loop in each.loops), NO_DURATIONS)

    return lag


def _listeners(snapshot: Snapshot) -> Table:
    table = _table("Accept queues", "listener", ">waiting", ">limit")
    for each in snapshot.listeners:
        table.add_row(clean(each.url), whole(each.queue), whole(each.queue_limit))
    return table


def _events(snapshot: Snapshot) -> RenderableType:
    if not snapshot.events:
        return Text("Nothing has happened.", "dim")
    latest = reversed(snapshot.events[-EVENTS_SHOWN:])
    table = _table("Starts, crashes and restarts", "time", "what", "who", "")
    for event in latest:
        when = datetime.fromtimestamp(event.time).strftime("%Y-%m-%d %H:%M:%S")
        what = Text(clean(event.kind), _KINDS.get(event.kind, ""))
        who = f"worker {event.worker} ({event.pid})" if event.worker else f"server ({event.pid})"
        table.add_row(when, what, who, clean(event.detail))
    return table
