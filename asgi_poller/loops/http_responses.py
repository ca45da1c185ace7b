"""HTTP/1.1 below the exchanges of one connection: encodes their responses and writes them.

Responses to pipelined requests are joined: while each turn of the loop adds one, the next is waited
for; they are written as soon as one does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.refusal_log import note_refusal
from asgi_poller.asgi.response_port import FilePort, FileTransfer
from asgi_poller.asgi.scope import Peer
from asgi_poller.errors import HttpFault
from asgi_poller.loops.sendfile import SocketTransfer, can_send_files
from asgi_poller.loops.server_state import ServerState
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import CONTINUE, ResponseEncoder, encode_early_hint

_APPLICATION_FAILED = 500  # RFC 9110, 15.6.1: that is logged with its exception
_JOINED_BYTES = 65536  # above this the responses are written without waiting for further ones


class Owner(Protocol):
    """The connection."""

    def response_ended(self, keep_alive: bool) -> None:
        """All of a response is written; whether another request may be served."""

    def set_reading(self, on: bool) -> None:
        """Whether the request's body is wanted now."""

    def abort(self) -> None:
        """The peer must see the connection break."""

    def file_begins(self) -> None:
        """The kernel sends a file: whether the peer takes it shows in `file_left_bytes`."""

    def file_ended(self) -> None:
        """It does no more."""


class HttpResponses:
    """A ResponsePort. Owned by the loop's thread."""

    __slots__ = (
        "_counts",
        "_encoder",
        "_is_growing",
        "_loop",
        "_output",
        "_owner",
        "_peer",
        "_pieces",
        "_pieces_bytes",
        "_transfer",
        "_transport",
        "is_joining",
    )

    def __init__(
        self,
        owner: Owner,
        peer: Peer,
        transport: asyncio.Transport,
        server: ServerState,
    ) -> None:
        self._owner = owner
        self._peer = peer
        self._transport = transport
        self._loop = server.loop
        self._output = server.output
        self._counts = server.counts
        self._encoder = ResponseEncoder(server.default_headers)
        self._pieces: list[bytes] = []  # joined, and not written yet
        self._pieces_bytes = 0
        self._is_growing = False
        self._transfer: SocketTransfer | None = None  # the last one
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
        data = self._encoder.head(request, status, headers, body=body, more_body=more_body)
        output = self._output
        if self.is_joining or self._pieces:
            self.write(data)
        elif output.expected == 1 and not output.gathered:
            output.expected = 0
            self._transport.write(data)
        else:
            output.write(self._transport, data)

    def send_body(self, body: bytes, more_body: bool) -> None:
        encoded = self._encoder.body(body, more_body)
        if encoded:
            self.write(encoded)

    def send_trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        encoded = self._encoder.trailers(headers)
        if encoded:
            self.write(encoded)

    def files(self) -> FilePort:
        return self

    # FilePort

    @property
    def file_left_bytes(self) -> int:
        """What the peer has still to take of a file that the kernel sends."""
        return 0 if self._transfer is None else self._transfer.left_bytes

    def begin_file(self, count: int, more_body: bool) -> bool:
        before = self._encoder.begin_file(count, more_body)
        if before:
            self.write(before)
        return before is not None and count > 0

    def send_file(
        self, fd: int, offset: int, count: int, *, note: Callable[[int], None] | None = None
    ) -> FileTransfer | None:
        transport = self._transport
        if not can_send_files(transport):
            return None
        self.flush()
        transfer = self._transfer = SocketTransfer(self._loop, transport, note)
        transfer.start(fd, offset, count)
        if transfer.left_bytes:
            self._owner.file_begins()
        return transfer

    def send_file_piece(self, data: bytes) -> None:
        self._forget_transfer()
        self.write(data)

    def end_file(self, count: int, more_body: bool) -> None:
        self._forget_transfer()
        encoded = self._encoder.end_file(count, more_body)
        if encoded:
            self.write(encoded)

    def _forget_transfer(self) -> None:
        if self._transfer is not None:
            self._transfer = None
            self._owner.file_ended()

    # ResponsePort again

    def send_early_hint(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        hint = encode_early_hint(headers)
        self.flush()  # what the application works on is not to be waited for
        self._output.write_now(self._transport, hint)

    def end(self) -> None:
        self._owner.response_ended(self._encoder.keep_alive)

    def abort(self) -> None:
        self._owner.abort()

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        if status != _APPLICATION_FAILED:
            self._note_refusal(status, detail, None)
        fields = self._fields_of_refusal(request)
        self.write(error_response(status, detail, fields, head_only=request.method == "HEAD"))
        self._owner.response_ended(False)

    def _fields_of_refusal(self, request: RequestHead) -> tuple[tuple[bytes, bytes], ...]:
        return ()

    def refuse_broken(self, fault: HttpFault) -> None:
        """Answer what is no request."""
        self._note_refusal(fault.status, fault.detail, fault.name)
        self._counts.count_response(fault.status)
        self.write(error_response(fault.status, fault.detail, fault.headers))

    def _note_refusal(self, status: int, detail: str, name: str | None) -> None:
        words = f"{status} {detail}"
        note_refusal(words, self._peer.client)
        self._counts.count_refusal(name or words)

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
                self._output.write(self._transport, data)
                return
            self._loop.call_soon(self._tend)
        else:
            self._is_growing = True
        self._output.answered()
        pieces.append(data)
        self._pieces_bytes += len(data)
        if self._pieces_bytes > _JOINED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was joined, and what the connection has said in this turn of the loop."""
        pieces, self._pieces = self._pieces, []
        self._pieces_bytes = 0
        if pieces:
            self._output.write_now(self._transport, b"".join(pieces))
        else:
            self._output.flush_one(self._transport)

    def close(self) -> None:
        """Nothing more is sent. This and its owner hold each other: left alone, both would stay
        until the garbage collector finds them.
        """
        self._pieces = []
        self._transfer = None
        self._output.discard(self._transport)
        self._owner = None  # type: ignore[assignment]  # nobody asks for it after the end

    def _tend(self) -> None:
        if self._is_growing:
            self._is_growing = False
            self._loop.call_soon(self._tend)
        else:
            self.flush()
