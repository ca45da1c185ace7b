"""A pass over many subscribers, what happens during it, and the order of what each of them gets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from asgi_poller import topics
from asgi_poller.asgi.types import Send
from asgi_poller.topics.backlog import Entry, Piece
from asgi_poller.topics.delivery import HELPING_COUNT, TopicLog
from asgi_poller.topics.publication import TEXT
from asgi_poller.topics.subscription import Subscription
from asgi_poller.topics.target import TopicTarget
from tests.support.client import get, read_exactly, read_frame
from tests.support.frames import CLOSE, server_frame, text
from tests.support.tls import client_context, write_pair
from tests.support.waiting import run, wait_until
from tests.topics.stage import Served, staged

CROWD = 4 * HELPING_COUNT  # a pass over so many takes several helpings
AUDIENCE = 320  # more than get a message in one turn of the loop


@pytest.fixture
def site(loop: str) -> Iterator[Served]:
    with staged(loop=loop, ws_per_message_deflate="off") as site:
        yield site


async def one_helping(site: Served) -> None:
    """Write to some of the subscribers, as the loop does it."""
    site.topics._logs["a"].step()


def test_publications_come_during_a_pass(site: Served) -> None:
    async def publish() -> None:
        for number in range(12):
            await site.topics.publish("a", TEXT, str(number))
            for _ in range(number % 5):
                await one_helping(site)

    with contextlib.ExitStack() as stack:
        clients = site.audience(stack, CROWD)
        site.do(publish())
        expected = b"".join(server_frame(1, str(number).encode()) for number in range(12))
        for client in clients:
            assert client.exactly(len(expected)) == expected
        wait_until(lambda: site.counts.topic_deliveries == 12 * CROWD, "each is counted once")


def test_who_comes_and_goes_during_a_pass(site: Served) -> None:
    """Before and behind the place where the pass is."""
    sessions = site.stage.sessions
    gone = {1, 2, 3, CROWD - 3, CROWD - 2, CROWD - 1}

    async def disturb() -> None:
        await site.topics.publish("a", TEXT, "one")
        await one_helping(site)
        for at in (1, CROWD - 1):
            assert site.topics.unsubscribe(sessions[at].topic_target, "a")
        for at in (2, CROWD - 2):
            sessions[at].close(4000)
        for at in (3, CROWD - 3):
            sessions[at]._port.abort()
        target = sessions[CROWD - 4].topic_target
        await site.topics.subscribe(target, "a")  # once more: from now on
        await site.topics.publish("a", TEXT, "two")

    with contextlib.ExitStack() as stack:
        clients = site.audience(stack, CROWD)
        site.do(disturb())
        for at, client in enumerate(clients):
            if at not in gone and at != CROWD - 4:
                assert [client.frame().payload for _ in range(2)] == [b"one", b"two"]
        assert clients[CROWD - 4].frame().payload == b"two"
        assert clients[2].frame().payload == b"one"
        assert clients[2].frame().close_code == clients[CROWD - 2].frame().close_code == 4000
        assert clients[3].rest() == server_frame(1, b"one")
        wait_until(lambda: site.topics.count("a") == CROWD - 6, "they have left")
        assert site.counts.topic_subscriptions == CROWD - 6


def test_a_drain_during_a_pass(site: Served) -> None:
    async def publish_and_stop() -> None:
        await site.topics.publish("a", TEXT, "one")
        await one_helping(site)
        site.server.should_exit = True

    with contextlib.ExitStack() as stack:
        clients = site.audience(stack, CROWD)
        site.do(publish_and_stop())
        for client in clients:
            assert client.frame().payload == b"one"
            assert client.frame().close_code == 1012


@pytest.mark.usefixtures("descriptors")
def test_a_request_is_answered_after_a_few_helpings(site: Served) -> None:
    """No clock: how many had got the message when the request was answered."""
    delivered: list[int] = []

    async def look(send: Send) -> None:
        delivered.append(site.counts.topic_deliveries)

    site.stage.on_request = look
    with contextlib.ExitStack() as stack:
        clients = site.audience(stack, 1_000)
        other = stack.enter_context(site.connect())
        other.sendall(get())
        assert other.response().status == 200  # it is known to the loop

        async def publish() -> None:
            other.sendall(get())  # is there before the first helping
            await site.topics.publish("a", TEXT, "x" * 256)

        delivered.clear()
        site.do(publish())
        assert other.response().status == 200
        (before,) = delivered
        assert before <= 2 * AUDIENCE
        for client in clients:
            assert client.frame().payload == b"x" * 256


def test_many_topics_share_a_turn(site: Served) -> None:
    """A topic with many subscribers does not keep a small one waiting."""

    async def publish() -> int:
        await site.topics.publish("a", TEXT, "many")
        await site.topics.publish("b", TEXT, "one")
        before = site.counts.topic_deliveries
        while await _is_waiting(site, "b"):
            await asyncio.sleep(0)
        return int(site.counts.topic_deliveries) - int(before)

    with contextlib.ExitStack() as stack:
        count = 3 * AUDIENCE  # too many for one helping, also where it is quick
        clients = site.audience(stack, count)
        target = site.stage.sessions[0].topic_target
        site.do(site.topics.subscribe(target, "b"))
        assert site.do(publish()) <= count
        assert {clients[0].frame().payload for _ in range(2)} == {b"many", b"one"}


async def _is_waiting(site: Served, topic: str) -> bool:
    return site.topics._logs[topic] in site.topics._due


FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "plain": ({}, None),
    "deflated": ({"ws_deflate_threshold": 8}, "deflate"),
    "a small window": (
        {"ws_deflate_threshold": 8},
        ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=True),
    ),
    "takeover": ({"ws_deflate_threshold": 0, "ws_per_message_deflate": "takeover"}, "deflate"),
    "takeover, not wanted": (
        {"ws_deflate_threshold": 0, "ws_per_message_deflate": "takeover"},
        ClientPerMessageDeflateFactory(server_no_context_takeover=True),
    ),
    "wsproto": ({"ws": "wsproto"}, None),
    "wsproto, takeover": (
        {"ws": "wsproto", "ws_deflate_threshold": 0, "ws_per_message_deflate": "takeover"},
        "deflate",
    ),
    "TLS": ({"tls": True}, "deflate"),
}
TALKERS, ROUNDS = 6, 40


async def _talk(send: Send, message: str) -> None:
    """Own messages and publications in turns; the client sends faster than they are answered."""
    if message.startswith("stop"):
        await topics.publish("a", text=message)
        return
    await send({"type": "websocket.send", "text": f"own {message} 1"})
    await topics.publish("a", text=f"all {message} " + "x" * (int(message.split()[1]) % 7 * 50))
    await send({"type": "websocket.send", "text": f"own {message} 2"})


@pytest.mark.parametrize("form", FORMS)
def test_own_messages_and_publications_keep_their_order(
    loop: str, form: str, tmp_path: Path
) -> None:
    options, compression = dict(FORMS[form][0]), FORMS[form][1]
    more: dict[str, Any] = {}
    if compression == "deflate":
        more = {"compression": "deflate"}
    elif compression is None:
        more = {"compression": None}
    else:
        more = {"compression": None, "extensions": [compression]}
    context: ssl.SSLContext | None = None
    if options.pop("tls", False):
        authority = trustme.CA()
        files = write_pair(tmp_path, "server", authority.issue_cert("127.0.0.1"))
        context = client_context(authority)
        options |= {"port": 0, "ssl_certfile": files.both}
    got: dict[int, list[str]] = {}
    with staged(loop=loop, **options) as site:
        site.stage.on_message, site.stage.is_announced = _talk, True
        url = site.url("/", "ws" if context is None else "wss")

        # Not the client of threads: it reads and writes one TLS object in two threads at a time,
        # which CPython 3.11 does not guard; now and then such a connection says nothing more.
        async def talk(talker: int, together: asyncio.Barrier) -> None:
            async with connect(url, ssl=context, **more) as client:
                assert await client.recv() == "subscribed"
                await together.wait()
                for number in range(ROUNDS):
                    await client.send(f"{talker} {number}")
                await client.send(f"stop {talker}")
                got[talker] = await _until_stopped(client)

        async def all_talk() -> None:
            together = asyncio.Barrier(TALKERS)
            async with asyncio.TaskGroup() as tasks:
                for talker in range(TALKERS):
                    tasks.create_task(talk(talker, together))

        run(all_talk())
    for talker in range(TALKERS):
        own = [each for each in got[talker] if each.startswith("own")]
        assert own == [f"own {talker} {n} {k}" for n in range(ROUNDS) for k in (1, 2)]
        shared = [each.rstrip("x").strip() for each in got[talker] if each.startswith("all")]
        for other in range(TALKERS):
            of_other = [each for each in shared if each.startswith(f"all {other} ")]
            assert of_other == [f"all {other} {n}" for n in range(ROUNDS)]
        assert shared == [each.rstrip("x").strip() for each in got[0] if each.startswith("all")], (
            "one order for all"
        )


async def _until_stopped(client: ClientConnection) -> list[str]:
    got: list[str] = []
    stopped = 0
    while stopped < TALKERS:
        message = await client.recv()
        assert isinstance(message, str)
        got.append(message)
        stopped += message.startswith("stop")
    return got


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="an idle core lets go later"
)
@pytest.mark.parametrize("path", ["/drop", "/ids"])
def test_what_has_ended_is_gone(site: Served, path: str, uncollected: None) -> None:
    """No circle keeps a subscriber that has closed, unsubscribed or vanished."""
    parts = (TopicTarget, Subscription, TopicLog, Entry, Piece)

    def living() -> set[int]:
        return {id(found) for found in gc.get_objects() if type(found) in parts}

    others = living()
    for _ in range(3):
        with site.subscriber(path=path) as one, site.subscriber(path=path) as two:
            site.publish("hello")
            while b"hello" not in read_frame(one).payload:
                pass
            two.reset()
            one.sendall(text("a message"))
            site.do(_close(site))
            while read_frame(one).opcode != CLOSE:
                pass
            one.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
            with contextlib.suppress(ConnectionError, EOFError):
                read_exactly(one, 1)
        wait_until(lambda: site.topics.count("a") == 0, "they have left")
        site.stage.sessions.clear()
    wait_until(lambda: living() <= others, "they are gone")


async def _close(site: Served) -> None:
    site.stage.sessions[-2].close(1000)
