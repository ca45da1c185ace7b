"""One thread for each process writes the log, so that no loop waits for a pipe or a disk.

    loops, pollers ──► queue ──► LogWriter's thread ──► LogStream: stderr
                    (bounded)                      └──► LogStream: stdout

While `background_writing` is on, a handler only puts a record into the queue. Where that is full
lines are dropped and counted; once writing works again, one line says how many. After each round
the thread rests for some milliseconds, so that under load it writes many lines at once and is not
woken for each. Before a server starts and after it has ended, lines are written directly, and so
they are in a process that was forked.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Protocol, TypeAlias

from asgi_poller import platform
from asgi_poller.logs.stream import WAITING_LIMIT_COUNT, LogStream

#: Unit: seconds. At the end, for an output that takes nothing.
END_LIMIT_S = 1.0

# Unit: seconds, for a line that is written directly and the first that its output does not take.
_DIRECT_LIMIT_S = 1.0
# Unit: seconds. The thread's rest after each round, and between looks at an output that is stalled.
_REST_S = 0.005
_STALLED_S = 0.05
_BATCH_COUNT = 500
# Beyond so many in the queue, lines of more than so many characters are not taken: what waits for a
# thread that is stuck has a bound.
_EASY_COUNT = 1_000
_LONG_CHARACTERS = 2_048
_JOIN_S = 0.2


class Output(Protocol):
    """A handler: makes text of what it has put into the queue."""

    stream: LogStream

    def text_of(self, item: object) -> str | None:
        """The line; None if it cannot be made, which was said. Raises nothing."""

    def length_of(self, item: object) -> int:
        """About how many characters it holds."""

    def text_of_loss(self, count: int) -> str | None:
        """The line that says how many were lost."""


Entry: TypeAlias = "tuple[Output, object] | threading.Event | None"  # None: the thread may end


class LogWriter:
    """One for each process. Any thread."""

    def __init__(self) -> None:
        self._outputs: tuple[Output, ...] = ()
        self._reset()

    def _reset(self) -> None:
        self._users = 0
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._lock = threading.RLock()  # of `_users`, and of direct writing
        self._waiting: list[threading.Event] = []  # for all to be written

    def after_fork(self) -> None:
        """In the child: the thread is the parent's, and so is what waits."""
        self._reset()
        for output in self._outputs:
            output.stream.after_fork()

    def know(self, output: Output) -> None:
        """An output that will be written to."""
        with self._lock:
            self._outputs = (*self._outputs, output)

    def forget(self, output: Output) -> None:
        """It will not be written to any more. Idempotent."""
        with self._lock:
            self._outputs = tuple(each for each in self._outputs if each is not output)

    def put(self, output: Output, item: object) -> None:
        """Write `item` to `output`, or have it written soon. Waits for nothing while a thread
        writes; never raises.
        """
        if self._thread is None:
            with self._lock:
                limit_s = 0.0 if output.stream.is_waiting else _DIRECT_LIMIT_S
                self._write([(output, item)], limit_s)
            return
        waiting = self._queue.qsize()
        if waiting < _EASY_COUNT or (
            waiting < WAITING_LIMIT_COUNT and output.length_of(item) <= _LONG_CHARACTERS
        ):
            self._queue.put((output, item))
        else:
            output.stream.lose_one()

    def begin(self) -> None:
        """Have a thread write from now on; `end` for each `begin`."""
        with self._lock:
            self._users += 1
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="LogWriter", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had: lines are written directly
                return
            self._thread = thread

    def end(self) -> None:
        """Write the last lines, for END_LIMIT_S at most; directly from now on."""
        with self._lock:
            self._users -= 1
            thread = self._thread
            if self._users or thread is None:
                return
        self.flush(END_LIMIT_S)
        self._queue.put(None)
        thread.join(_JOIN_S)
        with self._lock:
            if self._thread is None:
                self._write(self._taken([]), 0.0)  # what came between

    def flush(self, limit_s: float) -> bool:
        """Wait until all that was put is written, for so many seconds; whether it is."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        is_written = threading.Event()
        self._queue.put(is_written)
        return is_written.wait(limit_s)

    # The thread

    def _run(self) -> None:
        platform.begin_service_thread()
        with self._lock:  # `begin` is done
            entries = self._queue
        while True:
            is_stalled = any(output.stream.is_waiting for output in self._outputs)
            try:
                first = entries.get(timeout=_STALLED_S if is_stalled else None)
            except queue.Empty:
                batch: list[Entry] = []
            else:
                batch = self._taken([first])
            try:
                self._write(batch, 0.0)
            except Exception:  # out of memory perhaps: the thread stays, and the lines are counted
                for entry in batch:
                    if isinstance(entry, tuple):
                        entry[0].stream.lose_one()
            if None in batch and self._is_over():
                return
            if len(batch) < _BATCH_COUNT:
                time.sleep(_REST_S)  # this thread's alone: lines gather meanwhile

    def _is_over(self) -> bool:
        with self._lock:
            if not self._users:
                self._thread = None
            return not self._users

    def _taken(self, batch: list[Entry]) -> list[Entry]:
        """`batch` with what waits in the queue, up to a bound."""
        with contextlib.suppress(queue.Empty):
            while len(batch) < _BATCH_COUNT:
                batch.append(self._queue.get_nowait())
        return batch

    def _write(self, batch: list[Entry], limit_s: float) -> None:
        """Write in order; what an output does not take within `limit_s` seconds waits in it."""
        current: Output | None = None
        for entry in batch:
            if entry is None:
                continue
            if isinstance(entry, threading.Event):
                self._waiting.append(entry)
                continue
            output, item = entry
            if current is not None and current is not output:
                _push(current, limit_s)
            current = output
            text = output.text_of(item)
            if text is not None:
                output.stream.add(text)
                if output.stream.has_chunk:  # a write lets the loops run meanwhile
                    _push(output, limit_s)
        if current is not None:
            _push(current, limit_s)
        stalled = [output for output in self._outputs if output.stream.is_waiting]
        for output in stalled:
            _push(output, 0.0)
        if self._waiting and not any(output.stream.is_waiting for output in stalled):
            for event in self._waiting:
                event.set()
            self._waiting.clear()


def _push(output: Output, limit_s: float) -> None:
    stream = output.stream
    if not stream.push(limit_s):
        return
    count = stream.untold_count
    if count:
        stream.told(count)
        text = output.text_of_loss(count)
        if text is not None:
            stream.add(text)
            stream.push()


_writer = LogWriter()
put = _writer.put
know = _writer.know
forget = _writer.forget
flush = _writer.flush

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_writer.after_fork)


@contextlib.contextmanager
def background_writing() -> Iterator[None]:
    """While a server runs: what our handlers are given is written by a thread."""
    _writer.begin()
    try:
        yield
    finally:
        _writer.end()


def flush_log() -> bool:
    """For a process that ends now: wait for what was logged, END_LIMIT_S at most; whether it is
    written.
    """
    return flush(END_LIMIT_S)


def dropped_lines() -> int:
    """Lines of the log that this process could not write, since it began. Any thread."""
    return LogStream.total_lost_count
