"""The real gunicorn command, and what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE_S

WORKER = "asgi_poller.gunicorn.PollerWorker"


class Gunicorn:
    """A running gunicorn. `lines` is what it has written so far, on both of its streams."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.scheme = "http"
        self.opened = ExitStack()  # channels, closed with the server at the latest
        self._news = threading.Condition()
        self._is_over = False
        assert process.stdout is not None
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def said(self, pattern: str) -> list[str]:
        """The lines in which `pattern` is found."""
        return [line for line in list(self.lines) if re.search(pattern, line)]

    def says(self, pattern: str, count: int = 1, within_s: float = DEADLINE_S) -> bool:
        """Whether `count` lines have `pattern` before too long."""
        with self._news:
            self._news.wait_for(lambda: len(self.said(pattern)) >= count or self._is_over, within_s)
        return len(self.said(pattern)) >= count

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until `count` lines have `pattern`."""
        self.says(pattern, count)
        found = self.said(pattern)
        assert len(found) >= count, f"{pattern!r} not {count} times in:\n" + "\n".join(self.lines)
        return found

    @property
    def address(self) -> str:
        """HOST:PORT of the first listener."""
        found = re.search(r"Listening at: https?://([^ ,]+)", self.wait_for("Listening at")[0])
        assert found is not None
        return found[1]

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

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit code, once it has ended and all it wrote was read."""
        code = self.process.wait(DEADLINE_S)
        with self._news:
            self._news.wait_for(lambda: self._is_over, DEADLINE_S)
        return code


@contextmanager
def gunicorn(
    *options: str, app: str = "tests.gunicorn.apps:app", ready: int = 1, **environ: str
) -> Iterator[Gunicorn]:
    """Run it with `options` and `environ`; wait until `ready` workers serve."""
    command = [sys.executable, "-m", "gunicorn", "-k", WORKER, "-b", "127.0.0.1:0"]
    command += ["--no-control-socket", *options, app]
    inherited = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("ASGI_POLLER_") and name != "WEB_CONCURRENCY"
    }
    process = subprocess.Popen(
        command,
        env={**inherited, "PYTHONPATH": str(ROOT), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Gunicorn(process)
    try:
        if ready:
            server.wait_for("Application startup complete", ready)
        yield server
    finally:
        server.opened.close()
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
