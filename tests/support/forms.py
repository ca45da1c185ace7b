"""A server in each of its forms: one process, two loops, two workers, or under gunicorn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.support.command import Command
from tests.support.gunicorn import gunicorn
from tests.support.server import Served

ONE, LOOPS, WORKERS, GUNICORN = "one process", "two loops", "two workers", "gunicorn"
FORMS = (ONE, LOOPS, WORKERS, GUNICORN)
_SIZE = {LOOPS: ("--loops", "2"), WORKERS: ("--workers", "2")}


@contextlib.contextmanager
def served(form: str, app: str, **options: object) -> Iterator[Served]:
    """`app` served in one of the forms, with options under their names in Python."""
    with contextlib.ExitStack() as stack:
        if form == GUNICORN:
            environ = {f"ASGI_POLLER_{name.upper()}": str(it) for name, it in options.items()}
            server = stack.enter_context(gunicorn("-w", "1", app=app, ready=0, **environ))
            yield Served(int(server.address.rpartition(":")[2]))
            return
        switches = [
            f"--{name.replace('_', '-')}" + ("" if it is True else f"={it}")
            for name, it in options.items()
        ]
        command = Command("--port", "0", *_SIZE.get(form, ()), *switches, app=app)
        stack.callback(command.close)
        command.wait_for("running on")
        if form == WORKERS:
            command.wait_for(r"Worker \d+ \[\d+\] is ready", count=2)
        yield Served(command.address[1])
