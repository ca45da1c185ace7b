"""The careful lane: one WebSocket's frames through `wsproto.Connection`, the authority on RFC 6455.

It takes fragments, control frames, everything broken, and in `--ws wsproto` every frame. Two
things are added to wsproto by the extension point it offers: the size limit, taken from frame
headers before a payload is buffered and enforced while inflating, and permessage-deflate with the
same objects as the fast lane uses.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

from wsproto import events as wsproto_events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    Frame,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
)

from asgi_poller.errors import WebSocketFault
from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.frames import (
    CLOSE_BAD_GATEWAY,
    CLOSE_INVALID_DATA,
    CLOSE_MESSAGE_TOO_BIG,
    Close,
    Event,
    Ping,
    Pong,
    is_sendable_close_code,
    max_compressed_bytes,
)
from asgi_poller.protocols.websocket.permessage_deflate import Deflate, Inflation

_NO_BITS = RsvBits(False, False, False)
_COMPRESSED = RsvBits(True, False, False)
_CLOSED_BY_PEER = (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)
_BAD_GATEWAY = CLOSE_BAD_GATEWAY.to_bytes(2, "big")
_GUARD = "error in extension"  # wsproto's words for what MessageGuard refused
_GUARD_REASONS = {
    CLOSE_MESSAGE_TOO_BIG: "message too big",
    CLOSE_INVALID_DATA: "invalid compressed data",
}


class MessageGuard(Extension):
    """Bounds every message at `max_bytes` and inflates compressed ones. One per WebSocket."""

    name = "asgi-poller-guard"

    def __init__(self, max_bytes: int, deflate: Deflate | None, counts: LoopCounts) -> None:
        self.counts = counts
        self.max_bytes = max_bytes
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
                self._inflation = Inflation(self.deflate, self.max_bytes)
        self._octets += payload_length
        if self._octets > self.max_bytes and (
            self._inflation is None or self._octets > max_compressed_bytes(self.max_bytes)
        ):
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
        if self._in_control_frame or not fin:
            return None
        self._octets = 0
        inflation, self._inflation = self._inflation, None
        if inflation is None:
            return None
        try:
            last = inflation.finish()
        except WebSocketFault as fault:
            return CloseReason(fault.code)
        self.counts.inflated_bytes += inflation.fed_bytes
        self.counts.raw_bytes_inflated += inflation.made_bytes
        return last


class _Frames(FrameProtocol):
    """wsproto's own, with a close code that it does not know: 1014 (IANA, WebSocket Close Code
    Number Registry).
    """

    def _process_close(self, frame: Frame) -> Frame:
        payload = frame.payload
        if isinstance(payload, bytes | bytearray) and payload[:2] == _BAD_GATEWAY:
            try:
                reason = bytes(payload[2:]).decode()
            except UnicodeDecodeError as error:
                raise ParseFailed(str(error), CloseReason.INVALID_FRAME_PAYLOAD_DATA) from error
            payload_read = (CLOSE_BAD_GATEWAY, reason)
            return Frame(frame.opcode, payload_read, frame.frame_finished, frame.message_finished)
        return super()._process_close(frame)


class WsprotoImpl:
    """Feed octets with `receive`; take whole messages and control frames from the list it returns.

    Owned by the WebSocket's loop. After a Close or a WebSocketFault nothing more may be fed.
    """

    __slots__ = ("_binary", "_connection", "_text")

    def __init__(
        self, max_bytes: int, deflate: Deflate | None, counts: LoopCounts | None = None
    ) -> None:
        counts = LoopCounts() if counts is None else counts
        extensions: list[Extension] = [MessageGuard(max_bytes, deflate, counts)]
        self._connection = Connection(ConnectionType.SERVER, extensions=extensions)
        self._connection._proto = _Frames(False, extensions)
        # What has come of the message at hand. Not lists of pieces: a peer may send it in
        # fragments of one octet, or of none.
        self._text: StringIO | None = None
        self._binary: bytearray | None = None

    def receive(self, data: bytes | memoryview, events: list[Event]) -> bool:
        """Append what `data` completes to `events`; False once the WebSocket's input has ended."""
        connection = self._connection
        connection.receive_data(bytes(data))
        for event in connection.events():
            match event:
                case wsproto_events.Message():
                    self._message(event, events)
                case wsproto_events.Ping():
                    events.append(Ping(bytes(event.payload)))
                case wsproto_events.Pong():
                    events.append(Pong(bytes(event.payload)))
                case wsproto_events.CloseConnection(code=code, reason=reason):
                    # wsproto gives the peer's Close and what it would close with itself as the
                    # same event; only the former moves its state
                    if connection.state in _CLOSED_BY_PEER:
                        events.append(Close(int(code), reason or ""))
                    else:
                        reason = _GUARD_REASONS.get(int(code), "") if reason == _GUARD else reason
                        events.append(WebSocketFault(int(code), reason or ""))
                    return False
        return True

    def _message(self, event: wsproto_events.Message[Any], events: list[Event]) -> None:
        data: str | bytes | bytearray = event.data
        if isinstance(data, str):
            if event.message_finished and self._text is None:
                events.append(data)
                return
            text = self._text = self._text or StringIO(newline="")
            text.write(data)
            if event.message_finished:
                events.append(text.getvalue())
                self._text = None
        else:
            if event.message_finished and self._binary is None:
                events.append(bytes(data))
                return
            if self._binary is None:
                self._binary = bytearray()
            self._binary += data
            if event.message_finished:
                events.append(bytes(self._binary))
                self._binary = None

    def send_message(self, message: str | bytes) -> bytes:
        """`message` as one frame, made by wsproto; compression is the caller's business."""
        event: wsproto_events.Message[Any] = wsproto_events.Message(data=message)
        return self._connection.send(event)

    def send_ping(self, payload: bytes) -> bytes:
        return self._connection.send(wsproto_events.Ping(payload=payload))

    def send_pong(self, payload: bytes) -> bytes:
        """A Pong; nothing if a Close has come with the Ping (RFC 6455, 5.5.2)."""
        if self._connection.state is not ConnectionState.OPEN:
            return b""
        return self._connection.send(wsproto_events.Pong(payload=payload))

    def send_close(self, code: int | None, reason: str) -> bytes:
        """A Close frame; nothing where wsproto's state says that one has been sent."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            if code is None or not is_sendable_close_code(code):
                code, reason = CloseReason.NO_STATUS_RCVD, ""
            event = wsproto_events.CloseConnection(code=code, reason=reason or None)
            return self._connection.send(event)
        return b""
