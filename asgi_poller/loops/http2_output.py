"""What one HTTP/2 stream has still to send: between its application and its windows (RFC 9113,
5.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from asgi_poller.protocols.http2.connection import Http2Connection

_HIGH_BYTES: Final = 65536  # that wait: above it the application waits too


class Http2Writer(Protocol):
    """The connection, as its streams' output sees it."""

    @property
    def http2(self) -> Http2Connection: ...

    @property
    def is_choked(self) -> bool:
        """The peer does not read what is written to the transport."""

    def wrote(self, size: int) -> None:
        """Something is to be written, of about so many bytes: in this turn, or at once."""


class Http2Output:
    """Owned by the loop's thread. `block` is called with True when more than `high_bytes` wait for
    the peer, and with False when half of that has gone; `ended` when the last piece is sent.
    """

    __slots__ = (
        "_block",
        "_ended",
        "_high_bytes",
        "_is_blocking",
        "_is_last",
        "_stream_id",
        "_trailers",
        "_waiting",
        "_writer",
        "sent_bytes",
    )

    def __init__(
        self,
        writer: Http2Writer,
        stream_id: int,
        block: Callable[[bool], None],
        ended: Callable[[], None],
        *,
        high_bytes: int = _HIGH_BYTES,
    ) -> None:
        self._writer: Http2Writer | None = writer
        self._stream_id = stream_id
        self._block = block
        self._ended = ended
        self._high_bytes = high_bytes
        self._waiting = bytearray()
        self._is_last = False
        self._trailers: list[tuple[bytes, bytes]] | None = None  # that end the stream
        self._is_blocking = False
        self.sent_bytes = 0  # so far: whether the peer takes anything at all

    @property
    def waiting_bytes(self) -> int:
        """What the peer's windows have no room for, or its socket."""
        return len(self._waiting)

    @property
    def is_waiting(self) -> bool:
        """Whether something is still to be sent, be it only the end."""
        return bool(self._waiting) or self._is_last

    def write(self, data: bytes | bytearray, *, is_last: bool = False) -> None:
        """A piece of the body, in order. Nothing may follow the last."""
        writer = self._writer
        if writer is None:
            return
        http2, size = writer.http2, len(data)
        if not self._waiting and not writer.is_choked and size <= http2.room(self._stream_id):
            self._send(writer, bytes(data), is_last)
            return
        self._waiting += data
        self._is_last = is_last
        self.pump()
        if not self._is_blocking and len(self._waiting) > self._high_bytes:
            self._is_blocking = True
            self._block(True)

    def write_trailers(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Fields behind the body (RFC 9113, 8.1), which is complete. Nothing may follow."""
        if self._writer is not None:
            self._trailers = fields
            self._is_last = True
            self.pump()

    def pump(self, pieces: int = 2**31) -> bool:
        """Send what there is room for, so many pieces at most; whether something was sent."""
        writer, waiting = self._writer, self._waiting
        has_sent = False
        while pieces and writer is not None and self.is_waiting and not writer.is_choked:
            room = writer.http2.room(self._stream_id)
            if waiting and room <= 0:
                break
            piece = bytes(waiting[:room]) if len(waiting) > room else bytes(waiting)
            del waiting[: len(piece)]
            is_last = self._is_last and not waiting
            if is_last:
                self._is_last = False
            pieces -= 1
            has_sent = True
            self._send(writer, piece, is_last)
            writer = self._writer
        if self._is_blocking and len(waiting) <= self._high_bytes // 2:
            self._is_blocking = False
            self._block(False)
        return has_sent

    def close(self) -> None:
        """Nothing more is sent. The connection and this hold each other: left alone, both would
        stay until the garbage collector finds them.
        """
        self._writer = None
        self._waiting = bytearray()
        self._is_last = False
        self._block = _nobody_waits
        self._ended = _nothing_ends

    def _send(self, writer: Http2Writer, piece: bytes, is_last: bool) -> None:
        if not piece and not is_last:
            return
        trailers = self._trailers if is_last else None
        if piece or trailers is None:
            is_end = is_last and trailers is None
            is_cut = bool(self._waiting)
            writer.http2.send_body(self._stream_id, piece, is_last=is_end, is_cut=is_cut)
        if trailers is not None:
            writer.http2.send_head(self._stream_id, trailers, is_last=True)
        self.sent_bytes += len(piece)
        ended = self._ended
        writer.wrote(len(piece))
        if is_last:
            ended()


def _nobody_waits(on: bool) -> None:
    """For a stream that has ended."""


def _nothing_ends() -> None:
    """The same."""
