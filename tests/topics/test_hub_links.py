"""Loops joined by a hub in a process of its own: what is published comes, is missed, is counted;
and the hub, or a loop, dies, stands still or sends nonsense.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics import hub_link
from tests.support.hub import HubProcess, hub_process, links

RULE = "100000,600s"


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with hub_process(RULE) as hub:
        yield hub


async def test_what_is_published_comes_to_those_who_want_it(hub: HubProcess) -> None:
    async with links(hub, 3) as ((one, at_one), (two, at_two), (three, at_three)):
        await at_one.join(one)
        await at_two.join(two)
        await at_three.join(three, "b")
        ids = [await two.publish("a", "text", "é"), await two.publish("a", "bytes", b"\xff")]
        await three.publish("b", "json", "[1]")
        for recorder in (at_one, at_two):
            await recorder.until_at("a", ids[1])
            assert recorder.got == {"a": ["é", b"\xff"]}
        await at_three.until(lambda: "b" in at_three.got)
        assert at_three.got == {"b": ["[1]"]}


async def test_what_was_missed_is_known_to_every_loop(hub: HubProcess) -> None:
    async with links(hub, 2) as ((one, at_one), (two, at_two)):
        first = (await at_one.join(one)).position
        one.leave("a")
        ids = [await one.publish("a", "text", str(number)) for number in range(3)]
        missed = await at_two.join(two, since=first)
        assert missed.is_complete
        assert [each.id for each in missed.publications] == ids
        assert [each.data for each in missed.publications] == ["0", "1", "2"]
        assert not (await at_two.join(two, since="of another hub-1")).is_complete
        assert at_one.got == {}


async def test_subscribers_of_all_loops_are_counted(hub: HubProcess) -> None:
    async with links(hub, 3) as ((one, at_one), (two, at_two), (three, _)):
        assert await three.subscribers("a") == (0, 0)
        for link, recorder, count in ((one, at_one, 3), (two, at_two, 4)):
            await recorder.join(link)
            recorder.counts["a"] = count
        assert await three.subscribers("a") == (7, 7)
        one.close()
        while await three.subscribers("a") != (4, 4):
            pass  # the hub has not seen the end yet


async def test_16_mib_come_whole(hub: HubProcess) -> None:
    async with links(hub, 2) as ((one, at_one), (two, at_two)):
        await at_one.join(one)
        await at_two.join(two)
        large = "x" * (16 << 20)
        await one.publish("a", "text", large)
        for recorder in (at_one, at_two):
            await recorder.until_topics(1)
            assert recorder.got == {"a": [large]}


async def test_thousands_of_topics(hub: HubProcess) -> None:
    names = [f"topic {number}" for number in range(3000)]
    async with links(hub, 2) as ((one, at_one), (two, at_two)):
        for link, recorder in ((one, at_one), (two, at_two)):
            await asyncio.gather(*(recorder.join(link, name) for name in names))
        await asyncio.gather(*(one.publish(name, "text", name) for name in names))
        for recorder in (at_one, at_two):
            await recorder.until_topics(len(names))
            assert recorder.got == {name: [name] for name in names}


async def test_a_link_waits_for_a_hub_that_is_not_there_yet() -> None:
    hub = HubProcess()
    try:
        async with links(hub, 2) as ((one, at_one), (two, _)):
            joining = asyncio.create_task(at_one.join(one))
            publishing = asyncio.create_task(two.publish("b", "text", "x"))
            counting = asyncio.create_task(two.subscribers("a"))
            await asyncio.sleep(0)
            hub.start()
            await asyncio.gather(joining, publishing, counting)
    finally:
        hub.close()


async def test_without_a_hub_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_link, "WAIT_S", 0.1)
    hub = HubProcess()
    try:
        async with links(hub, 1) as ((one, at_one),):
            for _ in range(2):  # after the first wait, at once
                with pytest.raises(TopicsUnavailable, match="no hub"):
                    await one.publish("a", "text", "x")
                with pytest.raises(TopicsUnavailable, match="no hub"):
                    await at_one.join(one)
                with pytest.raises(TopicsUnavailable, match="no hub"):
                    await one.subscribers("a")
            hub.start()
            while True:
                try:
                    await one.publish("a", "text", "y")
                    break
                except TopicsUnavailable:
                    await asyncio.sleep(0)
            assert not (await at_one.join(one, since="x-1")).is_complete
    finally:
        hub.close()


async def test_after_a_killed_hub_loops_know_that_they_have_missed_something(
    hub: HubProcess,
) -> None:
    async with links(hub, 2) as ((one, at_one), (two, at_two)):
        await at_one.join(one)
        await at_two.join(two, "b")
        old = await two.publish("a", "text", "before")
        await at_one.until_at("a", old)
        hub.kill()
        hub.start()
        await at_one.until(lambda: len(at_one.got["a"]) == 2)
        new = await two.publish("a", "text", "after")
        await at_one.until(lambda: len(at_one.got["a"]) == 3)
        assert at_one.got["a"] == ["before", None, "after"]
        assert old.partition("-")[0] != new.partition("-")[0]
        assert not (await at_two.join(two, "a", since=old)).is_complete
        await at_two.until(lambda: "b" in at_two.got)
        assert at_two.got["b"] == [None]
