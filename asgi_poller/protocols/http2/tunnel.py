"""DATA of streams that are WebSockets (RFC 8441), past h2: a message is often a frame of a few
bytes, for which h2's objects cost more than all the rest.

h2 keeps these streams' states and what may be sent; of DATA that comes it sees only the frame with
END_STREAM, so that what may come is looked after here. A request's DATA is h2's: its length is
compared with its Content-Length there.
"""

from __future__ import annotations

from typing import Any, Final

from asgi_poller.errors import Http2Fault
from asgi_poller.protocols.http2.frames import (
    FLOW_CONTROL_ERROR,
    HEADER_BYTES,
    PADDED,
    WINDOW_UPDATE,
    frame,
)

_DATA_WITHOUT_FLAGS: Final = b"\x00\x00"
_CREDIT_PARTS: Final = 4  # the window is opened again when such a part of it is used


class Tunnel:
    """One such stream; `h2` is its connection, `stream` what h2 knows of it."""

    __slots__ = ("_frame_end", "_h2", "_id", "_stream", "_window_bytes")

    def __init__(self, h2: Any, stream_id: int, window_bytes: int) -> None:
        self._h2 = h2
        self._stream: Any = h2.streams[stream_id]
        self._id = stream_id
        self._frame_end = _DATA_WITHOUT_FLAGS + stream_id.to_bytes(4, "big")
        self._window_bytes = window_bytes  # that the peer may send

    @property
    def room(self) -> int:
        """Bytes that may be sent now, by the windows of both."""
        connection: int = self._h2.outbound_flow_control_window
        stream: int = self._stream.outbound_flow_control_window
        most: int = self._h2.max_outbound_frame_size
        return min(connection, stream, most)

    def data_frame(self, data: bytes) -> bytes:
        """DATA, for which there is room."""
        size = len(data)
        self._h2.outbound_flow_control_window -= size
        self._stream.outbound_flow_control_window -= size
        return b"".join((size.to_bytes(3, "big"), self._frame_end, data))

    def credit(self, window_bytes: int) -> bytes:
        """The peer may send so many more: the frame that says so."""
        self._window_bytes += window_bytes
        return window_update(self._id, window_bytes)

    def consume(self, window_bytes: int) -> Http2Fault | None:
        """So many have come; a fault if they are more than were allowed."""
        self._window_bytes -= window_bytes
        if self._window_bytes >= 0:
            return None
        return Http2Fault(FLOW_CONTROL_ERROR, "more than a stream's window")


class TunnelWindow:
    """What all tunnels of a connection use of its window, of `size_bytes`: it is opened again in
    portions. The streams' windows bound what waits.
    """

    __slots__ = ("_size_bytes", "_used_bytes")

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._used_bytes = 0

    def consume(self, window_bytes: int) -> tuple[bytes, ...]:
        """So many have come: the frames to be sent."""
        self._used_bytes = used = self._used_bytes + window_bytes
        if used * _CREDIT_PARTS < self._size_bytes:
            return ()
        self._used_bytes = 0
        return (window_update(0, used),)


def stream_of(data: bytes, at: int) -> int:
    """The stream of the frame that begins at `at`."""
    return int.from_bytes(data[at + 5 : at + HEADER_BYTES], "big")


def window_update(stream_id: int, window_bytes: int) -> bytes:
    """WINDOW_UPDATE (RFC 9113, 6.9)."""
    return frame(WINDOW_UPDATE, 0, stream_id, window_bytes.to_bytes(4, "big"))


def payload(data: bytes, at: int, end: int) -> bytes | None:
    """What is in the DATA frame from `at` to `end`, without padding; None if that is not valid."""
    begin = at + HEADER_BYTES
    if not data[at + 4] & PADDED:
        return data[begin:end]
    if begin >= end or data[begin] >= end - begin:
        return None
    return data[begin + 1 : end - data[begin]]
