"""Joins the responses to pipelined requests, so that they are written at once."""

from __future__ import annotations

import asyncio

_JOINED_OCTETS = 65536  # above this the responses are written without waiting for further ones


class Cork:
    """What is to be written to one transport. Owned by the core's thread.

    While each turn of the loop adds a response, it waits for the next; it writes as soon as one
    does not.
    """

    __slots__ = ("_is_growing", "_loop", "_octets", "_pieces", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._octets = 0
        self._is_growing = False

    @property
    def is_holding(self) -> bool:
        """Something waits: what is written now must come after it."""
        return bool(self._pieces)

    def add(self, data: bytes) -> None:
        if self._pieces:
            self._is_growing = True
        else:
            self._loop.call_soon(self._tend)
        self._pieces.append(data)
        self._octets += len(data)
        if self._octets > _JOINED_OCTETS:
            self.flush()

    def flush(self) -> None:
        """Write now."""
        pieces, self._pieces = self._pieces, []
        self._octets = 0
        if pieces:
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def clear(self) -> None:
        """Forget what is not written: the transport has been closed."""
        self._pieces = []
        self._octets = 0

    def _tend(self) -> None:
        if self._is_growing:
            self._is_growing = False
            self._loop.call_soon(self._tend)
        else:
            self.flush()
