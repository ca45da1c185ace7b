"""The real command, started, watched and ended by tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import ROOT, is_alive
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.supervisor.app:app"

_RUNNING = re.compile(r"running on (?:\x1b\[1m)?(?:https?://([^:/]+):(\d+)|unix:(\S+))")
_STARTED = re.compile(r"Started worker \d+ \[(?:\x1b\[36m)?(\d+)")


class Command:
    """One run of `asgi-poller`. Its standard error is gathered line by line."""

    def __init__(
        self,
        *options: str,
        app: str = APP,
        environ: dict[str, str] | None = None,
        cwd: Path = ROOT,
        program: list[str] | None = None,
        keep_fds: tuple[int, ...] = (),
    ) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        command = program or [sys.executable, "-m", "asgi_poller", app]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
            start_new_session=True,
            pass_fds=keep_fds,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    @property
    def text(self) -> str:
        """All that it has said."""
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, pattern: str, *, count: int = 1, after: int = 0) -> re.Match[str]:
        """Wait until `count` lines, from the line `after` on, match; the last of them."""
        compiled = re.compile(pattern)
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while True:
                found = [m for line in self.lines[after:] if (m := compiled.search(line))]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                assert left > 0, f"no {pattern!r} ({len(found)} of {count}) in:\n{self.text}"
                self._changed.wait(left)

    def wait_ready(self, workers: int = 1) -> None:
        """Wait until so many workers serve."""
        self.wait_for("running on")
        if workers == 1:
            return
        self.wait_for(r"Worker \d+ \[\d+\] is ready", count=workers)
        seen: set[int] = set()

        def all_answer() -> bool:
            seen.add(pid_at(self.address))
            return len(seen) >= workers

        wait_until(all_answer, "all workers get connections")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        found = self.wait_for(_RUNNING.pattern)
        return found[1], int(found[2])

    @property
    def started_workers(self) -> list[int]:
        """The process ids of all workers that were ever started, in order."""
        return [int(m[1]) for line in list(self.lines) if (m := _STARTED.search(line))]

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers that run."""
        return [pid for pid in self.started_workers if is_alive(pid)]

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def wait(self, *, has_heir: bool = False) -> int:
        """Wait for the end; the exit code. `has_heir`: another process goes on writing."""
        code = self.process.wait(DEADLINE_S)
        if not has_heir:
            self._reader.join(DEADLINE_S)
        return code

    def stop(self) -> int:
        """End it in order."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def running(
    *options: str,
    workers: int = 2,
    app: str = APP,
    environ: dict[str, str] | None = None,
    cwd: Path = ROOT,
) -> Iterator[Command]:
    """A command that serves meanwhile, on a free port."""
    where = ("--port", "0", "--workers", str(workers))
    command = Command(*where, *options, app=app, environ=environ, cwd=cwd)
    try:
        command.wait_ready(workers)
        yield command
    except BaseException:
        print(command.text)
        raise
    finally:
        command.close()


@contextlib.contextmanager
def started(*options: str, app: str = APP) -> Iterator[Command]:
    """A command on a free port, ended meanwhile or not; what it said is shown if the test fails."""
    command = Command("--port", "0", *options, app=app)
    try:
        yield command
    except BaseException:  # shown and raised again, whatever ends the test
        print(command.text)
        raise
    finally:
        command.close()


def get(address: tuple[str, int], path: str = "/pid") -> str:
    """The body of a response with status 200."""
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode()
        )
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    return body.decode()


def pid_at(address: tuple[str, int]) -> int:
    """The process that answers."""
    return int(get(address).split()[0])
