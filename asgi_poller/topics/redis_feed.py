"""Listening to channels of Redis: on one connection, or on one for each server of a Cluster.

A connection that ends takes its subscriptions with it, and nothing is subscribed again behind our
back: the owner is told which channels are silent, and from when on they are not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Protocol

from redis.asyncio import Connection
from redis.exceptions import RedisError

from asgi_poller.topics.outage import Outage, delays, plain
from asgi_poller.topics.outbox import ServiceLost
from asgi_poller.topics.redis_service import LOST, Address, RedisService

#: Silence, in seconds, after which a connection is asked, and after which it is given up.
_QUIET_S: Final = 10.0
_ANSWER_S: Final = 10.0
_PART: Final = "subscribe"


class FeedOwner(Protocol):
    """Called on the hub's loop."""

    def heard(self, channel: str, payload: bytes) -> None:
        """Somebody has published."""

    def live(self, channel: str) -> None:
        """From now on all that is published there is heard."""

    def silent(self, channels: Iterable[str]) -> None:
        """From now on it is not, until `live`."""


class RedisFeed:
    """Owned by the hub's loop."""

    def __init__(self, service: RedisService, owner: FeedOwner, outage: Outage) -> None:
        self._service = service
        self._owner = owner
        self._outage = outage
        self._lines: dict[Address, _Line] = {}
        self._at: dict[str, _Line | None] = {}  # None: it is to be subscribed
        self._homeless: set[str] = set()  # those
        self._unheard: set[str] = set()  # subscribed, and not confirmed
        self._wake = asyncio.Event()

    def join(self, channel: str) -> None:
        """Listen to it."""
        if channel not in self._at:
            self._at[channel] = None
            self._homeless.add(channel)
            self._wake.set()

    def leave(self, channel: str) -> None:
        """Not any more."""
        line = self._at.pop(channel, None)
        self._homeless.discard(channel)
        self._unheard.discard(channel)
        if line is not None:
            line.unsubscribe(channel)
        self._look_whole()

    async def run(self) -> None:
        """Keep all of them subscribed, until it is cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for delay_s in delays():
                    try:
                        await self._subscribe()
                        break
                    except (ServiceLost, RedisError) as error:
                        self._outage.begin(_PART, error)
                        await asyncio.sleep(delay_s)
        finally:
            for line in list(self._lines.values()):
                line.end()

    # Of lines

    def heard(self, channel: str, payload: bytes) -> None:
        if channel in self._at:
            self._owner.heard(channel, payload)

    def confirmed(self, line: _Line, channel: str) -> None:
        """Redis has subscribed it."""
        if self._at.get(channel) is line:
            self._unheard.discard(channel)
            self._owner.live(channel)
            self._look_whole()

    def removed(self, line: _Line, channel: str) -> None:
        """Redis has ended the subscription: the slot has moved to another server."""
        if self._at.get(channel) is line:
            self._lose([channel])

    def ended(self, line: _Line, error: BaseException) -> None:
        """Its connection has."""
        if self._lines.get(line.address) is line:
            del self._lines[line.address]
        lost = [channel for channel, at in self._at.items() if at is line]
        if lost:
            self._outage.begin(_PART, error)
            self._lose(lost)

    # Inside

    def _lose(self, channels: list[str]) -> None:
        self._service.moved()
        for channel in channels:
            self._at[channel] = None
        self._homeless.update(channels)
        self._unheard.difference_update(channels)
        self._owner.silent(channels)
        self._wake.set()

    async def _subscribe(self) -> None:
        """Those that are not; raises ServiceLost."""
        while self._homeless:
            for address, channels in (await self._service.place(list(self._homeless))).items():
                line = self._lines.get(address)
                if line is None:
                    line = await _Line.opened(self, address, self._service)
                    self._lines[address] = line
                for channel in channels:
                    if channel in self._homeless:  # it may have been left meanwhile
                        self._homeless.discard(channel)
                        self._unheard.add(channel)
                        self._at[channel] = line
                        line.subscribe(channel)
        self._look_whole()

    def _look_whole(self) -> None:
        if not self._homeless and not self._unheard:
            self._outage.end(_PART)


class _Line:
    """One connection. `opened` makes it."""

    def __init__(
        self, feed: RedisFeed, address: Address, connection: Connection, service: RedisService
    ) -> None:
        self.address = address
        self._feed = feed
        self._service = service
        self._connection = connection
        self._out: list[tuple[str, ...]] = []
        self._filled = asyncio.Event()
        self._asked: Counter[str] = Counter()  # subscriptions that are not confirmed, by channel
        self._unasked: Counter[str] = Counter()
        self._task = asyncio.create_task(self._live())

    @classmethod
    async def opened(cls, feed: RedisFeed, address: Address, service: RedisService) -> _Line:
        """Raises ServiceLost."""
        connection = service.connection(address)
        try:
            connect: Any = connection.connect  # it has no types
            await connect()
        except (*LOST, RedisError) as error:
            raise ServiceLost(plain(error)) from None
        return cls(feed, address, connection, service)

    def subscribe(self, channel: str) -> None:
        self._asked[channel] += 1
        self._out.append((self._service.subscribe_command, channel))
        self._filled.set()

    def unsubscribe(self, channel: str) -> None:
        self._unasked[channel] += 1
        self._out.append((self._service.unsubscribe_command, channel))
        self._filled.set()

    def end(self) -> None:
        """No more."""
        self._task.cancel()

    async def _live(self) -> None:
        writing = asyncio.create_task(self._write())
        reading = asyncio.create_task(self._read())
        error: BaseException = ServiceLost("the server ends")
        try:
            done, _ = await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception() or error
        finally:
            for task in (writing, reading):
                task.cancel()
            with contextlib.suppress(Exception):
                await asyncio.gather(writing, reading, return_exceptions=True)
            with contextlib.suppress(Exception):
                await self._connection.disconnect(nowait=True)
        self._feed.ended(self, error)

    async def _write(self) -> None:
        connection = self._connection
        while True:
            await self._filled.wait()
            self._filled.clear()
            out, self._out = self._out, []
            await connection.send_packed_command(connection.pack_commands(out), check_health=False)

    async def _read(self) -> None:
        connection = self._connection
        is_asked = False
        while True:
            # None: nothing came; what has come of an answer is kept for the next call
            answer = await connection.read_response(timeout=_ANSWER_S if is_asked else _QUIET_S)
            if answer is not None:
                is_asked = False
                self._take(answer)
            elif is_asked:
                raise ServiceLost("it does not answer")
            else:
                is_asked = True
                self._out.append(("PING",))
                self._filled.set()

    def _take(self, answer: Any) -> None:
        if not isinstance(answer, list) or len(answer) < 3:
            return  # the answer to PING
        kind, channel = answer[0], answer[1].decode()
        if kind in (b"message", b"smessage"):
            self._feed.heard(channel, answer[2])
        elif kind in (b"subscribe", b"ssubscribe"):
            self._asked[channel] -= 1
            if self._asked[channel] <= 0:  # the last of those that were asked for
                del self._asked[channel]
                self._feed.confirmed(self, channel)
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            self._unasked[channel] -= 1
            if self._unasked[channel] < 0:
                self._feed.removed(self, channel)
            if self._unasked[channel] <= 0:
                del self._unasked[channel]
