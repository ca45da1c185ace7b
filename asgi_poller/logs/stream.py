"""One output of the log: whole lines to a descriptor, without waiting for it longer than is asked.

A descriptor that takes nothing now (a pipe that nobody reads) makes its lines wait here; one that
fails (a full disk, a reader that has gone) loses them. What is lost is counted.
"""

from __future__ import annotations

import itertools
import os
import select
import sys
import threading
from collections import deque
from typing import ClassVar, TextIO

#: What a pipe takes as a whole or not at all (pipe(7), PIPE_BUF), so that the lines of several
#: processes do not mix. A pipe that poll() calls writable takes as much at once.
CHUNK_BYTES = 4096
#: Waiting for a descriptor that takes nothing. Beyond that, lines are lost.
WAITING_LIMIT_COUNT = 10_000
WAITING_LIMIT_BYTES = 8 * 1024 * 1024

_HAS_POLL = hasattr(select, "poll")
_IS_POSIX = os.name == "posix"

_total_lock = threading.RLock()  # of LogStream.total_lost_count


class LogStream:
    """Owned by the thread that writes: the writer's, or one that holds the lock of direct
    writing. Any thread may call `lose_one`.
    """

    __slots__ = (
        "_counting",
        "_file",
        "_has_recovered",
        "_is_cut",
        "_lines",
        "_lost_count",
        "_told_count",
        "_waiting_bytes",
    )

    total_lost_count: ClassVar[int] = 0
    """Lines that all streams of this process have lost."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_cut = False  # the last line that was written lacks its end
        self._counting = threading.RLock()  # a signal's handler may log, too
        self._lost_count = 0
        self._told_count = 0  # of these, said already
        self._has_recovered = False  # something was written since the last line was lost

    @property
    def is_waiting(self) -> bool:
        """Whether lines wait for the descriptor."""
        return bool(self._lines)

    @property
    def has_chunk(self) -> bool:
        """Whether what waits is worth a write."""
        return self._waiting_bytes >= CHUNK_BYTES

    @property
    def untold_count(self) -> int:
        """Lines that were lost, to be said now: the descriptor works again. Else 0."""
        if self._lines or not self._has_recovered:
            return 0
        return self._lost_count - self._told_count

    def told(self, count: int) -> None:
        """It was said that `count` lines are lost."""
        self._told_count += count

    def add(self, text: str) -> None:
        """A line, or a record of several, without its end. `push` writes it."""
        if self._is_cut and not self._lines:  # a fault has taken the rest of the line before
            text = f"\n{text}"
        data = f"{text}\n".encode(self._file.encoding or "utf-8", "backslashreplace")
        waiting_bytes = self._waiting_bytes + len(data)
        if len(self._lines) >= WAITING_LIMIT_COUNT or waiting_bytes > WAITING_LIMIT_BYTES:
            self.lose_one()
            return
        self._lines.append(data)
        self._waiting_bytes = waiting_bytes

    def push(self, limit_s: float = 0.0) -> bool:
        """Write what waits as far as the descriptor takes it, waiting `limit_s` seconds for it;
        whether nothing waits any more.
        """
        while self._lines:
            try:
                if not is_writable(self._file.fileno(), limit_s):
                    return False
                written_bytes = self._write(self._chunk())
            except BlockingIOError:  # somebody made the descriptor so
                return False
            except (OSError, ValueError):  # ValueError: the file is closed
                self.lose_waiting()
                return True
            self._has_recovered = True
            self._forget(written_bytes)
        return True

    def lose_one(self) -> None:
        """A line could not be taken."""
        self._lose(1)

    def lose_waiting(self) -> None:
        """What waits is given up."""
        count = len(self._lines)
        self.forget_waiting()
        self._has_recovered = False
        self._lose(count)

    def forget_waiting(self) -> None:
        """It is not to be written any more."""
        self._lines = deque()
        self._waiting_bytes = 0

    def after_fork(self) -> None:
        """In the child: what waits is the parent's, and the parent's thread may hold the lock."""
        self._counting = threading.RLock()
        self.forget_waiting()

    def _lose(self, count: int) -> None:
        with self._counting:
            self._lost_count += count
        with _total_lock:
            LogStream.total_lost_count += count

    def _chunk(self) -> bytes:
        """The next lines that fit into a chunk, at least one."""
        lines = self._lines
        chosen = [lines[0]]
        size = len(chosen[0])
        for line in itertools.islice(lines, 1, None):
            size += len(line)
            if size > CHUNK_BYTES:
                break
            chosen.append(line)
        return b"".join(chosen)

    def _write(self, data: bytes) -> int:
        file = self._file
        file.flush()  # what the application has printed comes first, and soon
        if _IS_POSIX:
            # not through the file, whose lock a blocked write would hold to the process's end
            return os.write(file.fileno(), data)
        file.write(data.decode(file.encoding or "utf-8"))
        file.flush()
        return len(data)

    def _forget(self, written_bytes: int) -> None:
        lines = self._lines
        self._waiting_bytes -= written_bytes
        while written_bytes:
            line = lines.popleft()
            if written_bytes < len(line):
                lines.appendleft(line[written_bytes:])
                self._is_cut = True
                return
            written_bytes -= len(line)
        self._is_cut = False


def _renew_total_lock() -> None:
    """In a forked child: another thread of the parent may hold its lock."""
    global _total_lock
    _total_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_total_lock)


def is_writable(fd: int, limit_s: float = 0.0) -> bool:
    """Whether `fd` takes something, or fails, within so many seconds. Windows does not say."""
    if not _HAS_POLL:
        return True
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(limit_s * 1000))


def let_go_of_stalled_outputs() -> None:
    """Standard output and error, where nobody reads them, lead nowhere from now on: for the end of
    a process that is the server's, because Python flushes both and would wait for ever.
    """
    for file in (sys.stdout, sys.stderr):
        try:
            fd = file.fileno()
            if is_writable(fd):
                continue
            null = os.open(os.devnull, os.O_WRONLY)
        except (AttributeError, OSError, ValueError):  # there is none, or it is no real file
            continue
        os.dup2(null, fd)
        os.close(null)
