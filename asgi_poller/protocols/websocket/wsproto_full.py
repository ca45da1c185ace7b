"""`--ws wsproto`: the reference that the fast lane is held against."""

from __future__ import annotations

from asgi_poller.protocols.websocket.frames import KNOWN_OPCODES, MAX_CONTROL_BYTES, Event
from asgi_poller.protocols.websocket.permessage_deflate import Deflate
from asgi_poller.protocols.websocket.protocol import (
    FAST_NONE,
    FRAMED_ALONE,
    FrameCache,
    WebSocketWire,
)
from asgi_poller.protocols.websocket.wsproto_impl import WsprotoImpl


class WsprotoWebSocketWire(WebSocketWire):
    """Every frame, both ways, through wsproto. Owned by the WebSocket's loop."""

    __slots__ = ("_careful_bytes", "_wsproto")

    def __init__(
        self,
        max_bytes: int,
        deflate: Deflate | None = None,
        deflate_threshold: int = 0,
        cache: FrameCache | None = None,
    ) -> None:
        super().__init__(max_bytes, deflate, deflate_threshold, cache)
        self._fast_between_messages = self._fast = FAST_NONE
        self._wsproto = WsprotoImpl(max_bytes, deflate, self._cache.counts)
        self._careful_bytes = 0  # of the frame at hand, still to come

    @property
    def framing(self) -> int:
        return FRAMED_ALONE

    def _read_frames(
        self, data: bytes | bytearray, events: list[Event], at: int = 0
    ) -> tuple[int, int, bool]:
        if self._careful_bytes:
            at = self._read_other(data, at, events)
        return super()._read_frames(data, events, at)

    def _read_other(self, data: bytes | bytearray, at: int, events: list[Event]) -> int:
        """Feed wsproto to the end of the frame at `at`, or of the frame it is in; how many octets
        it took.

        0 means that the frame's header is not complete.
        """
        end = len(data)
        octets = self._careful_bytes or _frame_bytes(data, at)
        if not octets:
            return 0
        taken = min(octets, end - at)
        self._careful_bytes = octets - taken
        if not self._wsproto.receive(memoryview(data)[at : at + taken], events):
            self._end_input()
            self._careful_bytes = 0
            return end - at  # nothing after it counts
        return taken

    def text(self, message: str) -> bytes:
        if self._deflate is not None and len(message.encode()) >= self._deflate_threshold:
            return super().text(message)  # compression is ours in both lanes
        return self._wsproto.send_message(message)

    def binary(self, message: bytes) -> bytes:
        if self._deflate is not None and len(message) >= self._deflate_threshold:
            return super().binary(message)
        return self._wsproto.send_message(message)

    def ping(self, payload: bytes = b"") -> bytes:
        return self._wsproto.send_ping(payload[:MAX_CONTROL_BYTES])

    def pong(self, payload: bytes) -> bytes:
        return self._wsproto.send_pong(payload)

    def close(self, code: int | None, reason: str = "") -> bytes:
        return self._wsproto.send_close(code, reason)


def _frame_bytes(data: bytes | bytearray, at: int) -> int:
    """How long the frame at `at` is in all; 0 if its header, mask included, is not complete.

    A header that is wrong whatever follows gives the rest of `data`: wsproto will say what is wrong
    with it.
    """
    left = len(data) - at
    first, second = data[at], data[at + 1]
    opcode, length = first & 0x0F, second & 127
    if opcode not in KNOWN_OPCODES or (opcode & 0x08 and (length > 125 or not first & 0x80)):
        return left
    header = 2
    if length == 126:
        header = 4
        length = int.from_bytes(data[at + 2 : at + 4], "big")
    elif length == 127:
        header = 10
        length = int.from_bytes(data[at + 2 : at + 10], "big")
    header += 4 * (second >> 7)
    # wsproto would look at half a header twice, and its extension would count the frame twice
    return header + length if left >= header else 0
