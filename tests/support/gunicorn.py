"""The real gunicorn command, and what it writes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.command import Process
from tests.support.waiting import DEADLINE_S

WORKER = "asgi_poller.gunicorn.PollerWorker"


class Gunicorn(Process):
    """A running gunicorn; its lines are those of both of its streams."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        super().__init__(command, environ=environ, both_streams=True)
        self.scheme = "http"
        self.opened = ExitStack()  # WebSockets, closed with the server at the latest

    @property
    def address(self) -> str:
        """HOST:PORT of the first listener."""
        return self.wait_for(r"Listening at: https?://([^ ,]+)")[1]

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """One request on a connection of its own."""
        return httpx.get(f"{self.scheme}://{self.address}{path}", timeout=DEADLINE_S, **options)

    def seen(self, path: str = "/", **options: Any) -> Any:
        """What the application saw of a request."""
        return self.get(path, **options).raise_for_status().json()

    def channel(self, **options: Any) -> ClientConnection:
        scheme = "wss" if self.scheme == "https" else "ws"
        url = f"{scheme}://{self.address}/ws"
        opening = connect(url, open_timeout=DEADLINE_S, **options)
        channel: ClientConnection = self.opened.enter_context(opening)
        return channel


@contextmanager
def gunicorn(
    *options: str, app: str = "tests.gunicorn.apps:app", ready: int = 1, **environ: str
) -> Iterator[Gunicorn]:
    """Run it with `options` and `environ`; wait until `ready` workers serve."""
    command = [sys.executable, "-m", "gunicorn", "-k", WORKER, "-b", "127.0.0.1:0"]
    command += ["--no-control-socket", *options, app]
    server = Gunicorn(command, environ)
    try:
        if ready:
            server.wait_for("Application startup complete", count=ready)
        yield server
    finally:
        server.opened.close()
        if server.process.poll() is None:
            server.signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(DEADLINE_S)
        server.close()
