"""The hub of several processes: it takes what their event loops publish to those that want it.

mailbox.py says how a loop reaches it.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from asgi_poller.topics import wire
from asgi_poller.topics import wire_messages as said
from asgi_poller.topics.hub import HistoryRules, Hub
from asgi_poller.topics.hub_end import HubEnd
from asgi_poller.topics.hub_upstream import FanOut, UpstreamSource, answer
from asgi_poller.topics.mailbox import connected, taken_from
from asgi_poller.topics.publication import Publication
from asgi_poller.topics.upstream import Upstream

_logger = logging.getLogger("asgi_poller.error")

#: A loop that has not said within this how many subscribers it has is not counted.
COUNT_S: Final = 2.0
#: For what is still to be written when the hub ends.
END_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Tally:
    """A count of subscribers of this machine under way; `done` gets it."""

    done: Callable[[int], object]
    waiting: set[HubEnd]
    timer: asyncio.TimerHandle
    total: int = 0


class LocalSource:
    """Where the publications come from of a hub that is the only one: itself."""

    def __init__(self, hub: Hub[HubEnd], fan_out: FanOut) -> None:
        self._hub = hub
        self._fan_out = fan_out

    async def start(self) -> None:
        """Nothing is needed."""

    async def close(self) -> None:
        """Nothing is left."""

    def publish(self, end: HubEnd, message: said.Publish) -> None:
        """Give it to all who want it, and say so."""
        request, topic, form, data = message
        publication = self._hub.publish(topic, form, data)
        taken = wire.taken(request, publication.id)
        slow = self._fan_out(publication)
        if slow is None:
            end.put_taken(taken)
        else:
            slow.hold(functools.partial(end.put_taken, taken))

    def join(self, end: HubEnd, message: said.Join) -> None:
        """Give the loop the topic, after what it missed."""
        self._hub.join(message.topic, end)
        answer(end, message.request, self._hub.missed(message.topic, message.since))

    def leave(self, end: HubEnd, topic: str) -> None:
        """Nothing more of the topic."""
        self._hub.leave(topic, end)

    def forget(self, end: HubEnd) -> None:
        """The loop has gone."""
        self._hub.forget(end)

    def count(self, end: HubEnd, request: int, topic: str, *, here: int) -> None:
        """Say how many subscribers there are."""
        end.put(wire.counts(request, here, here))


class HubServer:
    """Owned by the event loop that it is made on. `rules` say what is kept of which topic."""

    def __init__(self, rules: HistoryRules | None = None, upstream: Upstream | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._hub: Hub[HubEnd] = Hub(rules)
        self._source = (
            LocalSource(self._hub, self._fan_out)
            if upstream is None
            else UpstreamSource(self._hub, upstream, self._fan_out, self._count_here)
        )
        self._ends: set[HubEnd] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._dirty: list[HubEnd] = []
        self._tallies: dict[int, _Tally] = {}
        self._numbers = itertools.count(1)
        self._handlers: dict[type, Callable[[HubEnd, Any], None]] = {
            said.Publish: self._source.publish,
            said.Join: self._source.join,
            said.Leave: lambda end, message: self._source.leave(end, message.topic),
            said.Count: self._count,
            said.Counted: self._counted,
        }

    def __len__(self) -> int:
        """Event loops that are joined."""
        return len(self._ends)

    async def start(self) -> None:
        """Before anything is added. `serve` does it."""
        await self._source.start()

    def add(self, sock: socket.socket) -> None:
        """Serve the link whose end `sock` is, a connected stream socket, which is closed when the
        link ends.
        """
        task = self._loop.create_task(self._open(sock))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def serve(self, mailbox: socket.socket, ended: asyncio.Event) -> None:
        """Serve the ends that come through `mailbox` until `ended` is set, or until nobody is there
        any more who could send one.
        """
        await self.start()
        mailbox.setblocking(False)
        self._loop.add_reader(mailbox.fileno(), self._take, mailbox, ended)
        try:
            await ended.wait()
        finally:
            self._loop.remove_reader(mailbox.fileno())
            await self.close()

    async def close(self) -> None:
        """End all links, when what they are to be told is written."""
        for task in list(self._opening):
            task.cancel()
        await self._source.close()
        for end in list(self._ends):
            end.close()
        until_s = self._loop.time() + END_S
        while self._ends and self._loop.time() < until_s:
            await asyncio.sleep(0.01)
        for end in list(self._ends):
            end.cut_off()

    # Owner

    def handle(self, end: HubEnd, message: Any) -> None:
        """See Owner."""
        self._handlers[type(message)](end, message)

    def written(self, end: HubEnd) -> None:
        """See Owner."""
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(end)

    def opened(self, end: HubEnd) -> None:
        """See Owner."""
        self._ends.add(end)

    def closed(self, end: HubEnd) -> None:
        """See Owner."""
        self._ends.discard(end)
        self._source.forget(end)
        for number, tally in list(self._tallies.items()):
            self._tell(number, tally, end, 0)

    # What loops ask for

    def _count(self, end: HubEnd, message: said.Count) -> None:
        request, topic = message
        self._tally(topic, lambda here: self._source.count(end, request, topic, here=here))

    def _counted(self, end: HubEnd, message: said.Counted) -> None:
        tally = self._tallies.get(message.request)
        if tally is not None:
            self._tell(message.request, tally, end, message.here)

    # Inside

    async def _count_here(self, topic: str) -> int:
        """Subscribers of this machine."""
        counted: asyncio.Future[int] = self._loop.create_future()

        def done(here: int) -> None:
            if not counted.done():
                counted.set_result(here)

        self._tally(topic, done)
        return await counted

    def _tally(self, topic: str, done: Callable[[int], object]) -> None:
        number = next(self._numbers) & 0xFFFFFFFF
        ends = self._hub.links(topic)
        timer = self._loop.call_later(COUNT_S, self._count_up, number)
        self._tallies[number] = _Tally(done, set(ends), timer)
        for each in ends:
            each.put(wire.ask(number, topic))
        if not ends:
            self._count_up(number)

    async def _open(self, sock: socket.socket) -> None:
        try:
            await connected(self._loop, functools.partial(HubEnd, self, self._loop), sock)
        except OSError as error:
            _logger.error("Topics: an event loop cannot be joined: %s.", error)

    def _take(self, mailbox: socket.socket, ended: asyncio.Event) -> None:
        """Take what is in the mailbox."""
        try:
            while (ends := taken_from(mailbox)) is not None:
                for end in ends:
                    self.add(end)
        except EOFError:
            ended.set()
        except OSError as error:
            _logger.error("Topics: no event loop can be joined any more: %s.", error)
            ended.set()

    def _fan_out(self, publication: Publication) -> HubEnd | None:
        """Give it to all that want it; one of them that is to be waited for, if any."""
        ends = self._hub.links(publication.topic)
        if not ends:
            return None
        message = wire.publication(publication)
        slow = None
        for each in ends:
            each.put(message)
            if each.is_waited_for:
                slow = each
        return slow

    def _flush(self) -> None:
        """First what all are told, then to whom it came from that it was taken."""
        dirty, self._dirty = self._dirty, []
        publishers = []
        for end in dirty:
            if end.has_taken:
                publishers.append(end)
            else:
                end.flush()
        if len(publishers) == 1:
            publishers[0].flush_taken()
        elif publishers:
            for end in publishers:
                end.flush()
            # in another turn, since uvloop writes when a turn ends
            self._loop.call_soon(self._flush_taken, publishers)

    def _flush_taken(self, publishers: list[HubEnd]) -> None:
        for end in publishers:
            end.flush_taken()

    def _tell(self, number: int, tally: _Tally, end: HubEnd, count: int) -> None:
        if end in tally.waiting:
            tally.waiting.discard(end)
            tally.total += count
            if not tally.waiting:
                self._count_up(number)

    def _count_up(self, number: int) -> None:
        tally = self._tallies.pop(number)
        tally.timer.cancel()
        tally.done(tally.total)
