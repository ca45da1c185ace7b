"""What the connections of one loop write in one turn of it: at once, or together.

A write to a client that sleeps wakes it, which costs more than the write. Where several
applications answer in one turn of the loop, what they say is gathered for each connection, and the
last of them writes all of it: a client, or a proxy, that holds several of these connections is
woken once. A lone answer is written at once.

How it is known who is the last: a message or request that comes wakes an application, which is
counted in `expected`; an answer takes one off again. Nobody is counted for what an application
sends unasked: of that, the first for each connection in a turn is written at once, and the rest is
gathered. (A message to a thousand connections has nothing to be joined, and gathering it would cost
a fifth more.)

What is gathered waits for the end of the turn at most (one `call_soon`), or until it is older than
1 ms when something is added to it, or until it is more than 64 KiB for one connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from asgi_poller.asgi.types import Loop

_log = logging.getLogger("asgi_poller.error")

GATHERED_BYTES: Final = 65536  # of one connection
GATHERED_S: Final = 0.001


class Sink(Protocol):
    """A connection's transport, or what stands for it."""

    @property
    def write(self) -> Callable[[bytes | bytearray], object]: ...

    def abort(self) -> None: ...


class TurnOutput:
    """What one loop's connections have still to write. Owned by the loop's thread.

    `expected` and `gathered` are for the fast path of callers, which is not worth a call: where
    one is expected and nothing gathered, they set `expected` to 0 and write by themselves.

    `most_bytes` of one connection are gathered, and never more than GATHERED_BYTES.
    """

    __slots__ = (
        "_clock",
        "_gathered_bytes",
        "_held",
        "_is_armed",
        "_loop",
        "_rest",
        "_since_s",
        "_written",
        "expected",
        "gathered",
    )

    def __init__(
        self,
        loop: Loop,
        *,
        most_bytes: int = GATHERED_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._gathered_bytes = min(GATHERED_BYTES, most_bytes)
        self.expected = 0  # applications that were woken and have not answered
        self.gathered: dict[Sink, bytes | bytearray] = {}
        self._held: list[tuple[Sink, Callable[[], None]]] = []
        self._is_armed = False  # the end of this turn is on its way
        self._rest = 0  # `expected` after the last answer
        self._since_s = 0.0  # the first of `gathered`
        self._written: set[Sink] = set()  # those with something unasked in this turn

    def write(self, sink: Sink, data: bytes) -> None:
        """Write `data` in this turn. What `sink` was given before comes first."""
        if self.gathered:
            before = self.gathered.get(sink)
            if before is not None:  # its application is not counted twice
                self._add(sink, before, data)
                return
        expected = self.expected
        if expected > 1:
            self.expected = self._rest = expected - 1
            self._gather(sink, data)
        elif expected == 1:
            self.expected = self._rest = 0
            if self.gathered:
                self.flush()
            sink.write(data)
        elif sink in self._written:
            self._gather(sink, data)
        else:
            self._written.add(sink)
            if not self._is_armed:
                self._arm()
            sink.write(data)

    def write_now(self, sink: Sink, data: bytes) -> None:
        """Write `data` at once, behind what `sink` was given before."""
        gathered = self.gathered.pop(sink, None)
        sink.write(data if gathered is None else b"".join((gathered, data)))

    def answered(self) -> None:
        """An application has answered, and its connection keeps that for the time being."""
        if self.expected:
            self.expected -= 1

    def hold(self, sink: Sink, flush: Callable[[], None]) -> None:
        """Call `flush` at the end of this turn: it writes what the connection keeps by itself."""
        self._held.append((sink, flush))
        if not self._is_armed:
            self._arm()

    def flush_one(self, sink: Sink) -> None:
        """Write what was gathered for `sink`: it is about to end, or waits for its peer."""
        gathered = self.gathered.pop(sink, None)
        if gathered is not None:
            sink.write(gathered)

    def discard(self, sink: Sink) -> None:
        """The connection is lost: nobody reads what was gathered for it."""
        self.gathered.pop(sink, None)

    def flush(self) -> None:
        """Write all that was gathered. A connection that fails takes nobody with it."""
        gathered, self.gathered = self.gathered, {}
        for sink, data in gathered.items():
            try:
                sink.write(data)
            except Exception:
                _cut_off(sink)

    def _gather(self, sink: Sink, data: bytes) -> None:
        """The first of `sink` in this turn."""
        if not self.gathered:
            self._since_s = self._clock()
            if not self._is_armed:
                self._arm()
        self.gathered[sink] = data
        self._check_bounds(sink, len(data))

    def _add(self, sink: Sink, before: bytes | bytearray, data: bytes) -> None:
        if isinstance(before, bytes):
            self.gathered[sink] = before = bytearray(before)
        before += data
        self._check_bounds(sink, len(before))

    def _check_bounds(self, sink: Sink, size: int) -> None:
        if size > self._gathered_bytes:
            self.flush_one(sink)
        elif self._clock() - self._since_s > GATHERED_S:
            self.flush()

    def _arm(self) -> None:
        self._is_armed = True
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_armed = False
        if self._written:
            self._written = set()
        if self._held:
            held, self._held = self._held, []
            for sink, flush in held:
                try:
                    flush()
                except Exception:
                    _cut_off(sink)
        # who was woken in an earlier turn and has not answered waits for something else
        self.expected -= min(self._rest, self.expected)
        self._rest = 0
        if self.gathered:
            self.flush()


def _cut_off(sink: Sink) -> None:
    _log.exception("A connection could not be written to, and is cut off.")
    try:
        sink.abort()
    except Exception:  # the others are still to be written
        _log.exception("A connection could not be cut off.")
