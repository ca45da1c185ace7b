"""What the Channel Layer Specification asks, and what other layers' users know from them: in a
process alone, on a loop of the server, and on another loop beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull, MessageTooLarge

from asgi_poller.channels import TopicsLayer
from asgi_poller.channels.boxes import Boxes
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S, run
from tests.topics.framework_apps import bare_room

Check = Callable[[TopicsLayer], Awaitable[None]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Run it everywhere."""
    CHECKS.append(function)
    return function


async def nothing_for(layer: TopicsLayer, channel: str) -> None:
    """Whatever is on its way to `channel` would have come before a message that is sent now."""
    await layer.send(channel, {"type": "marker"})
    assert (await layer.receive(channel))["type"] == "marker"


async def types(layer: TopicsLayer, channel: str, count: int) -> list[str]:
    async with asyncio.timeout(DEADLINE_S):
        return [(await layer.receive(channel))["type"] for _ in range(count)]


async def sent_to_group(layer: TopicsLayer, group: str, *kinds: str) -> None:
    """They have been put, or dropped, when this returns."""
    probe = await layer.new_channel("probe")
    await layer.group_add("the-probe", probe)
    for kind in kinds:
        await layer.group_send(group, {"type": kind})
    await layer.group_send("the-probe", {"type": "probe"})
    assert await types(layer, probe, 1) == ["probe"]
    await layer.group_discard("the-probe", probe)


@check
async def send_and_receive(layer: TopicsLayer) -> None:
    for channel in ("test-channel-1", await layer.new_channel()):
        await layer.send(channel, {"type": "test.message", "text": "Ahoy-hoy!"})
        assert await layer.receive(channel) == {"type": "test.message", "text": "Ahoy-hoy!"}


@check
async def messages_have_all_types(layer: TopicsLayer) -> None:
    message = {
        "type": "all",
        "bytes": b"\x00\xff",
        "text": "é",
        "numbers": [-(2**63), 2**63 - 1, 0.1],
        "dict": {"nested": [True, False, None]},
    }
    await layer.send("test", {**message, "tuple": (1, 2)})
    assert await layer.receive("test") == {**message, "tuple": [1, 2]}
    with pytest.raises(TypeError):
        await layer.send("test", {"type": "object", "object": object()})
    with pytest.raises(TypeError):
        await layer.send("test", "no dict")  # type: ignore[arg-type]


@check
async def messages_are_copies(layer: TopicsLayer) -> None:
    message = {"type": "copy", "list": [1]}
    one, two = await layer.new_channel(), await layer.new_channel()
    for channel in (one, two):
        await layer.group_add("copies", channel)
    await layer.group_send("copies", message)
    message["list"].append(2)  # type: ignore[attr-defined]
    received = await layer.receive(one)
    received["list"].append(3)
    assert await layer.receive(two) == {"type": "copy", "list": [1]}


@check
async def messages_come_in_order(layer: TopicsLayer) -> None:
    channel = await layer.new_channel()
    for number in range(3):
        await layer.send(channel, {"type": f"message.{number}"})
    assert await types(layer, channel, 3) == ["message.0", "message.1", "message.2"]


@check
async def a_full_channel_is_said(layer: TopicsLayer) -> None:
    channel = await layer.new_channel()
    for _ in range(3):
        await layer.send(channel, {"type": "test"})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "test"})
    with pytest.raises(layer.ChannelFull):
        await layer.send(channel, {"type": "test"})
    await layer.receive(channel)
    await layer.send(channel, {"type": "test"})


@check
async def capacities_are_by_pattern(layer: TopicsLayer) -> None:
    for _ in range(2):
        await layer.send("tiny.one", {"type": "test"})
    with pytest.raises(ChannelFull):
        await layer.send("tiny.one", {"type": "test"})


@check
async def capacity_is_of_the_part_before_the_mark(layer: TopicsLayer) -> None:
    for local in ("a", "b", "c"):
        await layer.send(f"mine!{local}", {"type": local})
    with pytest.raises(ChannelFull):
        await layer.send("mine!d", {"type": "d"})
    assert await types(layer, "mine!b", 1) == ["b"]
    assert await types(layer, "mine!", 2) == ["a", "c"]


@check
async def names_are_checked(layer: TopicsLayer) -> None:
    for name in ("=+135!", "a" * 100, "", "é", 5, None, "two!marks!"):
        with pytest.raises(TypeError):
            await layer.send(name, {"type": "test"})  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await layer.receive(name)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await layer.group_send(name, {"type": "test"})  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await layer.group_add("group", name)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await layer.group_add("no!group", "channel")
    with pytest.raises(TypeError):
        await layer.new_channel("x" * 90)
    await layer.send("a" * 99, {"type": "test"})
    assert layer.require_valid_channel_name(await layer.new_channel(), receive=True)


@check
async def new_names_are_new(layer: TopicsLayer) -> None:
    random.seed(1)
    one = await layer.new_channel()
    random.seed(1)
    assert one != await layer.new_channel()
    assert one.startswith("specific.")
    assert (await layer.new_channel("mine")).startswith("mine.")


@check
async def groups_have_members(layer: TopicsLayer) -> None:
    names = [await layer.new_channel(prefix=f"test-gr-chan-{number}") for number in range(3)]
    for name in names:
        await layer.group_add("test-group", name)
        await layer.group_add("test-group", name)  # harmless
    await layer.group_discard("test-group", names[1])
    await sent_to_group(layer, "test-group", "message.1")
    assert await types(layer, names[0], 1) == await types(layer, names[2], 1) == ["message.1"]
    for name in names:
        await nothing_for(layer, name)


@check
async def normal_channels_are_members_too(layer: TopicsLayer) -> None:
    await layer.group_add("test-group", "normal")
    await sent_to_group(layer, "test-group", "message.1")
    assert await types(layer, "normal", 1) == ["message.1"]


@check
async def groups_skip_who_is_full(layer: TopicsLayer) -> None:
    full, other = await layer.new_channel(), await layer.new_channel()
    for name in (full, other):
        await layer.group_add("test-group", name)
    await layer.send(full, {"type": "message.0"})
    await sent_to_group(layer, "test-group", "message.1", "message.2", "message.3")
    assert await types(layer, full, 3) == ["message.0", "message.1", "message.2"]
    assert await types(layer, other, 3) == ["message.1", "message.2", "message.3"]
    await nothing_for(layer, full)


@check
async def large_groups_are_served_in_order(layer: TopicsLayer) -> None:
    names = [await layer.new_channel() for _ in range(300)]  # several helpings
    for name in names:
        await layer.group_add("large", name)
    for number in range(3):
        await layer.group_send("large", {"type": f"message.{number}"})
    for name in names:
        assert await types(layer, name, 3) == ["message.0", "message.1", "message.2"]


@check
async def discarding_is_harmless(layer: TopicsLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_discard("never", channel)
    await layer.group_add("once", channel)
    await layer.group_discard("once", channel)
    await layer.group_discard("once", channel)
    await layer.group_add("once", channel)
    await sent_to_group(layer, "once", "again")
    assert await types(layer, channel, 1) == ["again"]


@check
async def a_cancelled_receive_takes_nothing(layer: TopicsLayer) -> None:
    channel = await layer.new_channel()
    for number in range(100):
        task = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await layer.send(channel, {"type": str(number)})
        task.cancel()  # it has been woken, and has taken nothing
        with contextlib.suppress(asyncio.CancelledError):
            assert (await task)["type"] == str(number)
            continue
        assert await types(layer, channel, 1) == [str(number)]


@check
async def one_of_two_who_wait_gets_it(layer: TopicsLayer) -> None:
    first = asyncio.ensure_future(layer.receive("shared"))
    second = asyncio.ensure_future(layer.receive("shared"))
    await asyncio.sleep(0)
    await layer.send("shared", {"type": "one"})
    first.cancel()
    done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    if second not in done:
        async with asyncio.timeout(DEADLINE_S):
            assert (await second)["type"] == "one"
    assert second.result() == {"type": "one"}


@check
async def flushing_forgets(layer: TopicsLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("flushed", channel)
    await layer.send(channel, {"type": "before"})
    await layer.flush()
    await sent_to_group(layer, "flushed", "after")
    await nothing_for(layer, channel)


@check
async def messages_have_a_most_size(layer: TopicsLayer) -> None:
    await layer.send("large", {"type": "large", "text": "x" * 1_000_000})
    assert len((await layer.receive("large"))["text"]) == 1_000_000
    for send in (layer.send, layer.group_send):
        with pytest.raises(MessageTooLarge):
            await send("large", {"type": "large", "text": "x" * 1_100_000})


ALONE, ON_ITS_LOOP, BESIDE = "alone", "on a loop of the server", "beside the server"


@pytest.fixture(scope="module", params=[ALONE, ON_ITS_LOOP, BESIDE])
def runner(request: pytest.FixtureRequest) -> Iterator[Callable[[Check], None]]:
    def layer() -> TopicsLayer:
        return TopicsLayer(capacity=3, channel_capacity={"tiny.*": 2}, prefix=str(random.random()))

    def here(function: Check) -> None:
        run(function(layer()))  # type: ignore[arg-type]

    if request.param == ALONE:
        yield here
        return
    with serving(bare_room, lifespan="off", loops=2) as site:
        if request.param == BESIDE:
            yield here
            return
        serving_now = site.server._serving
        assert serving_now is not None
        loop = serving_now.loop_servers[0].state.loop
        yield lambda function: asyncio.run_coroutine_threadsafe(
            function(layer()),  # type: ignore[arg-type]
            loop,
        ).result(DEADLINE_S)


@pytest.mark.parametrize("function", CHECKS, ids=lambda each: each.__name__)
def test_the_specification(runner: Callable[[Check], None], function: Check) -> None:
    runner(function)


# Time


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_messages_expire_and_leave_nothing() -> None:
    clock = Clock()
    expired: list[str] = []
    boxes = Boxes(60.0, lambda _: 3, expired.append, lock=threading.RLock(), clock=clock)
    assert boxes.put("a", b"1")
    clock.now = 59.0
    assert boxes.put("a", b"2")
    assert boxes.put("b!x", b"3")
    clock.now = 60.0
    assert run(boxes.receive("a")) == b"2"
    assert expired == ["a"]
    assert len(boxes) == 1
    clock.now = 120.0
    boxes.sweep()
    assert expired == ["a", "b!x"]
    assert len(boxes) == 0


async def test_expired_messages_make_room() -> None:
    clock = Clock()
    boxes = Boxes(1.0, lambda _: 1, lambda _: None, lock=threading.RLock(), clock=clock)
    assert boxes.put("a", b"1")
    assert not boxes.put("a", b"2")
    clock.now = 1.0
    assert boxes.put("a", b"3")
    assert await boxes.receive("a") == b"3"


async def test_memberships_end_with_an_unread_message_or_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    layer = TopicsLayer(expiry=60, group_expiry=1000)
    layer._boxes._clock = clock
    unread, read = await layer.new_channel(), await layer.new_channel()
    for name in (unread, read):
        await layer.group_add("g", name)
    await layer.group_send("g", {"type": "one"})
    assert await types(layer, read, 1) == ["one"]
    clock.now = 61.0
    await layer.group_send("g", {"type": "two"})
    assert await types(layer, read, 1) == ["two"]
    await nothing_for(layer, unread)
    clock.now = 1001.0
    await layer.group_send("g", {"type": "three"})
    await nothing_for(layer, read)
    assert not layer._groups
    assert not layer._groups_of


# Several loops and threads


def test_loops_that_end_leave_the_layer_as_it_is() -> None:
    """As sync code uses it: each call has a loop of its own."""
    layer = TopicsLayer()
    names = [async_to_sync(layer.new_channel)() for _ in range(2)]
    for number, name in enumerate(names):
        async_to_sync(layer.send)(name, {"type": f"message.{number}"})
        async_to_sync(layer.group_add)("group", name)
    async_to_sync(layer.group_send)("group", {"type": "group"})
    for number, name in reversed(list(enumerate(names))):
        assert async_to_sync(layer.receive)(name)["type"] == f"message.{number}"
        assert async_to_sync(layer.receive)(name)["type"] == "group"


def test_a_thread_sends_to_one_that_waits() -> None:
    layer = TopicsLayer()
    waiting = threading.Event()
    got: list[Any] = []

    async def receive() -> None:
        name = await layer.new_channel()
        await layer.group_add("threads", name)
        task = asyncio.ensure_future(layer.receive(name))
        await asyncio.sleep(0)
        waiting.set()
        got.append(await task)

    thread = threading.Thread(target=run, args=(receive(),))
    thread.start()
    assert waiting.wait(DEADLINE_S)
    run(layer.group_send("threads", {"type": "hello"}))
    thread.join(DEADLINE_S)
    assert got == [{"type": "hello"}]
