"""What has arrived on a WebSocket and waits for its application: the half of a channel that reads.

There is no queue object and no task between the wire and the application: received messages wait
in a list, the application in at most one future. Most of the time the list has nothing or one thing
in it, so popping its front is the cheapest there is.

It is bounded: by `max_queue` messages, by octets, and by what one helping of the wire brings. Above
that the peer is not read until the application has taken all that waits, and TCP tells the peer.
"""

from __future__ import annotations

import asyncio

from asgi_poller.asgi.channel_context import (
    CONNECTING,
    OPEN,
    ChannelContext,
    ChannelPort,
    State,
)
from asgi_poller.asgi.types import Message
from asgi_poller.wire.frames import Event
from asgi_poller.wire.websocket import WebSocketWire

_EARLY_OCTETS = 65536  # sent before the channel was accepted
# of messages waiting for the application, inflated: above it the peer is not read
_QUEUE_HIGH_OCTETS = 256 * 1024


class Inbox:
    """Feeds the wire, keeps what comes, gives it to the application. Owned by the core's thread.

    The channel makes the wire when it is accepted, and says in `_on_control` what becomes of
    control frames and faults.
    """

    __slots__ = (
        "_context",
        "_early",
        "_is_paused",
        "_port",
        "_queue",
        "_queue_octets",
        "_received_count",
        "_waiter",
        "_wire",
        "received_octets",
        "state",
    )

    def __init__(self, port: ChannelPort, context: ChannelContext) -> None:
        self.state: State = CONNECTING
        self.received_octets = 0  # on the wire; also the proof of life that pings look at
        self._port = port
        self._context = context
        self._wire: WebSocketWire | None = None
        self._early = b""  # octets that came before the channel was accepted
        # what receive() will give: str and bytes are messages, a dict is given as it is
        self._queue: list[str | bytes | Message] = [{"type": "websocket.connect"}]
        self._queue_octets = 0  # read since there were two, as on the wire
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False
        self._received_count = 0  # messages that the application has had

    # The connection's side

    @property
    def is_paused(self) -> bool:
        """Whether the peer is not being read because the application is behind."""
        return self._is_paused

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
            self._feed_events(wire, wire.receive(data))
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

    # The application's side

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

    # For the channel

    def _on_control(self, event: Event) -> None:
        """A Ping, Pong, Close or WebSocketFault has come."""
        raise NotImplementedError

    def _put(self, message: Message) -> None:
        """The application gets `message` as it is, after everything that waits."""
        self._queue.append(message)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _start_wire(self, wire: WebSocketWire) -> None:
        """The channel is open: what came too early is read now."""
        self._wire = wire
        early, self._early = self._early, b""
        self._resume()
        if early:
            self.feed(early)

    def _read_to_the_end(self) -> None:
        """We have sent our Close: the application may be behind as it likes, the answer is read."""
        self._resume()
        if self._wire is not None and self._wire.is_holding:
            self._context.loop.call_soon(self._feed_held)

    # What waits

    def _feed_early(self, data: bytes) -> None:
        """A client may not send before it has our 101; some do, and what fits is kept for them."""
        if self.state is CONNECTING:
            self._early += data
            if len(self._early) > _EARLY_OCTETS:
                self._pause()

    def _feed_events(self, wire: WebSocketWire, events: list[Event]) -> None:
        queue = self._queue
        for event in events:
            kind = type(event)
            if kind is bytes or kind is str:
                queue.append(event)  # type: ignore[arg-type]  # as `kind` says, sooner than isinstance
            else:
                self._on_control(event)
        if self.state is not OPEN:
            # messages that arrive behind a Close, ours or the peer's, are not for the application
            while queue and not isinstance(queue[-1], dict):
                queue.pop()
        if wire.is_holding:
            # One helping at a time: nothing more is read until this one has been taken. One of
            # control frames alone waits for nobody.
            self._pause()
            if not queue or self.state is not OPEN:
                self._context.loop.call_soon(self._feed_held)

    def _feed_held(self) -> None:
        wire = self._wire
        if wire is None or (self._queue and self.state is OPEN):
            return
        if wire.is_holding:
            self.feed(b"")
        if not wire.is_holding and (not self._queue or self.state is not OPEN):
            self._resume()

    def _check_queue(self) -> None:
        """More than one message waits: perhaps too many."""
        if self._is_paused or self.state is not OPEN:
            return
        queue, octets = self._queue, self._queue_octets
        if self._wire is not None and self._wire.inflates:
            octets = sum(map(len, queue))
        if len(queue) > self._context.max_queue or octets > _QUEUE_HIGH_OCTETS:
            self._pause()

    def _queue_emptied(self) -> None:
        self._queue_octets = 0
        if self._wire is not None and self._wire.is_holding:
            self._context.loop.call_soon(self._feed_held)
        else:
            self._resume()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._port.set_reading(False)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._port.set_reading(True)
