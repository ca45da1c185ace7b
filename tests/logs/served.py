"""Servers whose log goes to a pipe or to files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.logs.apps:app"


class Piped:
    """A server whose standard output is `stdout`; its standard error goes to a file."""

    def __init__(self, stdout: int, errors: Path, *options: str, app: str = APP) -> None:
        self._errors = errors
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "asgi_poller", app, "--port", "0", *options],
                stdout=stdout,
                stderr=file,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def address(self) -> tuple[str, int]:
        """Where it serves, once it does."""
        wait_until(lambda: "running on" in self.errors, "it serves")
        found = re.search(r"running on http://([^:]+):(\d+)", self.errors)
        assert found is not None, self.errors
        return found[1], int(found[2])

    def end(self) -> float:
        """Ask it to end; the seconds that it takes."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DEADLINE_S)
        return time.monotonic() - began


@contextlib.contextmanager
def piped(stdout: int, errors: Path, *options: str, app: str = APP) -> Iterator[Piped]:
    server = Piped(stdout, errors, *options, app=app)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(DEADLINE_S)


class Logged(Served):
    """A server whose standard output and error are files."""

    def __init__(self, server: Piped, access: Path) -> None:
        super().__init__(server.address()[1])
        self.server = server
        self._access = access

    @property
    def access_lines(self) -> list[str]:
        return self._access.read_text().splitlines()

    def wait_for_lines(self, count: int) -> list[str]:
        """The lines of the access log, once there are so many."""
        wait_until(lambda: len(self.access_lines) >= count, f"{count} access lines")
        return self.access_lines

    def wait_for_objects(self, count: int) -> list[dict[str, Any]]:
        """The same, each as the JSON that it is."""
        return [json.loads(line) for line in self.wait_for_lines(count)]


@contextlib.contextmanager
def logged(folder: Path, *options: str, app: str = APP) -> Iterator[Logged]:
    """Serve while the block runs."""
    access = folder / "access"
    with access.open("wb") as file, piped(file.fileno(), folder / "err", *options, app=app) as it:
        yield Logged(it, access)
