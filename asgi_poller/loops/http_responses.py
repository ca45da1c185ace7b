"""HTTP/1.1 below the exchanges of one connection: encodes their responses and writes them.

Responses to pipelined requests are joined: while each turn of the loop adds one, the next is waited
for; they are written as soon as one does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from asgi_poller.asgi.error_response import error_response
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import CONTINUE, DefaultHeaders, ResponseEncoder

_JOINED_BYTES = 65536  # above this the responses are written without waiting for further ones


class Owner(Protocol):
    """The connection."""

    def response_ended(self, keep_alive: bool) -> None:
        """All of a response is written; whether another request may be served."""

    def note_refusal(self, status: int, detail: str) -> None:
        """The peer gets this answer from us."""

    def set_reading(self, on: bool) -> None:
        """Whether the request's body is wanted now."""

    def abort(self) -> None:
        """The peer must see the connection break."""


class HttpResponses:
    """A ResponsePort. Owned by the loop's thread."""

    __slots__ = (
        "_encoder",
        "_is_growing",
        "_loop",
        "_owner",
        "_pieces",
        "_pieces_bytes",
        "_transport",
        "is_joining",
    )

    def __init__(
        self,
        owner: Owner,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        default_headers: DefaultHeaders,
    ) -> None:
        self._owner = owner
        self._transport = transport
        self._loop = loop
        self._encoder = ResponseEncoder(default_headers)
        self._pieces: list[bytes] = []  # joined, and not written yet
        self._pieces_bytes = 0
        self._is_growing = False
        self.is_joining = False  # further requests have been read: their responses come soon

    # ResponsePort

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        self.write(self._encoder.head(request, status, headers, body=body, more_body=more_body))

    def send_body(self, body: bytes, more_body: bool) -> None:
        encoded = self._encoder.body(body, more_body)
        if encoded:
            self.write(encoded)

    def end(self) -> None:
        self._owner.response_ended(self._encoder.keep_alive)

    def abort(self) -> None:
        self._owner.abort()

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        self._owner.note_refusal(status, detail)
        self.write(error_response(status, detail, head_only=request.method == "HEAD"))
        self._owner.response_ended(False)

    def send_continue(self) -> None:
        self.write(CONTINUE)
        self._owner.set_reading(True)  # from now on the body is waited for

    def set_reading(self, on: bool) -> None:
        self._owner.set_reading(on)

    # Joining

    def write(self, data: bytes) -> None:
        """Whole responses, or pieces of one."""
        pieces = self._pieces
        if not pieces:
            if not self.is_joining:
                self._transport.write(data)
                return
            self._loop.call_soon(self._tend)
        else:
            self._is_growing = True
        pieces.append(data)
        self._pieces_bytes += len(data)
        if self._pieces_bytes > _JOINED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was joined."""
        pieces, self._pieces = self._pieces, []
        self._pieces_bytes = 0
        if pieces:
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def clear(self) -> None:
        """Forget what was joined: the transport has been closed."""
        self._pieces = []
        self._pieces_bytes = 0

    def close(self) -> None:
        """Nothing more is sent. This and its owner hold each other: left alone, both would stay
        until the garbage collector finds them.
        """
        self.clear()
        self._owner = None  # type: ignore[assignment]  # nobody asks for it after the end

    def _tend(self) -> None:
        if self._is_growing:
            self._is_growing = False
            self._loop.call_soon(self._tend)
        else:
            self.flush()
