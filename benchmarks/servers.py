"""A server process for as long as it is measured: started pinned, waited for, and always ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from asgi_poller.storm import probe

READY_LIMIT_S = 20.0
STOP_LIMIT_S = 5.0
PROBE_STEP_S = 0.05
# All workers have started when the process tree has used no CPU to speak of for so long.
QUIET_S = 0.3
QUIET_CPU_S = 0.02
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


class ServerFailed(Exception):
    """A server that did not start, or ended; the text is the last that it said."""


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


class Server:
    """A context manager around one server. `pid` is the first process of its tree."""

    def __init__(
        self,
        words: list[str],
        *,
        port: int,
        environ: Mapping[str, str],
        cores: frozenset[int] = frozenset(),
        cwd: Path | None = None,
    ) -> None:
        self.port = port
        self._cwd = cwd
        self._words = words
        self._environ = {**os.environ, **environ}
        self._cores = cores
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the server has ended

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            self._words,
            env=self._environ,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, to end all of it
            preexec_fn=self._pin,
        )
        self.pid = self._process.pid
        try:
            self._until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _pin(self) -> None:
        if self._cores:
            os.sched_setaffinity(0, self._cores)

    def _until_ready(self) -> None:
        """It answers a request, and its workers have calmed down. Raises ServerFailed."""
        deadline_s = time.monotonic() + READY_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None:
                raise ServerFailed(f"exit code {self._process.returncode}: {self.last_words()}")
            if time.monotonic() > deadline_s:
                raise ServerFailed(f"no answer within {READY_LIMIT_S:.0f} s: {self.last_words()}")
            time.sleep(PROBE_STEP_S)
        used_s, since_s = self.cpu_s(), time.monotonic()
        while time.monotonic() < deadline_s and time.monotonic() - since_s < QUIET_S:
            time.sleep(PROBE_STEP_S)
            if (now_used_s := self.cpu_s()) - used_s > QUIET_CPU_S:
                used_s, since_s = now_used_s, time.monotonic()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as sock:
                sock.sendall(REQUEST)
                return sock.recv(16).startswith(b"HTTP/1.1")
        except OSError:
            return False

    def cpu_s(self) -> float:
        """CPU seconds of the whole process tree so far."""
        return probe.usage((self.pid,)).cpu_s

    def pids(self) -> list[int]:
        """The process tree."""
        return probe.process_tree((self.pid,))

    def alive(self) -> bool:
        """Whether its first process still runs."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """The last line of its output."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _end(self) -> None:
        """Ask, then insist; the whole group, by its id."""
        for sign, limit_s in ((signal.SIGTERM, STOP_LIMIT_S), (signal.SIGKILL, STOP_LIMIT_S)):
            try:
                os.killpg(self.pid, sign)
            except ProcessLookupError:
                break  # nobody is left in the group
            try:
                self._process.wait(limit_s)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._said.close()
        # Workers that were killed take a moment to give back what they hold; the next server must
        # not be measured meanwhile.
        deadline_s = time.monotonic() + STOP_LIMIT_S
        while self._group_lives() and time.monotonic() < deadline_s:
            time.sleep(PROBE_STEP_S)

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True
