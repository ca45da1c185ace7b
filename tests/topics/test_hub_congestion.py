"""A loop that cannot write as fast as others publish: they wait for it, and nothing is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from asgi_poller.topics import delivery, hub_end, inbox
from asgi_poller.topics.hub_end import HubEnd
from asgi_poller.topics.hub_link import HubLink
from asgi_poller.topics.hub_server import HubServer
from asgi_poller.topics.links import Receiver
from asgi_poller.topics.local_link import LocalHub, LocalLink
from asgi_poller.topics.publication import Publication
from tests.topics.test_hub_resume import Client, loop_topics

SUBSCRIBERS = 1000
PUBLISHERS = 200
PADDING = "x" * 300


class Counting(Client):
    """A subscriber that checks the order and keeps nothing."""

    def __init__(self) -> None:
        super().__init__("a")
        self.count = 0
        self.last = [-1] * PUBLISHERS

    def _take(self, publications: Sequence[object]) -> None:
        for each in publications:
            assert isinstance(each, Publication)
            name, number, _ = str(each.data).split(" ")
            assert int(number) == self.last[int(name)] + 1
            self.last[int(name)] += 1
        self.count += len(publications)
        self.changed.set()


@pytest.mark.parametrize(
    "count", [pytest.param(4000, id="some"), pytest.param(200_000, marks=pytest.mark.long)]
)
async def test_publishers_wait_for_a_loop_that_is_slower(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(delivery, "CONGESTED_BYTES", 1000)
    monkeypatch.setattr(hub_end, "FULL_BYTES", 4096)
    full = 0
    pause_writing = HubEnd.pause_writing

    def pause(end: HubEnd) -> None:
        nonlocal full
        full += 1
        pause_writing(end)

    monkeypatch.setattr(HubEnd, "pause_writing", pause)
    server = HubServer()

    def link(receiver: Receiver) -> HubLink:
        def connect() -> socket.socket:
            ours, theirs = socket.socketpair()
            for each in (ours, theirs):  # little fits into the kernel
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            server.add(theirs)
            return ours

        return HubLink(connect, receiver)

    slow, fast = loop_topics(link), loop_topics(link)
    clients = [Counting() for _ in range(SUBSCRIBERS)]
    for client in clients[:5]:  # these look at each message
        await client.subscribe(slow)
    for client in clients[5:]:
        client._take = lambda publications, client=client: None  # type: ignore[method-assign,misc]
        await client.subscribe(slow)
    congested = False

    async def publish(name: int) -> None:
        nonlocal congested
        for number in range(count // PUBLISHERS):
            await fast.publish("a", "text", f"{name} {number} {PADDING}")
            congested = congested or slow.is_congested

    await asyncio.gather(*(publish(name) for name in range(PUBLISHERS)))
    for client in clients[:5]:
        while client.count < count:
            client.changed.clear()
            await client.changed.wait()
    assert congested
    assert full > 0
    slow.close()
    fast.close()
    await server.close()


async def test_so_do_those_of_the_same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CONGESTED_BYTES", 1000)
    monkeypatch.setattr(inbox, "FULL_BYTES", 4096)
    hub = LocalHub()
    slow, fast = loop_topics(hub.link), loop_topics(hub.link)
    await fast.subscribers("a")  # it is linked, so that there are two
    clients = [Counting() for _ in range(5)]
    for client in clients:
        await client.subscribe(slow)
    waiting = 0

    async def publish(name: int) -> None:
        nonlocal waiting
        for number in range(20):
            await fast.publish("a", "text", f"{name} {number} {PADDING}")
            link = slow._link
            assert isinstance(link, LocalLink)
            waiting = max(waiting, link.inbox._bytes)

    await asyncio.gather(*(publish(name) for name in range(PUBLISHERS)))
    for client in clients:
        while client.count < 20 * PUBLISHERS:
            client.changed.clear()
            await client.changed.wait()
    # what each publisher had just said, and not all that there is
    assert 4096 < waiting < 20 * PUBLISHERS * len(PADDING) / 4
    slow.close()
    fast.close()
