"""What this machine publishes, on its way to the service that joins machines: in order, one batch
after the other, and through an outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics.outage import Outage, delays

_logger = logging.getLogger("asgi_poller.error")

# Of one batch: so that an answer comes soon, and a repeated one is small.
_BATCH_COUNT: Final = 256
_BATCH_BYTES: Final = 1024 * 1024
_PART: Final = "publish"
_LISTENING_S: Final = 5.0
#: Most that waits for the end of an outage, however few publications it is.
BUFFER_BYTES: Final = 64 * 1024 * 1024


class ServiceLost(Exception):
    """The service cannot be reached, or does not answer."""


@dataclass(slots=True, eq=False)
class Outgoing:
    """A publication under way. `number` rises with each one of this machine, so that the service,
    or who gets it, knows one that is sent twice. `done` gives the id.
    """

    number: int
    topic: str
    form: str
    data: bytes
    done: asyncio.Future[str]
    has_waited: bool = False  # for the end of an outage

    def taken(self, id: str) -> None:
        """The service has it."""
        if not self.done.done():
            self.done.set_result(id)

    def failed(self, reason: str) -> None:
        """It is not sent again."""
        if not self.done.done():
            self.done.set_exception(TopicsUnavailable(reason))


class Outbox:
    """Owned by the hub's loop.

    `send` gives a batch to the service, and calls `taken` or `failed` of each; where it raises
    ServiceLost, those that are not done are sent again. So `send` must be able to send one twice.
    `reach` raises ServiceLost while the service cannot be reached.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Outgoing]], Awaitable[None]],
        reach: Callable[[], Awaitable[object]],
        outage: Outage,
        buffer_count: int,
    ) -> None:
        self._send = send
        self._reach = reach
        self._outage = outage
        self._buffer_count = buffer_count
        self._number = 0
        self._waiting_bytes = 0
        self._queue: deque[Outgoing] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        """Publications that the service does not have yet."""
        return len(self._queue)

    async def publish(self, topic: str, form: str, data: bytes) -> str:
        """Send it after all before it; its id. Raises TopicsUnavailable."""
        outage = self._outage
        if outage.is_on:
            if not self._has_room(len(self._queue) + 1, self._waiting_bytes + len(data)):
                outage.refused += 1
                raise TopicsUnavailable(outage.reason)
            outage.buffered += 1
        self._number += 1
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        outgoing = Outgoing(self._number, topic, form, data, done, has_waited=outage.is_on)
        self._queue.append(outgoing)
        self._waiting_bytes += len(data)
        self._filled.set()
        return await done

    async def run(self) -> None:
        """Send, until it is cancelled."""
        try:
            while True:
                await self._filled.wait()
                await self._send_some()
                self._forget_done()
                if not self._queue:
                    self._filled.clear()
        finally:
            for each in self._queue:
                each.failed("topics: the server ends")

    async def _send_some(self) -> None:
        batch: list[Outgoing] = []
        size = 0
        for each in self._queue:
            batch.append(each)
            size += len(each.data)
            if len(batch) == _BATCH_COUNT or size > _BATCH_BYTES:
                break
        try:
            try:
                await self._send([each for each in batch if not each.done.done()])
            except ServiceLost:  # a connection that has ended is no outage: once more, at once
                await self._send([each for each in batch if not each.done.done()])
        except ServiceLost as error:
            self._outage.begin(_PART, error)
            self._keep_some()
            await self._wait_reached()
        except Exception as error:
            _logger.exception("Topics: publications could not be sent.")
            for each in batch:
                each.failed(f"topics: {error}")

    def _has_room(self, count: int, size_bytes: int) -> bool:
        return count <= self._buffer_count and size_bytes <= BUFFER_BYTES

    def _forget_done(self) -> None:
        """Those at the front; among the others there may be some."""
        while self._queue and self._queue[0].done.done():
            self._waiting_bytes -= len(self._queue.popleft().data)

    def _keep_some(self) -> None:
        """As many wait for the end of the outage as are to be kept, the oldest."""
        self._forget_done()
        while not self._has_room(len(self._queue), self._waiting_bytes) and self._queue:
            last = self._queue.pop()
            self._waiting_bytes -= len(last.data)
            self._outage.refused += 1
            last.failed(f"{self._outage.reason}; whether it has been published is not known")
        for each in self._queue:
            self._outage.buffered += not each.has_waited
            each.has_waited = True

    async def _wait_reached(self) -> None:
        for delay_s in delays():
            with contextlib.suppress(ServiceLost):
                await self._reach()
                self._outage.end(_PART)
                # what has waited is for subscribers here too: they listen again in a moment
                await self._outage.wait_over(_LISTENING_S)
                return
            await asyncio.sleep(delay_s)
