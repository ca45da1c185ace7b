"""Closing a connection whose peer may still be sending, without losing what was sent to it.
 close() with unread octets in the receive buffer makes the kernel send RST, and an RST makes the
peer's kernel forget what it had received: our 413 or our Close 1009 would be lost. So the sending
side is shut first, and what the peer still sends is read and thrown away until it closes, or for a
while (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asgi_poller.loops.timer_wheel import NEVER, TimerWheel

_LINGER_S = 2.0
_LINGER_BYTES = 16 * 1024 * 1024  # who sends more than this after the end gets the RST


class LingeringClose(asyncio.Protocol):
    """Takes a transport over from its connection. Owned by the loop's thread."""

    __slots__ = ("_bytes_left", "_lost", "_transport", "_wheel", "timer_tick")

    def __init__(
        self, transport: asyncio.Transport, wheel: TimerWheel, lost: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._wheel = wheel
        self._lost = lost
        self._bytes_left = _LINGER_BYTES
        self.timer_tick = NEVER

    def start(self) -> None:
        """Shut the sending side and wait for the peer's end. Raises nothing: where the peer has
        gone already, `lost` is called soon.
        """
        transport = self._transport
        transport.set_protocol(self)
        if not transport.can_write_eof():  # TLS: its closing handshake does the same
            transport.close()
            return
        if transport.get_write_buffer_size():
            # asyncio's write_eof() would shut the socket later, in a callback of its own, and log
            # a traceback if the peer has closed by then: it is called when all is written
            transport.set_write_buffer_limits(0)
        else:
            self._shut()
        if not transport.is_closing():
            transport.resume_reading()
            self._wheel.schedule(self, self._wheel.after(_LINGER_S))

    def _shut(self) -> None:
        try:
            self._transport.write_eof()
        except (OSError, RuntimeError):  # the peer has closed
            self._transport.abort()

    def resume_writing(self) -> None:
        self._shut()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def on_timer(self, tick: int) -> int:
        self._transport.abort()
        return NEVER

    def connection_lost(self, error: Exception | None) -> None:
        self._wheel.cancel(self)
        self._lost()
