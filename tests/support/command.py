"""Programs that tests start, watch and end: `asgi-poller` above all."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, is_alive
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.supervisor.app:app"

_RUNNING = re.compile(r"running on (?:\x1b\[1m)?(?:https?://([^:/]+):(\d+)|unix:(\S+))")
_STARTED = re.compile(r"Started worker \d+ \[(?:\x1b\[36m)?(\d+)")


class Process:
    """A program in a session of its own. What it writes is gathered line by line in `lines`: its
    standard error, or both of its streams.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        keep_fds: tuple[int, ...] = (),
        both_streams: bool = False,
    ) -> None:
        self.lines: list[str] = []
        self._is_over = False
        self._changed = threading.Condition()
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("ASGI_POLLER_") and name != "WEB_CONCURRENCY"
        }
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if both_streams else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if both_streams else subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**ours, "PYTHONPATH": str(ROOT), **(environ or {})},
            start_new_session=True,
            pass_fds=keep_fds,
        )
        stream = self.process.stdout if both_streams else self.process.stderr
        assert stream is not None
        self._stream = stream
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """All that it has written."""
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, pattern: str, *, after: int = 0) -> list[re.Match[str]]:
        """The matches in the lines from the line `after` on, one for a line."""
        compiled = re.compile(pattern)
        return [match for line in self.lines[after:] if (match := compiled.search(line))]

    def says(
        self, pattern: str, *, count: int = 1, after: int = 0, within_s: float = DEADLINE_S
    ) -> bool:
        """Whether `count` lines match before the time, or the program, is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_over or len(self.said(pattern, after=after)) >= count, within_s
            )
        return len(self.said(pattern, after=after)) >= count

    def wait_for(self, pattern: str, *, count: int = 1, after: int = 0) -> re.Match[str]:
        """Wait until `count` lines, from the line `after` on, match; the last of them."""
        self.says(pattern, count=count, after=after)
        found = self.said(pattern, after=after)
        assert len(found) >= count, f"no {pattern!r} ({len(found)} of {count}) in:\n{self.text}"
        return found[count - 1]

    def signal(self, number: int) -> None:
        """Send a signal to it, not to its children."""
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
        self._stream.close()


class Command(Process):
    """One run of `asgi-poller`."""

    def __init__(
        self,
        *options: str,
        app: str = APP,
        environ: dict[str, str] | None = None,
        cwd: Path = ROOT,
        program: list[str] | None = None,
        keep_fds: tuple[int, ...] = (),
    ) -> None:
        command = program or [sys.executable, "-m", "asgi_poller", app]
        super().__init__([*command, *options], environ=environ, cwd=cwd, keep_fds=keep_fds)

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


@contextlib.contextmanager
def started(*options: str, port: int | None = 0, **more: Any) -> Iterator[Command]:
    """A command on a free port, or without --port, ended meanwhile or not; what it said is shown if
    the test fails. `more` is what Command takes.
    """
    command = Command(*(() if port is None else ("--port", str(port))), *options, **more)
    try:
        yield command
    except BaseException:  # shown and raised again, whatever ends the test
        print(command.text)
        raise
    finally:
        command.close()


@contextlib.contextmanager
def running(*options: str, workers: int = 2, **more: Any) -> Iterator[Command]:
    """A command that serves meanwhile, on a free port."""
    with started("--workers", str(workers), *options, **more) as command:
        command.wait_ready(workers)
        yield command


def run_python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end; `options` are subprocess.run's."""
    given: dict[str, Any] = {"cwd": ROOT, "check": False, "timeout": DEADLINE_S}
    given["env"] = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, **(given | options))


def get(address: tuple[str, int], path: str = "/pid", host: str = "test") -> str:
    """The body of a response with status 200."""
    return body_of(asked(address, path, host))


def asked(address: tuple[str, int], path: str = "/pid", host: str = "test") -> socket.socket:
    """A connection on which a request is on its way."""
    connection = socket.create_connection(address, DEADLINE_S)
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    return connection


def body_of(connection: socket.socket) -> str:
    """The body of its response, whose status is 200; closes the connection."""
    with connection:
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    return body.decode()


def pid_at(address: tuple[str, int]) -> int:
    """The process that answers."""
    return int(get(address).split()[0])
