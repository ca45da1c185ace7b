"""The main promise across loops: who leaves one loop and resumes on another with the last id misses
nothing and gets nothing twice, whatever is published meanwhile and whichever link breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.protocol import FrameCache
from asgi_poller.topics.framing import READER
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.hub_link import HubLink
from asgi_poller.topics.links import Receiver
from asgi_poller.topics.local_link import LocalHub
from asgi_poller.topics.loop_topics import LoopTopics, MakeLink
from asgi_poller.topics.publication import Lost, Publication
from asgi_poller.topics.subscription import Subscription
from tests.support.hub import HubProcess, hub_process

TOPICS = ("a", "b")


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with hub_process("1000000,600s") as hub:
        yield hub


class Client:
    """A subscriber that wanders from loop to loop."""

    framing = READER

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.since: str | None = None
        self.got: list[str] = []
        self.subscriptions: dict[str, Subscription] = {}
        self.patience = 0  # so many are taken before it is slow once
        self.topics: LoopTopics | None = None
        self.changed = asyncio.Event()
        self.resumed = 0  # so often it had missed something

    def deliver(self, publications: Sequence[Publication | Lost], count: int) -> bool:
        self.patience -= 1
        if self.patience == 0:
            asyncio.get_running_loop().call_soon(self._read)
            return False
        self._take(publications)
        return True

    def greet(self, publications: Sequence[Publication | Lost], count: int) -> None:
        self.resumed += 1
        self._take(publications)

    def _take(self, publications: Sequence[Publication | Lost]) -> None:
        for each in publications:
            assert isinstance(each, Publication), "something was lost"
            assert isinstance(each.data, str)
            self.got.append(each.data)
            self.since = each.id
        self.changed.set()

    def _read(self) -> None:
        if self.topics is not None:
            self.topics.resume(self)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def abort(self) -> None:
        raise AssertionError("it was cut off")

    async def subscribe(self, topics: LoopTopics) -> None:
        self.topics = topics
        subscribed = await topics.subscribe(self, self.topic, since=self.since)
        assert subscribed.is_complete
        if self.since is None:
            self.since = subscribed.id

    async def until(self, count: int) -> None:
        while len(self.got) < count:
            self.changed.clear()
            await self.changed.wait()


def loop_topics(make_link: MakeLink) -> LoopTopics:
    return LoopTopics(
        make_link,
        max_bytes=1 << 24,
        deflate_threshold=1024,
        cache=FrameCache(),
        counts=LoopCounts(),
    )


@contextlib.asynccontextmanager
async def joined(make_link: MakeLink, count: int) -> AsyncIterator[list[LoopTopics]]:
    """So many loops' topics, all on this loop."""
    made = [loop_topics(make_link) for _ in range(count)]
    try:
        yield made
    finally:
        for topics in made:
            topics.close()


async def publish_all(
    loops: Sequence[LoopTopics], chance: random.Random, least: int, is_enough: Callable[[], bool]
) -> int:
    """Numbers, from one loop after the other, to each topic: `least`, and more until it is enough;
    how many.
    """
    for number in itertools.count():
        if number >= least and is_enough():
            break
        topics = chance.choice(loops)
        for topic in TOPICS:
            await topics.publish(topic, "text", str(number))
        for _ in range(chance.choice((0, 0, 0, 1, 3))):
            await asyncio.sleep(0)
    return number


async def wander(client: Client, loops: Sequence[LoopTopics], chance: random.Random) -> None:
    """Stay somewhere for some messages, leave, come back elsewhere, for ever."""
    while True:
        topics = chance.choice(loops)
        try:
            await client.subscribe(topics)
            client.patience = chance.choice((0, 0, 5))
            await client.until(len(client.got) + chance.choice((0, 1, 5, 20, 100)))
        finally:
            topics.leave(client)
        for _ in range(chance.randint(0, 10)):
            await asyncio.sleep(0)


async def flood(
    publishers: Sequence[LoopTopics],
    loops: Sequence[LoopTopics],
    seed: int,
    disturb: Callable[[], object] = lambda: None,
) -> None:
    """Clients wander while something is published, until they have often come back to what they had
    missed; in the end each has got all of it.
    """
    chance = random.Random(seed)
    clients = [Client(topic) for topic in TOPICS for _ in range(8)]
    for client in clients:
        topics = chance.choice(loops)
        await client.subscribe(topics)
        topics.leave(client)
    wandering = [
        asyncio.create_task(wander(client, loops, random.Random(chance.random())))
        for client in clients
    ]

    def resumed() -> int:
        return sum(client.resumed for client in clients)

    publishing = asyncio.create_task(
        publish_all(publishers, chance, 500, lambda: resumed() > 2 * len(clients))
    )
    while not publishing.done():
        disturb()
        before = (
            resumed()
        )  # a busy hub needs more turns until somebody is back: else nobody ever is
        while resumed() == before and not publishing.done():
            await asyncio.sleep(0)
    count = await publishing
    for task in wandering:
        task.cancel()
    await asyncio.gather(*wandering, return_exceptions=True)
    for client in clients:
        await client.subscribe(chance.choice(loops))
        await client.until(count)
        assert client.got == [str(number) for number in range(count)]


@pytest.mark.parametrize("seed", range(3))
async def test_no_wandering_makes_a_gap_or_a_double(hub: HubProcess, seed: int) -> None:
    async with joined(hub.link, 3) as loops:
        await flood(loops, loops, seed)


@pytest.mark.parametrize("seed", range(3))
async def test_nor_do_links_that_break(hub: HubProcess, seed: int) -> None:
    chance = random.Random(seed)
    made: list[HubLink] = []
    broken = 0

    def link(receiver: Receiver) -> HubLink:
        made.append(hub.link(receiver))
        return made[-1]

    def break_one() -> None:
        nonlocal broken
        line = chance.choice(made[1:])._line  # not the publisher's
        if line is not None and line._transport is not None:
            broken += 1
            line._transport.abort()

    async with joined(link, 4) as loops:
        await loops[0].publish("x", "text", "the link of the publisher is the first")
        await flood(loops[:1], loops[1:], seed, break_one)
    assert broken > 10


@pytest.mark.parametrize("seed", range(3))
async def test_in_one_process_it_holds_too(seed: int) -> None:
    local = LocalHub(HistoryRules.parsed(["1000000,600s"]))
    async with joined(local.link, 3) as loops:
        await flood(loops, loops, seed)
