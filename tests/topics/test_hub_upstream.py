"""A hub with an upstream: whatever is ahead of what, a loop has no gap and nothing twice."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics import wire
from asgi_poller.topics import wire_messages as said
from asgi_poller.topics.hub import Hub
from asgi_poller.topics.hub_end import HubEnd
from asgi_poller.topics.hub_upstream import UpstreamSource
from asgi_poller.topics.publication import Missed, Publication
from asgi_poller.topics.upstream import UpstreamReceiver


class End:
    """A loop's end that reads what it is told."""

    is_waited_for = False

    def __init__(self) -> None:
        self.decoder = wire.Decoder(wire.FROM_HUB)
        self.heard: list[Any] = []
        self.missed: list[Publication] | None = None
        self.answers: dict[int, tuple[list[Publication], said.Joined]] = {}
        self.live: list[Publication] = []

    def put_taken(self, message: bytes) -> None:
        self.put(message)

    def put(self, message: bytes) -> None:
        self.decoder.feed(message)
        while (each := self.decoder.next()) is not None:
            self.heard.append(each)
            if isinstance(each, said.MissedBegin):
                self.missed = []
            elif isinstance(each, said.Joined):
                assert self.missed is not None
                self.answers[each.request] = self.missed, each
                self.missed = None
            elif isinstance(each, Publication):
                (self.live if self.missed is None else self.missed).append(each)


class Service:
    """An upstream whose log is at once ahead of what comes live, as chance has it."""

    def __init__(self, chance: random.Random) -> None:
        self.log: list[Publication] = []
        self.chance = chance
        self.live = 0  # so many have come to the hub, or passed while it had not joined
        self.joined = False
        self.is_out = False
        self.receiver: UpstreamReceiver | None = None

    async def start(self, receiver: UpstreamReceiver) -> None:
        self.receiver = receiver

    async def close(self) -> None:
        pass

    async def publish(self, topic: str, form: str, data: bytes) -> str:
        if self.is_out:
            raise TopicsUnavailable("out")
        self.log.append(Publication(topic, f"{len(self.log) + 1}-0", form, data))
        return self.log[-1].id

    def join(self, topic: str) -> None:
        self.joined = True
        # what was published before may still be on its way
        self.live = self.chance.randint(max(0, len(self.log) - 3), len(self.log))

    def leave(self, topic: str) -> None:
        self.joined = False

    async def missed(self, topic: str, since: str | None) -> Missed:
        await self.some_turns()
        if self.is_out:
            raise TopicsUnavailable("out")
        end = len(self.log)
        after = () if since is None else tuple(self.log[self.order(since) :])
        await self.some_turns()
        return Missed(after, f"{end}-0")

    def order(self, id: str) -> Any:
        number, _, zero = id.partition("-")
        return int(number) if zero == "0" else None

    async def reach(self) -> str:
        return "it"

    async def subscribers(self, topic: str, here: int) -> int:
        return here + 1

    async def some_turns(self) -> None:
        for _ in range(self.chance.randint(0, 4)):
            await asyncio.sleep(0)

    def deliver(self) -> None:
        """One publication comes live."""
        if self.joined and self.live < len(self.log):
            self.live += 1
            assert self.receiver is not None
            self.receiver.on_publication(self.log[self.live - 1])


@pytest.mark.parametrize("seed", range(150))
async def test_no_schedule_makes_a_gap_or_a_double(seed: int) -> None:
    chance = random.Random(seed)
    service = Service(chance)
    source, hub = _source(service)
    await source.start()
    publisher = cast(HubEnd, End())
    wanted: list[tuple[End, int, int]] = []  # who asked, its request, since which number
    number = 0
    for _ in range(chance.randint(20, 120)):
        step = chance.random()
        if step < 0.4:
            number += 1
            source.publish(publisher, said.Publish(number, "a", "text", str(number).encode()))
        elif step < 0.6:
            end, since = End(), chance.randint(0, len(service.log))
            wanted.append((end, len(wanted), since))
            source.join(cast(HubEnd, end), said.Join(len(wanted) - 1, "a", f"{since}-0"))
        elif step < 0.65 and wanted:
            end, _, _ = wanted.pop(chance.randrange(len(wanted)))
            source.forget(cast(HubEnd, end))
        elif step < 0.7:
            service.is_out = not service.is_out
        elif step < 0.9:
            service.deliver()
        await asyncio.sleep(0)
    service.is_out = False
    while not all(request in end.answers for end, request, _ in wanted):
        service.deliver()
        await asyncio.sleep(0)
    while service.joined and service.live < len(service.log):
        service.deliver()
    for end, request, since in wanted:
        missed, joined = end.answers[request]
        assert joined.is_complete
        got = [int(each.id[:-2]) for each in (*missed, *end.live)]
        assert got == list(range(since + 1, len(service.log) + 1))
        assert joined.position == f"{got[len(missed) - 1] if missed else since}-0"
    await source.close()
    assert len(hub) <= 1


def _source(service: Service) -> tuple[UpstreamSource, Hub[HubEnd]]:
    hub: Hub[HubEnd] = Hub()

    def fan_out(publication: Publication) -> None:
        for end in hub.links(publication.topic):
            end.put(wire.publication(publication))

    async def count_here(topic: str) -> int:
        return 0

    return UpstreamSource(hub, service, fan_out, count_here), hub


async def test_an_outage_refuses_publications_and_answers_joins_later() -> None:
    service = Service(random.Random(1))
    source, _ = _source(service)
    await source.start()
    service.is_out = True
    end = End()
    source.publish(cast(HubEnd, end), said.Publish(1, "a", "text", b"x"))
    source.join(cast(HubEnd, end), said.Join(2, "a", None))
    source.count(cast(HubEnd, end), 3, "a", here=4)
    while len(end.heard) < 2:
        await asyncio.sleep(0)
    assert end.heard == [said.Refused(1, "out"), said.Counts(3, 4, 5)]
    service.is_out = False
    while 2 not in end.answers:
        await asyncio.sleep(0)
    await source.close()


async def test_a_gap_is_given_on() -> None:
    service = Service(random.Random(1))
    source, _ = _source(service)
    await source.start()
    end = End()
    source.join(cast(HubEnd, end), said.Join(1, "a", None))
    while 1 not in end.answers:
        await asyncio.sleep(0)
    source.on_gap("a", "7-0")
    source.on_publication(Publication("a", "7-0", "text", b"before"))
    source.on_publication(Publication("a", "8-0", "text", b"after"))
    assert end.heard[-2:] == [said.Gap("a", "7-0"), Publication("a", "8-0", "text", "after")]
    await source.close()
