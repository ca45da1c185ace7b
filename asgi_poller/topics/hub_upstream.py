"""A hub whose ids and history are an upstream's: it only gives on what comes.

Of each topic it knows how far it has given it on (`live`). What a loop has missed comes from the
upstream's history, which may be ahead of that or behind: it is cut there, and what came live while
it was fetched is added. So a loop that joins has no gap and nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics import wire
from asgi_poller.topics import wire_messages as said
from asgi_poller.topics.hub import Hub
from asgi_poller.topics.hub_end import HubEnd
from asgi_poller.topics.publication import Missed, Publication
from asgi_poller.topics.upstream import Upstream

_logger = logging.getLogger("asgi_poller.error")

#: A client that comes from another machine may have seen more than has come here: it waits so long.
AHEAD_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0

FanOut = Callable[[Publication], HubEnd | None]
CountHere = Callable[[str], Awaitable[int]]


@dataclass(slots=True, eq=False)
class _Topic:
    """`last` is the id of the last publication that was given on, or of the place where the hub
    joined; `live` what it is compared by, where the upstream's ids have an order.
    """

    name: str
    last: str = ""
    live: Any = None
    asks: deque[tuple[HubEnd, said.Join]] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    recent: list[Publication] = field(default_factory=list)  # given on while a history is fetched
    had_gap: bool = False  # in the same time
    moved: asyncio.Event = field(default_factory=asyncio.Event)


class UpstreamSource:
    """Where a HubServer's publications come from. See also UpstreamReceiver. `count_here` counts
    the subscribers of this machine.
    """

    def __init__(
        self, hub: Hub[HubEnd], upstream: Upstream, fan_out: FanOut, count_here: CountHere
    ) -> None:
        self._hub = hub
        self._count_here = count_here
        self._upstream = upstream
        self._fan_out = fan_out
        self._topics: dict[str, _Topic] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """See Upstream."""
        await self._upstream.start(self)

    async def close(self) -> None:
        """See Upstream."""
        for task in list(self._tasks):
            task.cancel()
        await self._upstream.close()

    # What loops ask for

    def publish(self, end: HubEnd, message: said.Publish) -> None:
        """Publish, and say so."""
        self._run(self._publish(end, message))

    def join(self, end: HubEnd, message: said.Join) -> None:
        """Give the loop the topic, after what it missed: one loop after the other."""
        topic = self._topics.get(message.topic)
        if topic is None:
            topic = self._topics[message.topic] = _Topic(message.topic)
            self._upstream.join(message.topic)
        topic.asks.append((end, message))
        if topic.task is None:
            topic.task = self._run(self._answer_all(topic))

    def leave(self, end: HubEnd, name: str) -> None:
        """Nothing more of the topic, whatever was asked before."""
        self._hub.leave(name, end)
        topic = self._topics.get(name)
        if topic is not None:
            topic.asks = deque(ask for ask in topic.asks if ask[0] is not end)
            self._leave_unneeded(topic)

    def forget(self, end: HubEnd) -> None:
        """The loop has gone."""
        self._hub.forget(end)
        for topic in list(self._topics.values()):
            topic.asks = deque(ask for ask in topic.asks if ask[0] is not end)
            self._leave_unneeded(topic)

    def count(self, end: HubEnd, request: int, topic: str, *, here: int) -> None:
        """Say how many subscribers there are; `here` are those of this machine."""
        self._run(self._count(end, request, topic, here=here))

    # UpstreamReceiver

    def on_publication(self, publication: Publication) -> None:
        """See UpstreamReceiver."""
        topic = self._topics.get(publication.topic)
        if topic is None:
            return
        order = self._upstream.order(publication.id)
        if order is not None:
            if topic.live is not None and order <= topic.live:
                return  # it was in a history already
            topic.live = order
        topic.last = publication.id
        if topic.task is not None:
            topic.recent.append(publication)
            topic.moved.set()
        self._fan_out(publication)

    def on_gap(self, topic: str, position: str) -> None:
        """See UpstreamReceiver."""
        known = self._topics.get(topic)
        if known is None:
            return
        known.last = position
        known.live = self._upstream.order(position)
        known.recent.clear()
        known.had_gap = True
        known.moved.set()
        for end in self._hub.links(topic):
            end.put(wire.gap(topic, position))

    async def subscribers_here(self, topic: str) -> int:
        """See UpstreamReceiver."""
        return await self._count_here(topic)

    # Inside

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _publish(self, end: HubEnd, message: said.Publish) -> None:
        request, topic, form, data = message
        try:
            taken = await self._upstream.publish(topic, form, data)
        except TopicsUnavailable as error:
            end.put(wire.refused(request, str(error)))
            return
        except Exception as error:
            _logger.exception("Topics: a publication could not be sent to other machines.")
            end.put(wire.refused(request, f"topics: {error}"))
            return
        for each in self._hub.links(topic):
            if each.is_waited_for:
                each.hold(lambda: end.put_taken(wire.taken(request, taken)))
                return
        end.put_taken(wire.taken(request, taken))

    async def _count(self, end: HubEnd, request: int, topic: str, *, here: int) -> None:
        try:
            everywhere = await self._upstream.subscribers(topic, here)
        except Exception as error:
            end.put(wire.refused(request, f"topics: {error}"))
        else:
            end.put(wire.counts(request, here, everywhere))

    async def _answer_all(self, topic: _Topic) -> None:
        pause_s = _FIRST_PAUSE_S
        while topic.asks:
            ask = topic.asks[0]
            try:
                missed = await self._missed(topic, ask[1].since)
            except Exception as error:
                if not isinstance(error, TopicsUnavailable):
                    _logger.exception("Topics: what was missed cannot be fetched, and is again.")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            if topic.asks and topic.asks[0] is ask:  # else it has been taken back
                topic.asks.popleft()
                end, (request, name, _) = ask
                self._hub.join(name, end)
                answer(end, request, missed)
        topic.task = None
        topic.recent.clear()
        self._leave_unneeded(topic)

    async def _missed(self, topic: _Topic, since: str | None) -> Missed:
        """What was published since then and before what comes next. Nothing waits between the end
        of this and the answer.
        """
        order = None if since is None else self._upstream.order(since)
        if order is None and topic.last:
            return Missed((), topic.last, since is None or since == topic.last)
        topic.recent.clear()
        topic.had_gap = False
        missed = await self._upstream.missed(topic.name, since)
        if topic.live is None and not topic.recent:
            topic.last, topic.live = missed.position, self._upstream.order(missed.position)
            return missed
        if not missed.is_complete or order is None:
            return Missed((), topic.last, since is None)
        if topic.live < order and not await self._has_come(topic, order):
            return Missed((), topic.last, is_complete=False)
        if topic.had_gap:
            return await self._missed(topic, since)
        reached = self._upstream.order(missed.position)
        there = [each for each in missed.publications if self._order(each) <= topic.live]
        since_then = [
            each
            for each in topic.recent
            if order < self._order(each) and reached < self._order(each)
        ]
        return Missed((*there, *since_then), topic.last)

    async def _has_come(self, topic: _Topic, order: Any) -> bool:
        """Whether this hub has got as far as `order`, in time."""
        try:
            async with asyncio.timeout(AHEAD_S):
                while topic.live < order:
                    topic.moved.clear()
                    await topic.moved.wait()
        except TimeoutError:
            return False
        return True

    def _order(self, publication: Publication) -> Any:
        return self._upstream.order(publication.id)

    def _leave_unneeded(self, topic: _Topic) -> None:
        is_needed = topic.task is not None or topic.asks or self._hub.links(topic.name)
        if not is_needed and self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
            self._upstream.leave(topic.name)


def answer(end: HubEnd, request: int, missed: Missed) -> None:
    """Tell a loop what it missed."""
    end.put(wire.missed(request))
    for publication in missed.publications:
        end.put(wire.publication(publication))
    end.put(wire.joined(request, missed.is_complete, missed.position))
