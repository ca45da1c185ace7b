"""Subscribers that are slow, and those beside them: through a real server, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_poller import topics
from asgi_poller.asgi.types import Send
from asgi_poller.topics.publication import TEXT
from tests.support.client import Client, get
from tests.support.frames import CLOSE, server_frame, text
from tests.support.waiting import DEADLINE_S, wait_until
from tests.topics.stage import (
    NARROW_BYTES,
    Served,
    make_slow,
    number_in,
    numbered,
    staged,
    told,
)

MIB = 1024 * 1024
SIZE = 32_000


@pytest.fixture
def site(loop: str) -> Iterator[Served]:
    with staged(loop=loop, ws_per_message_deflate="off") as site:
        yield site


def publish_beyond(site: Served, reader: Client, first: int, mib: float) -> int:
    """Publish so much, which `reader` gets; the number of the next message."""
    count = first + int(mib * MIB / SIZE)
    for number in range(first, count):
        site.publish(numbered(number, SIZE))
        assert number_in(reader.frame()) == number
    return count


def test_who_does_not_read_holds_up_nobody_and_loses_the_oldest(site: Served) -> None:
    with (
        site.subscriber(path="/ids", receive_buffer=NARROW_BYTES) as slow,
        site.subscriber() as reader,
    ):
        count = publish_beyond(site, reader, make_slow(site, reader), 4)
        drops = site.counts.topic_drops
        assert drops > MIB // SIZE
        got: list[int] = []
        lost: list[tuple[int, int]] = []
        assert told(slow.frame())["subscribed"] is True
        while not got or got[-1] != count - 1:
            message = told(slow.frame())
            if "lost" in message:
                lost.append((len(got), message["lost"]))
            else:
                got.append(int(message["text"].split()[0]))
        ((at, many),) = lost
        assert many == drops == count - len(got)
        assert got == [*range(at), *range(at + many, count)]
        assert (count - at - many) * SIZE > MIB // 2 - SIZE
        site.publish("more")
        assert reader.frame().payload == b"more"
        assert told(slow.frame())["text"] == "more"


def test_without_ids_the_rest_comes_in_order(site: Served) -> None:
    with site.subscriber(receive_buffer=NARROW_BYTES) as slow, site.subscriber() as reader:
        count = publish_beyond(site, reader, make_slow(site, reader), 4)
        got = [number_in(slow.frame())]
        while got[-1] != count - 1:
            got.append(number_in(slow.frame()))
        assert got == sorted(set(got))
        assert site.counts.topic_drops == count - len(got) > 0


def test_who_wants_to_be_closed_is_and_nobody_else_misses_anything(site: Served) -> None:
    with (
        site.subscriber(path="/close", receive_buffer=NARROW_BYTES) as slow,
        site.subscriber() as reader,
    ):
        publish_beyond(site, reader, make_slow(site, reader), 2)
        assert site.topics.count("a") == 1
        while (frame := slow.frame()).opcode != CLOSE:
            pass
        assert frame.close_code == 1008
        site.publish("more")
        assert reader.frame().payload == b"more"


def test_who_is_behind_for_a_moment_loses_nothing(site: Served) -> None:
    with site.subscriber(receive_buffer=NARROW_BYTES) as slow, site.subscriber() as reader:
        count = publish_beyond(site, reader, make_slow(site, reader), 0.8)
        for number in range(count):
            assert number_in(slow.frame()) == number
        publish_beyond(site, reader, count, 0.1)
        assert number_in(slow.frame()) == count
        assert site.counts.topic_drops == 0


def test_what_was_added_is_not_lost_when_the_only_slow_one_leaves(site: Served) -> None:
    with site.subscriber(receive_buffer=NARROW_BYTES), site.subscriber() as reader:
        make_slow(site, reader)
        target = site.stage.sessions[0].topic_target

        async def publish_and_leave() -> None:
            await site.topics.publish("a", TEXT, "one")
            assert site.topics.unsubscribe(target, "a")
            await site.topics.publish("a", TEXT, "two")

        site.do(publish_and_leave())
        assert [reader.frame().payload for _ in range(2)] == [b"one", b"two"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_beside_a_hundred_who_do_not_read(site: Served) -> None:
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(site.subscriber())
        for _ in range(100):
            stack.enter_context(site.subscriber(receive_buffer=NARROW_BYTES))
        message = "x" * 64_000
        frame = server_frame(1, message.encode())
        before = resident_bytes()
        for _ in range(100 * MIB // len(message)):
            site.publish(message)
            assert reader.exactly(len(frame)) == frame
        assert all(site.is_behind(at + 1) for at in range(100))
        # 64 KiB and a piece for each, and what is kept of the topic
        assert resident_bytes() - before < 100 * 2.5 * 65536 + 8 * MIB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_what_was_missed_is_given_as_fast_as_it_is_read(loop: str) -> None:
    with contextlib.ExitStack() as stack:
        options = {"topics_history": "1000,60s", "ws_per_message_deflate": "off"}
        site = stack.enter_context(staged(loop=loop, **options))
        first = site.publish("first")
        for number in range(300):
            site.publish(numbered(number, SIZE))
        before = resident_bytes()
        for _ in range(40):
            path = f"/ids?{first}"
            stack.enter_context(site.subscriber(path=path, receive_buffer=NARROW_BYTES))
        reader = stack.enter_context(site.subscriber(path=f"/ids?{first}"))
        site.publish("now")
        got = [told(reader.frame()) for _ in range(302)]
        assert [int(each["text"].split()[0]) for each in got[:300]] == list(range(300))
        assert (got[300]["subscribed"], got[300]["id"]) == (True, got[299]["id"])
        assert got[301]["text"] == "now"
        assert resident_bytes() - before < 40 * 4 * 65536 + 8 * MIB  # not 40 times 10 MB


def test_a_publisher_that_never_yields_leaves_the_loop_to_others(site: Served) -> None:
    count = 100_000
    progress: list[int] = []

    async def publish(send: Send, message: str) -> None:
        if message == "publish":
            for number in range(count):
                progress.append(number)
                await topics.publish("a", text=str(number))

    async def how_far(send: Send) -> None:
        progress.append(-1)

    site.stage.on_message, site.stage.on_request = publish, how_far
    expected = b"".join(server_frame(1, str(number).encode()) for number in range(count))
    with site.subscriber() as one, site.subscriber() as two, site.connect() as other:
        one.sendall(text("publish"))
        other.sendall(get("/", "Connection: close"))
        assert other.response().status == 200
        assert progress.index(-1) < count, "it was answered on the way"
        for client in (one, two):
            assert client.exactly(len(expected)) == expected
    assert site.counts.topic_drops == 0


def test_a_publisher_without_subscribers_leaves_the_loop_to_others(site: Served) -> None:
    is_answered = False

    async def answered(send: Send) -> None:
        nonlocal is_answered
        is_answered = True

    async def publish() -> int:
        for number in range(1_000_000):
            await site.topics.publish("nobody", TEXT, "x")
            if is_answered:
                return number
        raise AssertionError("the request was not answered meanwhile")

    site.stage.on_request = answered
    future = asyncio.run_coroutine_threadsafe(publish(), site.topics.loop)
    assert site.ask(get("/", "Connection: close")).startswith(b"HTTP/1.1 200 ")
    assert future.result(DEADLINE_S) < 1_000_000


@pytest.mark.parametrize(
    "wanted", ["permessage-deflate", "permessage-deflate; server_max_window_bits=9"]
)
def test_with_takeover_nothing_is_compressed_for_who_is_slow(loop: str, wanted: str) -> None:
    """What is compressed and not sent would be missing in the peer's window."""
    header = f"Sec-WebSocket-Extensions: {wanted}"
    options = {"ws_per_message_deflate": "takeover", "ws_deflate_threshold": 0}
    with (
        staged(loop=loop, **options) as site,
        site.subscriber(header, receive_buffer=NARROW_BYTES) as slow,
        site.subscriber() as reader,
    ):
        inflater = zlib.decompressobj(-15)
        texts: list[str] = []
        noise = random.Random(1)
        while not site.is_behind() or len(texts) % 20:
            tail = texts[-1][-100:] if texts else ""  # still in the window
            texts.append(f"{tail}{len(texts)}{noise.randbytes(8_000).hex()}")
            site.publish(texts[-1])
            assert reader.frame().payload == texts[-1].encode()
        for expected in texts:
            payload = slow.frame().payload
            assert inflater.decompress(payload + b"\x00\x00\xff\xff") == expected.encode()


def test_many_slow_ones_cost_a_publication_nothing(site: Served) -> None:
    """What they lack is not put together for them before they read."""
    with site.subscriber(receive_buffer=NARROW_BYTES), site.subscriber() as reader:
        count = make_slow(site, reader)
        log = site.topics._logs["a"]
        for number in range(count, count + 10):
            site.publish(numbered(number, SIZE))
            reader.frame()
        pieces: list[int] = []

        async def look() -> None:
            pieces.extend(log._backlog._pieces)

        site.do(look())
        assert len(pieces) <= 1


def test_a_write_that_fails_is_one_subscribers_own(
    site: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(data: object) -> None:
        raise RuntimeError("told to fail")

    with contextlib.ExitStack() as stack:
        clients = site.audience(stack, 5)
        site.stage.sessions[2]._write = fail
        for message in ("one", "two"):
            site.publish(message)
            for at in (0, 1, 3, 4):
                assert clients[at].frame().payload == message.encode()
        wait_until(lambda: site.topics.count("a") == 4, "it has left")
        assert site.counts.topic_subscriptions == 4
        with contextlib.suppress(ConnectionError):
            assert clients[2].recv(1) == b""
    assert caplog.text.count("could not be written to") == 1
