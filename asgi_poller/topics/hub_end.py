"""The hub's end of a link: what one event loop says and is told.

A loop that does not read what it is told is served no further requests, and who publishes to
its topics waits while it goes on reading, however slowly. One that stands still is not waited for.
It is cut off when more than CUT_OFF_BYTES wait for it: then it connects again and asks for what it
has missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from asgi_poller.topics import wire
from asgi_poller.topics import wire_messages as said

_logger = logging.getLogger("asgi_poller.error")

#: Waiting for a loop: it is full, and answers to it and to who publishes to it wait.
FULL_BYTES: Final = 1024 * 1024
#: Waiting for a loop that stands still.
CUT_OFF_BYTES: Final = 64 * 1024 * 1024
#: A full loop that has not read anything for so long stands still.
STILL_S: Final = 1.0


class Owner(Protocol):
    """Who serves the ends, and gets what they say."""

    def opened(self, end: HubEnd) -> None:
        """A loop is there."""

    def handle(self, end: HubEnd, message: Any) -> None:
        """One message from the loop."""

    def written(self, end: HubEnd) -> None:
        """`end` has something to flush."""

    def closed(self, end: HubEnd) -> None:
        """The loop has gone."""


class HubEnd(asyncio.Protocol):
    """Owned by the hub's loop."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._decoder = wire.Decoder(wire.TO_HUB)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._taken: list[bytes] = []  # behind `_out`
        self._flushed_bytes = 0  # since the beginning
        self._is_reading = True
        self._is_full = False
        self._is_still = False
        self._read_bytes = 0  # by the loop, when it was last looked at
        self._look: asyncio.TimerHandle | None = None
        self._held: list[Callable[[], object]] = []

    @property
    def is_waited_for(self) -> bool:
        """Whether publishers wait until this loop has read."""
        return self._is_full and not self._is_still

    def hold(self, call: Callable[[], object]) -> None:
        """Call it when this end is not waited for any more."""
        self._held.append(call)

    @property
    def has_taken(self) -> bool:
        """Whether it is still to be told that a publication was taken."""
        return bool(self._taken)

    def put(self, message: bytes) -> None:
        """Tell the loop; it is written at the end of this turn of the hub's loop."""
        if not self._out and not self._taken:
            self._owner.written(self)
        self._out.append(message)
        self._out_bytes += len(message)

    def put_taken(self, message: bytes) -> None:
        """Tell the loop that a publication was taken, when others have been written to: what was
        taken comes to them also if the hub dies then.
        """
        if not self._out and not self._taken:
            self._owner.written(self)
        self._taken.append(message)

    def flush(self) -> None:
        """Write what there is, at once, but what was taken."""
        transport = self._transport
        if transport is None or not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._flushed_bytes += len(data)
        waiting = transport.get_write_buffer_size()
        if waiting > CUT_OFF_BYTES:
            _logger.warning(
                "Topics: an event loop is cut off that does not read: %d MiB wait for it. It"
                " connects again and asks for what it has missed.",
                waiting >> 20,
            )
            self.cut_off()
            return
        transport.write(data)

    def flush_taken(self) -> None:
        """Write that as well."""
        self._out += self._taken
        self._taken.clear()
        self.flush()

    def cut_off(self) -> None:
        """This end is of no use any more."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Write what there is, and end."""
        self.flush_taken()
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(FULL_BYTES, FULL_BYTES // 4)
        self._owner.opened(self)
        self.put(wire.welcome())

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._decoder.feed(data)
        self._work()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_full = True
        self._read_bytes = self._taken_bytes()
        self._look = self._loop.call_later(STILL_S, self._look_again)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_full = self._is_still = False
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._release()
        self._work()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._out.clear()
        self._taken.clear()
        self._is_full = False
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._release()
        self._owner.closed(self)

    # Inside

    def _work(self) -> None:
        """Do what the loop says, while it reads what it is told."""
        transport = self._transport
        if transport is None:
            return
        try:
            while self._out_bytes + transport.get_write_buffer_size() <= FULL_BYTES:
                message = self._decoder.next()
                if message is None:
                    if not self._is_reading:
                        self._is_reading = True
                        transport.resume_reading()
                    return
                self._owner.handle(self, message)
                if self._out_bytes > FULL_BYTES:
                    self.flush()
                if transport.is_closing():
                    return
        except said.WireFault as fault:
            _logger.error("Topics: an event loop is cut off that sends nonsense: %s.", fault)
            self.cut_off()
            return
        if self._is_reading:
            self._is_reading = False
            transport.pause_reading()
        if not self._is_full:  # it will be, or all is written in a moment
            self._loop.call_soon(self._work)

    def _look_again(self) -> None:
        read_bytes = self._taken_bytes()
        self._is_still = read_bytes == self._read_bytes
        self._read_bytes = read_bytes
        if self._is_still:
            self._release()
        self._look = self._loop.call_later(STILL_S, self._look_again)

    def _taken_bytes(self) -> int:
        """What the loop's socket has taken."""
        assert self._transport is not None
        return self._flushed_bytes - self._transport.get_write_buffer_size()

    def _release(self) -> None:
        held, self._held = self._held, []
        for call in held:
            call()
