"""What Redis says of the topics that this machine has joined: live, and from streams where there is
a gap.

Whether there is one, numbers say: a connection that was lost, a slot of a Cluster that moved, and
what Redis forgot look the same.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics.hub import HistoryRules, Keep
from asgi_poller.topics.outage import Outage, delays
from asgi_poller.topics.publication import Missed, Publication
from asgi_poller.topics.redis_feed import RedisFeed
from asgi_poller.topics.redis_store import STATE_S, RedisStore
from asgi_poller.topics.upstream import UpstreamReceiver
from asgi_poller.topics.upstream_message import (
    PLAIN,
    QUESTION,
    Place,
    parsed_live,
    publication_of,
)
from asgi_poller.topics.upstream_tasks import Tasks

_logger = logging.getLogger("asgi_poller.error")

_RENEW_S: Final = STATE_S / 4
#: Topics that catch up at the same time.
_CATCH_UP_COUNT: Final = 8
#: Heard while a topic catches up, and kept; beyond that it catches up once more.
_HELD_COUNT: Final = 10_000
#: Machines whose last number is known, of a topic without a history.
_MACHINE_COUNT: Final = 256


@dataclass(slots=True, eq=False)
class _Joined:
    """A topic that this machine wants. `id` is that of the last publication, or stands for none.

    With a history, `at` is the place of the last that the receiver got, and `held` are those that
    came meanwhile if it catches up.
    """

    topic: str
    keep: Keep
    id: str
    is_live: bool = False
    at: Place | None = None
    held: list[tuple[Place, bytes]] | None = None
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)  # by machine, the last used at the end

    @property
    def is_ready(self) -> bool:
        """Whether all that is published from now on is heard, and what is behind `at` before."""
        return self.is_live and (self.at is not None or not self.keep.count)

    def wake(self, error: TopicsUnavailable | None) -> None:
        """Those that wait until it is ready."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None) if error is None else each.set_exception(error)


class RedisListener:
    """Owned by the hub's loop. `asked` is called when another machine wants to know, with a word
    for the answer, how many subscribers a topic has. `receiver` is set before `run`.
    """

    receiver: UpstreamReceiver

    def __init__(
        self,
        store: RedisStore,
        rules: HistoryRules,
        outage: Outage,
        *,
        asked: Callable[[str, bytes], None],
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._rules = rules
        self._outage = outage
        self._asked = asked
        self._tasks = tasks
        self._joined: dict[str, _Joined] = {}
        self._topics: dict[str, str] = {}  # by channel
        self._catching_up = asyncio.Semaphore(_CATCH_UP_COUNT)
        self._feed = RedisFeed(store.service, self, outage)

    async def run(self) -> None:
        """Listen, until it is cancelled."""
        await self._feed.run()

    def join(self, topic: str) -> None:
        """See Upstream."""
        if topic not in self._joined:
            self._joined[topic] = _Joined(topic, self._rules.of(topic), _no_id())
            channel = self._store.channel(topic)
            self._topics[channel] = topic
            self._feed.join(channel)

    def leave(self, topic: str) -> None:
        """See Upstream."""
        joined = self._joined.pop(topic, None)
        if joined is not None:
            channel = self._store.channel(topic)
            del self._topics[channel]
            self._feed.leave(channel)
            joined.wake(TopicsUnavailable("topics: nobody wants the topic any more"))

    def is_live(self, topic: str) -> bool:
        """Whether this machine hears what is published there."""
        joined = self._joined.get(topic)
        return joined is not None and joined.is_live

    async def missed(self, topic: str, since: str | None) -> Missed:
        """See Upstream."""
        joined = self._joined.get(topic)
        if joined is None:
            raise TopicsUnavailable("topics: the topic is not joined")
        if not joined.is_ready:
            if self._outage.is_on:
                raise TopicsUnavailable(self._outage.reason)
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            joined.waiting.append(ready)
            await ready
        if not joined.keep.count:
            return Missed((), joined.id, is_complete=since is None or since == joined.id)
        place = None if since is None else Place.parsed(since)
        if since is not None and place is None:
            found = await self._store.after(topic, joined.keep, None)
            return Missed((), found.behind.id, is_complete=False)
        return await self._all_missed(joined, place)

    async def renew(self) -> None:
        """Topics that nobody publishes to keep their numbers while somebody listens."""
        while True:
            await asyncio.sleep(_RENEW_S)
            for joined in list(self._joined.values()):
                if joined.keep.count and joined.at is not None:
                    try:
                        await self._store.after(joined.topic, joined.keep, joined.at)
                    except TopicsUnavailable:
                        pass  # the next time

    # FeedOwner

    def heard(self, channel: str, payload: bytes) -> None:
        """See FeedOwner."""
        joined = self._joined[self._topics[channel]]
        live = parsed_live(payload)
        if live is None:
            _logger.warning("Topics: %s got what is no publication.", joined.topic)
        elif live.kind == QUESTION:
            self._asked(joined.topic, live.machine)
        elif live.kind == PLAIN:
            self._heard_plain(joined, live.machine, live.number, live.body)
        elif live.place is not None and joined.keep.count:
            if joined.held is not None:
                if len(joined.held) < _HELD_COUNT:
                    joined.held.append((live.place, live.body))
            elif not self._take(joined, live.place, live.body):
                self._catch_up_soon(joined, [(live.place, live.body)])
        elif live.place is not None:  # that machine has another --topics-history
            self._deliver(joined, live.place.id, live.body)

    def live(self, channel: str) -> None:
        """See FeedOwner."""
        joined = self._joined[self._topics[channel]]
        joined.is_live = True
        if joined.keep.count:
            self._catch_up_soon(joined, [])
        if joined.is_ready:
            joined.wake(None)

    def silent(self, channels: Iterable[str]) -> None:
        """See FeedOwner."""
        for channel in channels:
            joined = self._joined[self._topics[channel]]
            was_live, joined.is_live = joined.is_live, False
            joined.held = None
            joined.wake(TopicsUnavailable(self._outage.reason))
            if not joined.keep.count and was_live:
                joined.id = _no_id()
                self._outage.lost_topics += 1
                self.receiver.on_gap(joined.topic, joined.id)

    # What is heard

    def _heard_plain(self, joined: _Joined, machine: bytes, number: int, body: bytes) -> None:
        numbers = joined.numbers
        last = numbers.pop(machine, 0)  # it is put at the end again
        numbers[machine] = max(last, number)
        if len(numbers) > _MACHINE_COUNT:
            del numbers[next(iter(numbers))]
        if number > last:  # not sent once more, after a connection that had ended
            self._deliver(joined, f"{machine.decode()}-{number}", body)

    def _take(self, joined: _Joined, place: Place, body: bytes) -> bool:
        """Deliver it; False: there is a gap before it."""
        at = joined.at
        if at is None or place.epoch != at.epoch or place.number > at.number + 1:
            return False
        if place.number > at.number:
            joined.at = place
            self._deliver(joined, place.id, body)
        return True

    def _deliver(self, joined: _Joined, id: str, body: bytes) -> None:
        publication = publication_of(joined.topic, id, body)
        if publication is not None:
            joined.id = id
            self.receiver.on_publication(publication)

    # What was missed

    def _catch_up_soon(self, joined: _Joined, held: list[tuple[Place, bytes]]) -> None:
        joined.held = held
        self._tasks.spawn(self._catch_up(joined, held))

    async def _catch_up(self, joined: _Joined, held: list[tuple[Place, bytes]]) -> None:
        """Deliver what the stream has and the receiver has not, then what came meanwhile."""
        for delay_s in delays():
            try:
                async with self._catching_up:
                    while joined.held is held:
                        if not await self._catch_up_some(joined, held):
                            return
                return  # the subscription has ended: after the next one it begins again
            except TopicsUnavailable:
                await asyncio.sleep(delay_s)

    async def _catch_up_some(self, joined: _Joined, held: list[tuple[Place, bytes]]) -> bool:
        """Whether there is more."""
        found = await self._store.after(joined.topic, joined.keep, joined.at)
        if joined.held is not held or self._joined.get(joined.topic) is not joined:
            return False
        if not found.is_complete:
            self._outage.lost_topics += 1
            self.receiver.on_gap(joined.topic, found.behind.id)
        for at, body in found.bodies:
            self._deliver(joined, at.id, body)
        joined.at, joined.id = found.behind, found.behind.id
        joined.wake(None)
        if found.has_more:
            return True
        for number, (at, body) in enumerate(held):
            if not self._take(joined, at, body):
                del held[:number]
                return True
        joined.held = None
        return False

    async def _all_missed(self, joined: _Joined, since: Place | None) -> Missed:
        publications: list[Publication] = []
        while True:
            found = await self._store.after(joined.topic, joined.keep, since)
            if not found.is_complete:
                return Missed((), found.behind.id, is_complete=False)
            for at, body in found.bodies:
                publication = publication_of(joined.topic, at.id, body)
                if publication is not None:
                    publications.append(publication)
            since = found.behind
            if not found.has_more:
                return Missed(tuple(publications), since.id)


def _no_id() -> str:
    """A place without a publication, in a topic without a history."""
    return f"0.{secrets.token_hex(8)}"
