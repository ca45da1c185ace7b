"""The receive side of a WebSocket session: messages that have arrived and wait for the application.

There is no queue object and no task between the wire and the application: received messages wait
in a list, the application in at most one future. Most of the time the list has nothing or one thing
in it, so popping its front is the cheapest there is.

It is bounded: by `max_queue` messages, by octets, and by what one read of the wire brings. Above
that the peer is not read until the application has taken all that waits, and TCP tells the peer.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket_context import WebSocketContext, WebSocketPort
from asgi_poller.protocols.websocket.frames import Event
from asgi_poller.protocols.websocket.protocol import WebSocketWire

_EARLY_BYTES = 65536  # sent before the WebSocket was accepted
# of messages waiting for the application, inflated: above it the peer is not read
_QUEUE_HIGH_BYTES = 256 * 1024


class Owner(Protocol):
    """The WebSocket that receives."""

    def on_control(self, event: Event) -> None:
        """A Ping, Pong, Close or WebSocketFault has come."""


class ReceiveQueue:
    """Feeds the wire, keeps what comes, gives it to the application. Owned by the loop's thread.

    Its owner tells it when the WebSocket opens, ends, and when the connection is lost.
    """

    __slots__ = (
        "_context",
        "_early",
        "_is_connecting",
        "_is_open",
        "_owner",
        "_port",
        "_queue_bytes",
        "_waiter",
        "_wire",
        "is_paused",
        "queue",
        "received_bytes",
        "received_count",
    )

    def __init__(self, owner: Owner, port: WebSocketPort, context: WebSocketContext) -> None:
        self.received_bytes = 0  # on the wire; also the proof of life that pings look at
        self.received_count = 0  # messages that the application has had
        # what receive() will give: str and bytes are messages, a dict is given as it is
        self.queue: list[str | bytes | Message] = [{"type": "websocket.connect"}]
        self.is_paused = False  # the peer is not read, because the application is behind
        self._owner: Owner | None = owner
        self._port = port
        self._context = context
        self._wire: WebSocketWire | None = None
        self._early = b""  # octets that came before the WebSocket was accepted
        self._queue_bytes = 0  # read since there were two, as on the wire
        self._waiter: asyncio.Future[None] | None = None
        self._is_connecting = True
        self._is_open = False

    # The connection's side

    def feed(self, data: bytes) -> None:
        """Octets from the peer."""
        wire = self._wire
        if wire is None:
            self._feed_early(data)
            return
        self.received_bytes += len(data)
        queue = self.queue
        message = wire.parse_single(data)
        if message is None:
            self._feed_events(wire, wire.receive(data))
        elif self._is_open:
            queue.append(message)
        waiter = self._waiter
        if waiter is not None and queue:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
                self._context.output.expected += 1
        if len(queue) > 1:
            self._queue_bytes += len(data)
            self._check_queue()

    # The application's side

    async def receive(self) -> Message:
        """The next message for the application; waits for one. After the disconnect it waits
        forever.
        """
        queue = self.queue
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
        if not queue and (self.is_paused or self._queue_bytes):
            self._queue_emptied()
        kind = type(event)
        if kind is str:
            self.received_count += 1
            return {"type": "websocket.receive", "text": event}
        if kind is bytes:
            self.received_count += 1
            return {"type": "websocket.receive", "bytes": event}
        return event  # type: ignore[return-value]  # neither str nor bytes: a message as it is

    # Its owner's side

    def put(self, message: Message) -> None:
        """The application gets `message` as it is, after everything that waits."""
        self.queue.append(message)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def open(self, wire: WebSocketWire) -> None:
        """The handshake is answered: what came too early is read now."""
        self._is_connecting, self._is_open = False, True
        self._wire = wire
        early, self._early = self._early, b""
        self._resume()
        if early:
            self.feed(early)

    def end(self) -> None:
        """No message that comes from now on is for the application."""
        self._is_connecting = self._is_open = False

    @property
    def waiting_count(self) -> int:
        """Messages that the application has not had yet."""
        queue = self.queue  # one that has ended has its disconnect behind them
        return sum(not isinstance(each, dict) for each in queue) if len(queue) > 1 else 0

    def read_to_the_end(self) -> None:
        """We have sent our Close: the application may be behind as it likes, the answer is read."""
        self._resume()
        if self._wire is not None and self._wire.has_buffered:
            self._context.loop.call_soon(self._feed_held)

    def connection_lost(self) -> None:
        """Nothing more comes. As a circle, this and its owner would wait for the garbage
        collector.
        """
        self._owner = self._wire = None

    # What waits

    def _feed_early(self, data: bytes) -> None:
        """A client may not send before it has our 101; some do, and what fits is kept for them."""
        if self._is_connecting:
            self._early += data
            if len(self._early) > _EARLY_BYTES:
                self._pause()

    def _feed_events(self, wire: WebSocketWire, events: list[Event]) -> None:
        queue, owner = self.queue, self._owner
        assert owner is not None
        for event in events:
            kind = type(event)
            if kind is bytes or kind is str:
                queue.append(event)  # type: ignore[arg-type]  # as `kind` says, sooner than isinstance
            else:
                owner.on_control(event)
        if not self._is_open:
            # messages that arrive behind a Close, ours or the peer's, are not for the application
            while queue and not isinstance(queue[-1], dict):
                queue.pop()
        if wire.has_buffered:
            # So much at a time: nothing more is read until this has been taken. A read of
            # control frames alone waits for nobody.
            self._pause()
            if not queue or not self._is_open:
                self._context.loop.call_soon(self._feed_held)

    def _feed_held(self) -> None:
        wire = self._wire
        if wire is None or (self.queue and self._is_open):
            return
        if wire.has_buffered:
            self.feed(b"")
        if not wire.has_buffered and (not self.queue or not self._is_open):
            self._resume()

    def _check_queue(self) -> None:
        """More than one message waits: perhaps too many."""
        if self.is_paused or not self._is_open:
            return
        queue, octets = self.queue, self._queue_bytes
        if self._wire is not None and self._wire.inflates:
            octets = sum(map(len, queue))
        if len(queue) > self._context.max_queue or octets > _QUEUE_HIGH_BYTES:
            self._pause()

    def _queue_emptied(self) -> None:
        self._queue_bytes = 0
        if self._wire is not None and self._wire.has_buffered:
            self._context.loop.call_soon(self._feed_held)
        else:
            self._resume()

    def _pause(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            self._port.set_reading(False)

    def _resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._port.set_reading(True)
