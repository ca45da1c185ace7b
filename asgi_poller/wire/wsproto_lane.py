"""The careful lane: one channel's frames through `wsproto.Connection`, the authority on RFC 6455.
 It takes fragments, control frames, everything broken, and in `--ws wsproto` every frame. Two
things are added to wsproto by the extension point it offers: the size limit, taken from frame
headers before a payload is buffered and enforced while inflating, and permessage-deflate with the
same objects as the fast lane uses.
"""

from __future__ import annotations

from typing import Any

from wsproto import events as wsproto_events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import RemoteProtocolError

from asgi_poller.errors import WebSocketFault
from asgi_poller.wire.deflate import Deflate, Inflation
from asgi_poller.wire.frames import (
    CLOSE_MESSAGE_TOO_BIG,
    CLOSE_PROTOCOL_ERROR,
    Close,
    Event,
    Ping,
    Pong,
)

_NO_BITS = RsvBits(False, False, False)
_COMPRESSED = RsvBits(True, False, False)


class MessageGuard(Extension):
    """Bounds every message at `max_octets` and inflates compressed ones. One per channel."""

    name = "asgi-poller-guard"

    def __init__(self, max_octets: int, deflate: Deflate | None) -> None:
        self.max_octets = max_octets
        self.deflate = deflate
        self._octets = 0  # of the message so far, as declared by its frame headers
        self._inflation: Inflation | None = None
        self._in_control_frame = False

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        self._in_control_frame = opcode.iscontrol()
        if self._in_control_frame:
            return _NO_BITS
        if opcode is not Opcode.CONTINUATION:
            self._octets = 0
            self._inflation = None
            if rsv.rsv1 and self.deflate is not None:
                self._inflation = Inflation(self.deflate, self.max_octets)
        self._octets += payload_length
        if self._octets > self.max_octets:
            return CloseReason.MESSAGE_TOO_BIG
        if self._inflation is not None and opcode is not Opcode.CONTINUATION:
            return _COMPRESSED
        return _NO_BITS

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        if self._inflation is None or self._in_control_frame:
            return data
        try:
            return self._inflation.feed(data)
        except WebSocketFault as fault:
            return CloseReason(fault.code)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        if self._inflation is None or self._in_control_frame or not fin:
            return None
        try:
            return self._inflation.finish()
        except WebSocketFault as fault:
            return CloseReason(fault.code)


class WsprotoLane:
    """Feed octets with `receive`; take whole messages and control frames from the list it returns.

    Owned by the channel's core. After a Close or a WebSocketFault nothing more may be fed.
    """

    __slots__ = ("_connection", "_pieces")

    def __init__(self, max_octets: int, deflate: Deflate | None) -> None:
        self._connection = Connection(
            ConnectionType.SERVER, extensions=[MessageGuard(max_octets, deflate)]
        )
        self._pieces: list[Any] = []  # of the message at hand: all str or all bytes

    def receive(self, data: bytes | memoryview, events: list[Event]) -> bool:
        """Append what `data` completes to `events`; False once the channel's input has ended."""
        self._connection.receive_data(bytes(data))
        try:
            for event in self._connection.events():
                match event:
                    case wsproto_events.Message():
                        self._message(event, events)
                    case wsproto_events.Ping():
                        events.append(Ping(bytes(event.payload)))
                    case wsproto_events.Pong():
                        events.append(Pong(bytes(event.payload)))
                    case wsproto_events.CloseConnection():
                        events.append(_closed(event))
                        return False
        except RemoteProtocolError as error:
            hint = error.event_hint
            code = hint.code if isinstance(hint, wsproto_events.CloseConnection) else 1002
            reason = "message too big" if code == CLOSE_MESSAGE_TOO_BIG else str(error)
            events.append(WebSocketFault(int(code or CLOSE_PROTOCOL_ERROR), reason))
            return False
        return True

    def _message(self, event: wsproto_events.Message[Any], events: list[Event]) -> None:
        pieces = self._pieces
        if not event.message_finished:
            pieces.append(event.data)
            return
        # wsproto gives text as str and anything else as some kind of bytes
        empty = "" if isinstance(event.data, str) else b""
        events.append(empty.join([*pieces, event.data]) if pieces else empty + event.data)
        self._pieces = []

    def send_message(self, message: str | bytes) -> bytes:
        """`message` as one frame, made by wsproto; compression is the caller's business."""
        event: wsproto_events.Message[Any] = wsproto_events.Message(data=message)
        return self._connection.send(event)

    def send_ping(self, payload: bytes) -> bytes:
        return self._connection.send(wsproto_events.Ping(payload=payload))

    def send_pong(self, payload: bytes) -> bytes:
        return self._connection.send(wsproto_events.Pong(payload=payload))

    def send_close(self, code: int | None, reason: str) -> bytes:
        """A Close frame; nothing where wsproto's state says that one has been sent."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            event = wsproto_events.CloseConnection(code=code or 1005, reason=reason or None)
            return self._connection.send(event)
        return b""


def _closed(event: wsproto_events.CloseConnection) -> Close:
    return Close(int(event.code), event.reason or "")
