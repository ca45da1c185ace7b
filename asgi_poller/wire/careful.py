"""`--ws wsproto`: the reference that the fast lane is held against."""

from __future__ import annotations

from asgi_poller.wire.deflate import Deflate
from asgi_poller.wire.frames import MAX_CONTROL_OCTETS, Event
from asgi_poller.wire.websocket import FAST_NONE, FrameCache, WebSocketWire
from asgi_poller.wire.wsproto_lane import WsprotoLane


class CarefulWebSocketWire(WebSocketWire):
    """Every frame, both ways, through wsproto. Owned by the channel's core."""

    __slots__ = ()

    def __init__(
        self,
        max_octets: int,
        deflate: Deflate | None = None,
        deflate_threshold: int = 0,
        cache: FrameCache | None = None,
    ) -> None:
        super().__init__(max_octets, deflate, deflate_threshold, cache)
        self._fast_between_messages = self._fast = FAST_NONE
        self._careful = WsprotoLane(max_octets, deflate)

    def _read_other(self, data: bytes | bytearray, at: int, events: list[Event]) -> int:
        return self._read_carefully(data, at, events)

    @property
    def _wsproto(self) -> WsprotoLane:
        assert self._careful is not None
        return self._careful

    def text(self, message: str) -> bytes:
        if self._deflate is not None and len(message.encode()) >= self._deflate_threshold:
            return super().text(message)  # compression is ours in both lanes
        return self._wsproto.send_message(message)

    def binary(self, message: bytes) -> bytes:
        if self._deflate is not None and len(message) >= self._deflate_threshold:
            return super().binary(message)
        return self._wsproto.send_message(message)

    def ping(self, payload: bytes = b"") -> bytes:
        return self._wsproto.send_ping(payload[:MAX_CONTROL_OCTETS])

    def pong(self, payload: bytes) -> bytes:
        return self._wsproto.send_pong(payload)

    def close(self, code: int | None, reason: str = "") -> bytes:
        return self._wsproto.send_close(code, reason)
