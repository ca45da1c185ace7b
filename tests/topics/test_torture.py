"""Workers are killed and restarted while much is published to clients that resume: each gets all of
it, once, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.support.command import Command, running
from tests.support.waiting import DEADLINE_S

APP = "tests.topics.torture:app"
#: Sent by one publisher and not answered yet.
WINDOW = 16
BROKEN = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidMessage)


@dataclass(frozen=True)
class Size:
    clients: int
    topics: int
    publishers: int
    publications: int

    @property
    def each(self) -> int:
        """Publications of a topic."""
        return self.publications // self.topics


SMALL = Size(clients=100, topics=20, publishers=5, publications=10_000)
FULL = Size(clients=500, topics=50, publishers=10, publications=100_000)


@contextlib.asynccontextmanager
async def connection(server: Command, path: str) -> AsyncIterator[ClientConnection]:
    host, port = server.address
    async with connect(
        f"ws://{host}:{port}{path}",
        compression=None,
        ping_interval=None,
        open_timeout=DEADLINE_S,
        max_queue=None,
    ) as channel:
        yield channel


class Client:
    """Comes back whenever its connection ends, and says what it had last."""

    def __init__(self, server: Command, topic: str) -> None:
        self.topic = topic
        self.ids: list[str] = []
        self.numbers: list[int] = []
        self.connections = 0
        self.joined = asyncio.Event()
        self._server = server
        self._since: str | None = None

    async def follow(self) -> None:
        while True:
            query = {"topic": self.topic} | ({"since": self._since} if self._since else {})
            with contextlib.suppress(*BROKEN):
                path = f"/?{urllib.parse.urlencode(query)}"
                async with connection(self._server, path) as channel:
                    self.connections += 1
                    async for message in channel:
                        self._take(json.loads(message))
            await asyncio.sleep(random.uniform(0, 0.1))

    def end_with(self, id: str) -> None:
        """Forget what came later: a worker that drains may publish once more, at its end, what was
        sent again meanwhile.
        """
        count = self.ids.index(id) + 1
        del self.ids[count:], self.numbers[count:]

    def _take(self, told: dict[str, str]) -> None:
        assert "lost" not in told
        self._since = told["id"]
        if "subscribed" in told:
            assert told["complete"], "more was missed than is kept"
            self.joined.set()
        else:
            self.ids.append(told["id"])
            self.numbers.append(int(told["text"]))


class Publisher:
    """Publishes the numbers to each of its topics. What was not answered when its connection ended
    it sends again: that may have been published, too.
    """

    def __init__(self, server: Command, topics: list[str], each: int) -> None:
        self._server = server
        self._open = [f"{topic} {number}" for number in range(each) for topic in topics]
        self._open.reverse()  # the next is the last
        self._sent: list[str] = []
        self.taken: dict[str, list[str]] = {topic: [] for topic in topics}
        self.again: set[str] = set()

    async def publish(self) -> None:
        while self._open or self._sent:
            self.again.update(self._sent)
            self._open += reversed(self._sent)
            self._sent = []
            with contextlib.suppress(*BROKEN):
                async with connection(self._server, "/publish") as channel:
                    await self._publish(channel)

    async def _publish(self, channel: ClientConnection) -> None:
        while self._open or self._sent:
            while self._open and len(self._sent) < WINDOW:
                self._sent.append(self._open.pop())
                await channel.send(self._sent[-1])
            said, _, id = str(await channel.recv()).rpartition(" ")
            assert said == self._sent.pop(0)
            self.taken[said.partition(" ")[0]].append(id)


class Havoc:
    """Kills three workers and restarts all three times, at even shares of what is published."""

    def __init__(self, server: Command, publishers: list[Publisher], size: Size) -> None:
        self._server = server
        self._publishers = publishers
        self._size = size
        self.done: list[str] = []

    async def wreak(self) -> None:
        steps = [self._kill, self._restart] * 3
        for number, step in enumerate(steps, 1):
            share = self._size.publications * number // (len(steps) + 1)
            while self._taken() < share:
                await asyncio.sleep(0.005)
            await step()

    def _taken(self) -> int:
        return sum(len(ids) for each in self._publishers for ids in each.taken.values())

    async def _kill(self) -> None:
        pid = random.choice(self._server.workers)
        os.kill(pid, signal.SIGKILL)
        self.done.append("killed")

    async def _restart(self) -> None:
        before = len(self._server.started_workers)
        self._server.signal(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE_S):
            while len(self._server.started_workers) < before + 2:
                await asyncio.sleep(0.005)
        self.done.append("restarted")


async def torture(server: Command, size: Size) -> None:
    names = [f"topic{number}" for number in range(size.topics)]
    clients = [Client(server, names[number % size.topics]) for number in range(size.clients)]
    following = [asyncio.create_task(client.follow()) for client in clients]
    for client in clients:
        await asyncio.wait_for(client.joined.wait(), DEADLINE_S)
    publishers = [
        Publisher(server, names[number :: size.publishers], size.each)
        for number in range(size.publishers)
    ]
    havoc = Havoc(server, publishers, size)
    await asyncio.gather(havoc.wreak(), *(each.publish() for each in publishers))
    last = {topic: ids[-1] for each in publishers for topic, ids in each.taken.items()}
    async with asyncio.timeout(2 * DEADLINE_S):
        for client in clients:
            while last[client.topic] not in client.ids[-size.each :]:
                done, _ = await asyncio.wait(following, timeout=0.01)
                for task in done:
                    task.result()  # what a client found wrong
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    for client in clients:
        client.end_with(last[client.topic])
    check(clients, publishers, size)
    print(
        f"{size}: {sum(len(client.ids) for client in clients)} deliveries over"
        f" {sum(client.connections for client in clients)} connections,"
        f" {sum(len(each.again) for each in publishers)} publications sent again,"
        f" {sum(len(set(first.ids)) for first in {each.topic: each for each in clients}.values())}"
        " published in all"
    )
    assert Counter(havoc.done) == {"killed": 3, "restarted": 3}
    assert sum(client.connections for client in clients) > 4 * size.clients


def check(clients: list[Client], publishers: list[Publisher], size: Size) -> None:
    """Nothing is missing, doubled or out of order."""
    taken = {topic: ids for each in publishers for topic, ids in each.taken.items()}
    again = set().union(*(each.again for each in publishers))
    first: dict[str, Client] = {}
    for client in clients:
        assert max(Counter(client.ids).values()) == 1
        one = first.setdefault(client.topic, client)
        assert client.ids == one.ids  # all see one order
        assert client.numbers == one.numbers
    for topic, client in first.items():
        there = set(client.ids)
        assert there.issuperset(taken[topic])
        answered = set(taken[topic])
        assert [id for id in client.ids if id in answered] == taken[topic]
        assert list(dict.fromkeys(client.numbers)) == list(range(size.each))
        for id, number in zip(client.ids, client.numbers, strict=True):
            # what nobody answered for was sent again
            assert id in answered or f"{topic} {number}" in again


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SMALL, marks=pytest.mark.long, id="small"),
        pytest.param(FULL, marks=[pytest.mark.slow, pytest.mark.timeout(900)], id="full"),
    ],
)
@pytest.mark.usefixtures("descriptors")
def test_kills_and_restarts_lose_and_double_nothing(size: Size) -> None:
    with running(
        *("--topics-history", "1000000,600s"),
        *("--timeout-graceful-shutdown", "2", "--no-access-log"),
        app=APP,
    ) as server:
        asyncio.run(torture(server, size))
