"""Received messages on their way to the application: a list and at most one future.

There is no queue object and no task between the wire and the application. Most of the time the
list has nothing or one thing in it, so that popping its front is the cheapest there is; it is
bounded by `max_queue` and by what one read brings.
"""

from __future__ import annotations

import asyncio

from asgi_poller.asgi.channel_context import ChannelContext, ChannelPort
from asgi_poller.asgi.types import Message

# Received octets that wait for the application: above it the peer is not read.
_HIGH_OCTETS = 256 * 1024


class Inbox:
    """The receiving half of a channel. Owned by the core's thread.

    What `receive` will give waits in `_queue`: str and bytes are messages, a dict is given as it
    is. The half that knows the wire fills it, wakes the application, and checks the bound.
    """

    __slots__ = (
        "_context",
        "_is_paused",
        "_port",
        "_queue",
        "_queue_octets",
        "_received_count",
        "_waiter",
    )

    def __init__(self, port: ChannelPort, context: ChannelContext) -> None:
        self._port = port
        self._context = context
        self._queue: list[str | bytes | Message] = [{"type": "websocket.connect"}]
        self._queue_octets = 0
        self._received_count = 0  # messages that the application has had
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False

    @property
    def is_paused(self) -> bool:
        """Whether the peer is not being read because the application is behind."""
        return self._is_paused

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
            else:  # a second task receives too: it waits beside the first, whose future is not its
                await asyncio.wait([waiter])
        event = queue.pop(0)
        if not queue and (self._is_paused or self._queue_octets):
            self._queue_octets = 0
            self._resume()
        kind = type(event)
        if kind is str:
            self._received_count += 1
            return {"type": "websocket.receive", "text": event}
        if kind is bytes:
            self._received_count += 1
            return {"type": "websocket.receive", "bytes": event}
        return event  # type: ignore[return-value]  # neither str nor bytes: a message as it is

    def _put(self, message: Message) -> None:
        """The application gets `message` as it is, after everything that waits."""
        self._queue.append(message)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _check_queue(self) -> None:
        """More than one message waits: perhaps too many."""
        if len(self._queue) > self._context.max_queue or self._queue_octets > _HIGH_OCTETS:
            self._pause()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._port.set_reading(False)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._port.set_reading(True)
            self._more_wanted()

    def _more_wanted(self) -> None:
        """The application has caught up: what the wire holds back may come."""
