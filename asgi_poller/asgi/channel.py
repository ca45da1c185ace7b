"""One WebSocket as ASGI sees it (ASGI: WebSocket Connection Scope, spec version 2.5).

States, and what moves them:

    CONNECTING ── accept ──► OPEN ── a Close of ours ──► CLOSING ── the answer, or none ──► CLOSED
        │                     └── the peer's Close, a fault, the connection lost ────────► CLOSED
        ├── close: 403 ──► CLOSED
        └── http.response.start ──► DENYING ── the last http.response.body ──► CLOSED

There is no queue object and no task between the wire and the application: received messages wait
in a list, the application in at most one future. Most of the time the list has nothing or one thing
in it, so popping its front is the cheapest there is; it is bounded by `max_queue` and by what one
read brings.
 Corking: frames that the application sends while received messages still wait for it are joined and
written once, at the latest by a `call_soon`. A lone message is written at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from asgi_poller.asgi.channel_context import (
    CLOSED,
    CLOSING,
    CONNECTING,
    DENYING,
    OPEN,
    ChannelContext,
    ChannelPort,
    State,
)
from asgi_poller.asgi.denial import Denial
from asgi_poller.asgi.flow import WriteGate
from asgi_poller.asgi.types import Message
from asgi_poller.errors import ApplicationFault, ClientDisconnected, WebSocketFault
from asgi_poller.wire.frames import (
    CLOSE_ABNORMAL,
    CLOSE_INTERNAL_ERROR,
    CLOSE_NO_STATUS_RECEIVED,
    CLOSE_NORMAL,
    Close,
    Event,
    Ping,
    Pong,
    is_sendable_close_code,
)
from asgi_poller.wire.handshake import Handshake
from asgi_poller.wire.response import phrase, simple_response
from asgi_poller.wire.websocket import WebSocketWire

_log = logging.getLogger("asgi_poller.error")
_CORK_OCTETS = 65536  # joined frames above this are written without waiting for the flush
_EARLY_OCTETS = 65536  # sent before the channel was accepted
_QUEUE_HIGH_OCTETS = (
    256 * 1024
)  # received octets waiting for the application: above it the peer is not read


class Channel:
    """One WebSocket. The connection feeds it; the application calls `receive` and `send`. Owned by
    the core's thread.

    `receive` gives connect, then messages, then one disconnect with the code that RFC 6455, 7.1.5
    defines: the peer's, 1005 where it gave none, 1006 where the connection broke, ours where we
    closed. `send` raises ClientDisconnected once the channel has ended, and ApplicationFault for
    what may not be sent.
    """

    __slots__ = (
        "_context",
        "_cork",
        "_cork_octets",
        "_denial",
        "_early",
        "_gate",
        "_handshake",
        "_is_paused",
        "_opened_at",
        "_port",
        "_queue",
        "_queue_octets",
        "_received_count",
        "_sent_count",
        "_sent_octets",
        "_waiter",
        "_wire",
        "_write",
        "close_code",
        "closed_by",
        "received_octets",
        "scope",
        "state",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        handshake: Handshake,
        port: ChannelPort,
        context: ChannelContext,
    ) -> None:
        self.scope = scope
        self.state = CONNECTING
        self.close_code = CLOSE_ABNORMAL
        self.closed_by = "peer"
        self.received_octets = 0  # on the wire; also the proof of life that pings look at
        self._handshake: Handshake | None = handshake
        self._port = port
        self._write = port.write
        self._context = context
        self._wire: WebSocketWire | None = None
        self._early = b""  # octets that came before the channel was accepted
        # what receive() will give: str and bytes are messages, a dict is given as it is
        self._queue: list[str | bytes | Message] = [{"type": "websocket.connect"}]
        self._queue_octets = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False
        self._cork: list[bytes] | None = None
        self._cork_octets = 0
        self._gate: WriteGate | None = None
        self._denial: Denial | None = None
        self._opened_at = 0.0
        self._received_count = 0
        self._sent_count = 0
        self._sent_octets = 0

    # The connection's side

    def feed(self, data: bytes) -> None:
        """Octets from the peer."""
        wire = self._wire
        if wire is None:
            self._feed_early(data)
            return
        self.received_octets += len(data)
        queue = self._queue
        message = wire.lone(data)
        if message is None:
            self._feed_events(wire.receive(data))
        elif self.state is OPEN:
            queue.append(message)
        waiter = self._waiter
        if waiter is not None and queue:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if len(queue) > 1:
            self._queue_octets += len(data)
            self._check_queue()

    def _feed_events(self, events: list[Event]) -> None:
        queue = self._queue
        for event in events:
            kind = type(event)
            if kind is bytes or kind is str:
                queue.append(event)  # type: ignore[arg-type]  # `kind` has said so, faster than isinstance
            else:
                self._on_control(event)
        if self.state is not OPEN:
            self._drop_messages()
        if self._wire is not None and self._wire.is_holding and not self._is_paused:
            self._context.loop.call_soon(self._feed_held)

    def connection_lost(self) -> None:
        """The transport has gone: without a Close frame from the peer that is a 1006 (RFC 6455,
        7.1.5).
        """
        if self.state is CONNECTING or self.state is DENYING or self.state is OPEN:
            self._finish(CLOSE_ABNORMAL, "", by="peer")
        elif self.state is CLOSING:
            self._enter(CLOSED)
        if self._gate is not None:
            self._gate.open()

    def close(self, code: int, reason: str = "", *, by: str = "server") -> None:
        """Begin the closing handshake for the server's own reasons (RFC 6455, 7.1.2); harmless if
        it has begun.
        """
        if self.state is OPEN:
            self._start_closing(code, reason, by)
        elif self.state is CONNECTING:
            self._deny(503 if by == "server" else 403)

    def give_up(self, code: int = CLOSE_ABNORMAL) -> None:
        """The peer did not answer in time: the connection is over, whatever state it was in."""
        if self.state is OPEN:
            self._finish(code, "", by="server")
        elif self.state is not CLOSED:
            self._enter(CLOSED)

    def ping(self) -> None:
        """Send a Ping (RFC 6455, 5.5.2)."""
        if self.state is OPEN and self._wire is not None:
            self._write(self._wire.ping())

    @property
    def is_paused(self) -> bool:
        """Whether the peer is not being read because the application is behind."""
        return self._is_paused

    def block_writing(self) -> None:
        if self._gate is None:
            self._gate = WriteGate(self._context.loop)
        self._gate.shut()

    def unblock_writing(self) -> None:
        if self._gate is not None:
            self._gate.open()

    # The application's side

    def application_ended(self, error: BaseException | None) -> None:
        """The application has returned, or raised `error`: end the channel in its name."""
        # told that its peer has gone, an application may stop by letting that error out
        if error is not None and not isinstance(error, ClientDisconnected):
            _log.error("Exception in ASGI application", exc_info=error)
        if self.state is OPEN:
            code = CLOSE_NORMAL if error is None else CLOSE_INTERNAL_ERROR
            self._start_closing(code, "", by="application")
        elif self.state is CONNECTING:
            if error is None:
                _log.error("ASGI callable returned without accepting or closing the WebSocket.")
            self._deny(500)
        elif self.state is DENYING:
            if error is None:
                _log.error("ASGI callable returned without completing the denial response.")
            self._enter(CLOSED)

    async def receive(self) -> Message:
        """The next message for the application; waits for one. After the disconnect it waits
        forever.
        """
        queue = self._queue
        while not queue:
            waiter = self._waiter
            if waiter is None or waiter.done():
                waiter = self._waiter = self._context.loop.create_future()
                await waiter
            # a second task receives too: it waits beside the first, whose future is not its to
            # cancel
            else:
                await asyncio.wait([waiter])
        event = queue.pop(0)
        if not queue and (self._is_paused or self._queue_octets):
            self._queue_emptied()
        kind = type(event)
        if kind is str:
            self._received_count += 1
            return {"type": "websocket.receive", "text": event}
        if kind is bytes:
            self._received_count += 1
            return {"type": "websocket.receive", "bytes": event}
        return event  # type: ignore[return-value]  # neither str nor bytes: a message as it is

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
        self._sent_count += 1
        self._sent_octets += len(frame)
        cork = self._cork
        if cork is not None:
            cork.append(frame)
            self._cork_octets += len(frame)
            if self._cork_octets > _CORK_OCTETS:
                self._flush()
        elif self._queue:
            self._cork = [frame]
            self._cork_octets = len(frame)
            self._context.loop.call_soon(self._flush)
        else:
            self._write(frame)
        if self._gate is not None and not self._gate.is_open:
            await self._gate.passed()

    async def _send_other(self, message: Message) -> None:
        """Everything but a message on an open channel."""
        kind = message["type"]
        if self._denial is not None:
            await self._denial.send(message)
            return
        handler = self.state.handlers.get(kind)
        if handler is not None:
            handler(self, message)
        elif self.state in (CLOSING, CLOSED):
            raise ClientDisconnected(f"{kind!r} cannot be sent: the WebSocket is closed")
        else:
            raise ApplicationFault(f"{kind!r} cannot be sent: the WebSocket is {self.state.value}")
        if self._denial is not None:
            await self._denial.send(message)

    def _on_accept(self, message: Message) -> None:
        assert self._handshake is not None
        context = self._context
        head, deflate = self._handshake.accept(
            subprotocol=message.get("subprotocol"),
            headers=message.get("headers") or (),
            default_fields=context.default_fields({}),
            deflate=context.deflate,
        )
        self._handshake = None
        self._wire = context.wire(
            context.max_octets, deflate, context.deflate_threshold, context.cache
        )
        self._opened_at = context.clock()
        self._enter(OPEN)
        if context.access_log is not None:
            context.access_log.channel_opened(self.scope)
        self._write(head)
        early, self._early = self._early, b""
        if early:
            if self._is_paused:
                self._is_paused = False
                self._port.set_reading(True)
            self.feed(early)

    def _on_close(self, message: Message) -> None:
        code = message.get("code") or CLOSE_NORMAL
        reason = message.get("reason") or ""
        if not isinstance(code, int) or not is_sendable_close_code(code):
            raise ApplicationFault(f"{code!r} is not a close code that may be sent")
        self._start_closing(code, reason, "application")

    def _on_refuse(self, message: Message) -> None:
        self._deny(403)

    def _on_denial(self, message: Message) -> None:
        self._denial = Denial(self._port, self._context, self._denied)
        if self._context.access_log is not None:
            self._context.access_log.channel_denied(self.scope, message["status"])
        self._enter(DENYING)

    # What both sides come to

    def _deny(self, status: int) -> None:
        """Answer the handshake with an HTTP status and no body of the application's."""
        if self._context.access_log is not None:
            self._context.access_log.channel_denied(self.scope, status)
        self._write(simple_response(status, phrase(status).decode()))
        self._denied()

    def _denied(self) -> None:
        """The handshake was answered with something else than 101: to the application that is a
        1006.
        """
        self._handshake = None
        self._queue.append({"type": "websocket.disconnect", "code": CLOSE_ABNORMAL, "reason": ""})
        self._wake()
        self._enter(CLOSED)

    def _on_control(self, event: Event) -> None:
        """Control frames are answered at once, whatever the application does."""
        match event:
            case Ping(payload):
                if self.state is OPEN:
                    self._write(self._wire.pong(payload))  # type: ignore[union-attr]  # OPEN has a wire
            case Close(code, reason):
                self._on_peer_close(code, reason)
            case WebSocketFault(code=code, reason=reason):
                if self.state is OPEN:
                    self._start_closing(code, reason, "server")
                # RFC 6455, 7.1.7: nothing that follows can be understood, an answer to our Close
                # neither
                self._enter(CLOSED)
            case Pong():
                pass  # it has done its work by arriving: `received_octets` has changed

    def _on_peer_close(self, code: int, reason: str) -> None:
        if self.state is OPEN:
            self._flush()
            answer = None if code == CLOSE_NO_STATUS_RECEIVED else code
            self._write(self._wire.close(answer))  # type: ignore[union-attr]  # OPEN has a wire
            self._finish(code, reason, by="peer")
        else:
            self._enter(CLOSED)

    def _start_closing(self, code: int, reason: str, by: str) -> None:
        """Send our Close and tell the application; the peer has the close timeout to answer."""
        self._flush()
        self._write(self._wire.close(code, reason))  # type: ignore[union-attr]  # OPEN has a wire
        if self._is_paused:  # its answer must be read
            self._is_paused = False
            self._port.set_reading(True)
        self._finish(code, reason, by=by, state=CLOSING)

    def _finish(self, code: int, reason: str, *, by: str, state: State = CLOSED) -> None:
        """The application's last word from this channel."""
        was_open = self.state is OPEN
        self.close_code = code
        self.closed_by = by
        self._queue.append({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._wake()
        self._enter(state)
        if was_open and self._context.access_log is not None:
            self._context.access_log.channel_closed(
                self.scope,
                code=code,
                by=by,
                seconds=self._context.clock() - self._opened_at,
                received=(self._received_count, self.received_octets),
                sent=(self._sent_count, self._sent_octets),
            )

    def _enter(self, state: State) -> None:
        if self.state is not state:
            self.state = state
            self._port.state_changed()
            if state is CLOSED and self._gate is not None:
                self._gate.open()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _flush(self) -> None:
        """Write what was joined."""
        cork, self._cork = self._cork, None
        if cork:
            self._write(cork[0] if len(cork) == 1 else b"".join(cork))

    # Received messages that wait

    def _feed_early(self, data: bytes) -> None:
        """A client may not send before it has our 101; some do, and what fits is kept for them."""
        if self.state is not CONNECTING:
            return
        self._early += data
        if len(self._early) > _EARLY_OCTETS and not self._is_paused:
            self._is_paused = True
            self._port.set_reading(False)

    def _feed_held(self) -> None:
        wire = self._wire
        if wire is not None and wire.is_holding and not self._is_paused:
            self.feed(b"")

    def _drop_messages(self) -> None:
        """After our Close, messages that arrive are not for the application."""
        if self.state is CLOSING:
            while self._queue and not isinstance(self._queue[-1], dict):
                self._queue.pop()

    def _check_queue(self) -> None:
        if self._is_paused or self.state is not OPEN:
            return
        if len(self._queue) > self._context.max_queue or self._queue_octets > _QUEUE_HIGH_OCTETS:
            self._is_paused = True
            self._port.set_reading(False)

    def _queue_emptied(self) -> None:
        self._queue_octets = 0
        if self._is_paused:
            self._is_paused = False
            self._port.set_reading(True)
            if self._wire is not None and self._wire.is_holding:
                self._context.loop.call_soon(self._feed_held)


CONNECTING.handlers = {
    "websocket.accept": Channel._on_accept,
    "websocket.close": Channel._on_refuse,
    "websocket.http.response.start": Channel._on_denial,
}
DENYING.handlers = {}  # the Denial has a table of its own
OPEN.handlers = {"websocket.close": Channel._on_close}
CLOSING.handlers = {}
CLOSED.handlers = {}


def _as_bytes(data: object) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise ApplicationFault("websocket.send needs `text` (str) or `bytes`")
