"""`asgi-poller status`: how a running server is, in the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from asgi_poller.commands.status_source import Asker, find
from asgi_poller.commands.table_command import CONTEXT_SETTINGS, OneLineCommand
from asgi_poller.errors import StatusError
from asgi_poller.metrics.snapshot import Snapshot
from asgi_poller.monitor.reading import Between, read_status

if TYPE_CHECKING:
    from asgi_poller.commands.status_view import StatusView

PERIOD_S = 1.0


def _run(target: str | None, token: str | None, watch: bool, as_json: bool) -> None:
    """Show how a running server is: its load, its loops and workers, what has happened.

    TARGET is the server's pid file, its process id, or the [HOST:]PORT or URL of its --metrics.
    Without one it is the only server of yours that runs on this machine. Rates are of one second,
    for which this command waits.
    """
    asker = Asker(find(target), token)
    if as_json:
        _repeat(lambda: click.echo(json.dumps(asker.ask())), watch)
        return
    try:
        from asgi_poller.commands.status_view import StatusView  # rich is the `status` extra's
    except ImportError:
        raise StatusError("needs rich: pip install 'asgi-poller[status]', or use --json") from None
    view = StatusView(str(asker.place))
    if watch:
        _watch(asker, view)
        return
    before = _snapshot(asker)
    time.sleep(PERIOD_S)  # rates are the difference of two looks
    view.print(Between(before, _snapshot(asker)))


def _repeat(step: Callable[[], None], is_endless: bool) -> None:
    step()
    with suppress(KeyboardInterrupt):  # how it is meant to end
        while is_endless:
            time.sleep(PERIOD_S)  # the period that is shown; Ctrl+C ends it
            step()


def _watch(asker: Asker, view: StatusView) -> None:
    """Until Ctrl+C. A server that does not answer any more may come back."""
    before: Snapshot | None = None
    latest, trouble = _snapshot(asker), None
    with suppress(KeyboardInterrupt), view.watching() as show:
        while True:
            show(Between(before, latest), trouble)
            time.sleep(PERIOD_S)  # likewise
            try:
                before, latest, trouble = latest, _snapshot(asker), None
            except StatusError as error:
                before, trouble = None, str(error)


def _snapshot(asker: Asker) -> Snapshot:
    try:
        return read_status(asker.ask())
    except ValueError as error:
        raise StatusError(f"{asker.place} is of another version: {error}; use --json") from None


command = OneLineCommand(
    "status",
    params=[
        click.Argument(["target"], required=False, metavar="[TARGET]"),
        click.Option(["--watch"], is_flag=True, help="Show it again every second, until Ctrl+C."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the server's JSON."),
        click.Option(
            ["--token"],
            envvar="ASGI_POLLER_METRICS_TOKEN",
            metavar="TOKEN",
            help="The server's --metrics-token. From ASGI_POLLER_METRICS_TOKEN it is not in the"
            " list of processes.",
        ),
    ],
    callback=_run,
    help=_run.__doc__,
    context_settings=CONTEXT_SETTINGS,
)
