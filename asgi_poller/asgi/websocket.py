"""One WebSocket as ASGI sees it (ASGI: WebSocket Connection Scope, spec version 2.5).

States, and what moves them:

    CONNECTING ── accept ──► OPEN ── a Close of ours ──► CLOSING ── the answer, or none ──► CLOSED
        │                     └── the peer's Close, a fault, the connection lost ────────► CLOSED
        ├── close: 403 ──► CLOSED
        └── http.response.start ──► DENYING ── the last http.response.body ──► CLOSED

Corking: frames that the application sends while received messages still wait for it are joined, and
written with the frame for the last of them, or at the end of the turn. What the WebSockets of a
loop write in one turn goes through `turn_output.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from asgi_poller.asgi.denial_response import Denial
from asgi_poller.asgi.disconnect import stems_from_disconnect
from asgi_poller.asgi.flow_control import YIELD_MASK, FlowControl
from asgi_poller.asgi.http_context import HttpContext
from asgi_poller.asgi.receive_queue import ReceiveQueue
from asgi_poller.asgi.request_id import log_extra
from asgi_poller.asgi.topics_port import EXTENSION, SESSION
from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket_context import (
    CLOSED,
    CLOSING,
    CONNECTING,
    DENYING,
    OPEN,
    State,
    WebSocketContext,
    WebSocketPort,
)
from asgi_poller.errors import ApplicationFault, ClientDisconnected, WebSocketFault
from asgi_poller.metrics.loop_counts import LoopCounts, close_index
from asgi_poller.protocols.websocket.frames import (
    CLOSE_ABNORMAL,
    CLOSE_INTERNAL_ERROR,
    CLOSE_NO_STATUS_RECEIVED,
    CLOSE_NORMAL,
    Close,
    Event,
    Ping,
    is_sendable_close_code,
)
from asgi_poller.protocols.websocket.protocol import WebSocketWire

_log = logging.getLogger("asgi_poller.error")
_CORK_BYTES = 65536  # joined frames above this are written without waiting for the flush


class WebSocketSession:
    """One WebSocket. The connection feeds it; the application calls `receive` and `send`. Owned by
    the loop's thread.

    `receive` gives connect, then messages, then one disconnect with the code that RFC 6455, 7.1.5
    defines: the peer's, 1005 where it gave none, 1006 where the connection broke, ours where we
    closed. `send` raises ClientDisconnected once the WebSocket has ended, and ApplicationFault for
    what may not be sent.
    """

    __slots__ = (
        "_context",
        "_cork",
        "_cork_bytes",
        "_denial",
        "_entry",
        "_flow",
        "_late_pong",
        "_opened_at",
        "_port",
        "_turn",
        "_wire",
        "_write",
        "close_code",
        "closed_by",
        "received",
        "scope",
        "sent_bytes",
        "sent_count",
        "state",
        "topic_target",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        port: WebSocketPort,
        context: WebSocketContext,
    ) -> None:
        self.state: State = CONNECTING
        self.scope = scope
        self.received = ReceiveQueue(self, port, context)
        self._context = context
        self._port = port
        self._wire: WebSocketWire | None = None
        self._entry = None if context.access_log is None else context.access_log.entry(scope)
        self.close_code = CLOSE_ABNORMAL
        self.closed_by = "peer"
        self._write = port.write
        self._cork: list[bytes] | None = None
        self._cork_bytes = 0
        self._flow: FlowControl | None = None
        self._late_pong: bytes | None = None  # of the last Ping that came while the peer was slow
        self._denial: Denial | None = None
        self.topic_target: Any = None  # once it has subscribed to something
        self._opened_at = 0.0
        self.sent_count = 0
        self.sent_bytes = 0
        # any of 256, so that not a whole audience gives way in the same round of messages
        self._turn = id(self) >> 4 & YIELD_MASK

    # The connection's side

    def connection_lost(self) -> None:
        """The transport is closed: without a Close frame from the peer that is a 1006 (RFC 6455,
        7.1.5).
        """
        self._cork = None  # a flush that is on its way would write to a closed transport
        self.scope.pop(SESSION, None)  # a circle otherwise
        if self.state is CONNECTING or self.state is DENYING or self.state is OPEN:
            self._finish(CLOSE_ABNORMAL, "", by="peer")
        elif self.state is CLOSING:
            self._enter(CLOSED)
        self.received.connection_lost()
        self._hand_in(self._context.counts)
        if self._flow is not None:
            self._flow.resume()

    def _hand_in(self, counts: LoopCounts) -> None:
        """Nothing more will pass: what has passed is the loop's to remember."""
        received = self.received
        counts.ended_messages_received += received.received_count + received.waiting_count
        counts.ended_bytes_received += received.received_bytes
        counts.ended_messages_sent += self.sent_count
        counts.ended_bytes_sent += self.sent_bytes

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake of an open WebSocket for the server's own reasons (RFC 6455,
        7.1.2); harmless if it has begun.
        """
        if self.state is OPEN:
            self._start_closing(code, reason, "server")

    def refuse(self, status: int) -> None:
        """Answer the handshake with an HTTP status, if the application has not answered it."""
        if self.state is CONNECTING:
            self._deny(status)

    @property
    def message_count(self) -> int:
        """Messages that have passed, both ways."""
        return self.received.received_count + self.sent_count

    def give_up(self) -> None:
        """The peer did not answer our Close in time: the WebSocket is closed without it."""
        self._enter(CLOSED)

    def ping(self) -> None:
        """Send a Ping (RFC 6455, 5.5.2)."""
        if self.state is OPEN and self._wire is not None:
            self._context.counts.pings_sent += 1
            self._write_now(self._wire.ping())

    def flush(self) -> None:
        """Write the frames that were joined."""
        cork, self._cork = self._cork, None
        if cork is not None:
            self._context.output.write_now(self._port, b"".join(cork))

    def block_writing(self) -> None:
        if self._flow is None:
            self._flow = FlowControl(self._context.loop)
        self._flow.pause()

    def unblock_writing(self) -> None:
        if self._flow is not None:
            self._flow.resume()
        if self.topic_target is not None and self._context.topics is not None:
            self._context.topics.resume(self.topic_target)
        payload, self._late_pong = self._late_pong, None
        if payload is not None and self.state is OPEN:
            self._write_now(self._wire.pong(payload))  # type: ignore[union-attr]  # OPEN has a wire

    # The application's side

    def application_ended(self, error: BaseException | None) -> None:
        """The application has returned, or raised `error`: end the WebSocket in its name."""
        state = self.state
        has_ended = state is CLOSING or state is CLOSED
        # an application may stop by letting ClientDisconnected out
        if error is not None and not (has_ended and stems_from_disconnect(error)):
            note = log_extra(self.scope)
            _log.error("Exception in ASGI application", exc_info=error, extra=note)
        if state is OPEN:
            code = CLOSE_NORMAL if error is None else CLOSE_INTERNAL_ERROR
            self._start_closing(code, "", by="application")
        elif state is CONNECTING:
            if error is None:
                _log.error("ASGI callable returned without accepting or closing the WebSocket.")
            self._deny(500)
        elif state is DENYING and self._denial is not None:
            if error is None:
                _log.error("ASGI callable returned without completing the denial response.")
            self._denial.fail()

    @property
    def receive(self) -> Callable[[], Coroutine[Any, Any, Message]]:
        """ASGI's receive()."""
        return self.received.receive

    async def send(self, message: Message) -> None:
        """Take a message from the application; waits while the peer is slow."""
        if self.state is not OPEN or message["type"] != "websocket.send":
            await self._send_other(message)
            return
        text = message.get("text")
        if text is not None:
            frame = self._wire.text(text)  # type: ignore[union-attr]  # OPEN has a wire
        else:
            data = message.get("bytes")
            if type(data) is not bytes:
                data = _as_bytes(data)
            frame = self._wire.binary(data)  # type: ignore[union-attr]  # OPEN has a wire
        self.sent_count += 1
        self.sent_bytes += len(frame)
        output = self._context.output
        cork = self._cork
        if cork is not None:
            cork.append(frame)
            self._cork_bytes += len(frame)
            if self._cork_bytes > _CORK_BYTES or not self.received.queue:
                self._cork = None
                output.write(self._port, b"".join(cork))
        elif self.received.queue:
            self._cork = [frame]
            self._cork_bytes = len(frame)
            output.hold(self._port, self.flush)
        elif output.expected == 1 and not output.gathered:
            output.expected = 0
            self._write(frame)
        else:
            output.write(self._port, frame)
        if self._flow is not None and not self._flow.is_writable:
            await self._flow.drain()
        elif self.sent_count & YIELD_MASK == self._turn:
            await asyncio.sleep(0)

    # The topics' side

    @property
    def is_ready(self) -> bool:
        """Whether `send_frames` would write: it is open, and its peer is not slow."""
        return self.state is OPEN and (self._flow is None or self._flow.is_writable)

    def send_frames(self, frames: bytes, count: int) -> bool:
        """Write `count` messages that are framed; False, and nothing is written, while the peer is
        slow or if the WebSocket has ended.
        """
        if self.state is not OPEN or (self._flow is not None and not self._flow.is_writable):
            return False
        self.sent_count += count
        self.sent_bytes += len(frames)
        if self._cork is None and not self._context.output.gathered:
            self._write(frames)
        else:
            self._write_now(frames)
        return True

    def send_frames_anyway(self, frames: bytes, count: int) -> None:
        """The same, also to a slow peer: the caller sees to it that this has a bound."""
        if self.state is OPEN:
            self.sent_count += count
            self.sent_bytes += len(frames)
            self._write_now(frames)

    async def _send_other(self, message: Message) -> None:
        """Everything but a message on an open WebSocket."""
        kind = message["type"]
        handler = self.state.handlers.get(kind)
        if handler is not None:
            handler(self, message)
        elif kind.startswith(EXTENSION) and self._context.topics is not None:
            await self._context.topics.on_message(self, message)
        elif self.state is CLOSING or self.state is CLOSED:
            if kind == "websocket.close":
                return  # `finally: await websocket.close()`, after the client closed
            raise ClientDisconnected(f"{kind!r} cannot be sent: the WebSocket is closed")
        elif self.state is not DENYING:
            raise ApplicationFault(f"{kind!r} cannot be sent: the WebSocket is {self.state.value}")
        if self.state is DENYING and self._denial is not None:
            await self._denial.send(message)
            if self._flow is not None and not self._flow.is_writable:
                await self._flow.drain()

    def _on_accept(self, message: Message) -> None:
        context = self._context
        deflate = self._port.accept(message.get("subprotocol"), message.get("headers") or ())
        wire = context.wire(context.max_bytes, deflate, context.deflate_threshold, context.cache)
        self._wire = wire
        context.counts.websockets_opened += 1
        self._enter(OPEN)
        if context.access_log is not None and self._entry is not None:
            self._opened_at = context.clock()
            context.access_log.websocket_opened(self._entry)
        self.received.open(wire)

    def _on_close(self, message: Message) -> None:
        code = message.get("code") or CLOSE_NORMAL
        reason = message.get("reason") or ""
        if not isinstance(code, int) or not is_sendable_close_code(code):
            raise ApplicationFault(f"{code!r} is not a close code that may be sent")
        if not isinstance(reason, str):
            raise ApplicationFault(f"the reason of a close is text, not {reason!r}")
        self._start_closing(code, reason, "application")

    def _on_refuse(self, message: Message) -> None:
        self._deny(403)

    def _on_denial(self, message: Message) -> None:
        context, entry = self._context, self._entry
        log = context.access_log
        if log is not None and entry is not None:
            log = log.for_denials(entry)
        port = self._port.denial_port(self._denied)
        self._denial = Denial(
            self.scope, port, HttpContext(context.loop, log, counts=context.counts)
        )
        self._enter(DENYING)

    # What both sides come to

    def _deny(self, status: int) -> None:
        """Answer the handshake with an HTTP status and no body of the application's."""
        if self._context.access_log is not None and self._entry is not None:
            self._context.access_log.websocket_denied(self._entry, status)
        self._context.counts.count_response(status)
        self._port.deny(status)
        self._denied()

    def _denied(self) -> None:
        """The handshake was answered with something else than 101: to the application that is a
        1006.
        """
        self.closed_by = "server"
        self._context.counts.websockets_denied += 1
        self.received.put({"type": "websocket.disconnect", "code": CLOSE_ABNORMAL, "reason": ""})
        self._enter(CLOSED)

    def on_control(self, event: Event) -> None:
        """Control frames are answered at once, whatever the application does."""
        # not by `match`, which costs three times as much
        if isinstance(event, Close):
            self._on_peer_close(event.code, event.reason)
        elif isinstance(event, Ping):
            if self.state is OPEN:
                self._answer(event.payload)
        elif isinstance(event, WebSocketFault):
            if self.state is OPEN:
                self._start_closing(event.code, event.reason, "server")
            # RFC 6455, 7.1.7: nothing that follows can be understood, an answer to our Close
            # neither
            self._enter(CLOSED)
        # a Pong has done its work by arriving: `received_bytes` has changed

    def _answer(self, payload: bytes) -> None:
        if self._flow is not None and not self._flow.is_writable:
            # a peer that sends Pings and reads nothing gets one Pong in the end, for the last of
            # them (RFC 6455, 5.5.3)
            self._late_pong = payload
        else:
            pong = self._wire.pong(payload)  # type: ignore[union-attr]  # OPEN has a wire
            if pong:
                self._write_now(pong)

    def _on_peer_close(self, code: int, reason: str) -> None:
        if self.state is OPEN:
            answer = None if code == CLOSE_NO_STATUS_RECEIVED else code
            self._write_now(self._wire.close(answer))  # type: ignore[union-attr]  # OPEN has a wire
            self._finish(code, reason, by="peer")
        else:
            self._enter(CLOSED)

    def _start_closing(self, code: int, reason: str, by: str) -> None:
        """Send our Close and tell the application; the peer has the close timeout to answer."""
        self._write_now(self._wire.close(code, reason))  # type: ignore[union-attr]  # OPEN has a wire
        self._finish(code, reason, by=by, state=CLOSING)
        self.received.read_to_the_end()

    def _finish(self, code: int, reason: str, *, by: str, state: State = CLOSED) -> None:
        """The application's last word from this WebSocket."""
        was_open = self.state is OPEN
        self.close_code = code
        self.closed_by = by
        self.received.put({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._enter(state)
        context = self._context
        if was_open:
            context.counts.closes[close_index(code, by)] += 1
        if was_open and context.access_log is not None and self._entry is not None:
            context.access_log.websocket_closed(
                self._entry,
                code=code,
                by=by,
                seconds=context.clock() - self._opened_at,
                received=(self.received.received_count, self.received.received_bytes),
                sent=(self.sent_count, self.sent_bytes),
            )

    def _enter(self, state: State) -> None:
        if self.state is not state:
            self.state = state
            if state is CLOSING or state is CLOSED or state is DENYING:
                self.received.end()
                target, self.topic_target = self.topic_target, None  # a circle otherwise
                if target is not None and self._context.topics is not None:
                    self._context.topics.leave(target)
            self._port.state_changed()
            if state is CLOSED and self._flow is not None:
                self._flow.resume()

    def _write_now(self, frame: bytes) -> None:
        """Write `frame` behind everything that waits to be written."""
        cork, self._cork = self._cork, None
        self._context.output.write_now(
            self._port, b"".join((*cork, frame)) if cork is not None else frame
        )


CONNECTING.handlers = {
    "websocket.accept": WebSocketSession._on_accept,
    "websocket.close": WebSocketSession._on_refuse,
    "websocket.http.response.start": WebSocketSession._on_denial,
}
DENYING.handlers = {}  # the Denial has a table of its own
OPEN.handlers = {"websocket.close": WebSocketSession._on_close}
CLOSING.handlers = {}
CLOSED.handlers = {}


def _as_bytes(data: object) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise ApplicationFault("websocket.send needs `text` (str) or `bytes`")
