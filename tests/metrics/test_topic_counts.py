"""Known traffic of topics by real clients: what a running server shows is that, exactly."""

from __future__ import annotations

import contextlib

import pytest

from asgi_poller import topics
from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.commands.status_view import StatusView
from asgi_poller.monitor.as_json import as_json
from asgi_poller.monitor.exposition import exposition
from asgi_poller.monitor.reading import Between
from tests.metrics.watching import counting, settled, snapshot
from tests.support.apps import accept
from tests.support.frames import text
from tests.support.waiting import wait_until

SIZE = 60_000


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket subscribes to the topic that is its path, and publishes there."""
    await accept(receive, send)
    await topics.subscribe(scope, scope["path"])
    while (message := await receive())["type"] == "websocket.receive":
        await topics.publish(scope["path"], text=message["text"])


@pytest.mark.parametrize("loops", [1, 2])
def test_subscriptions_publications_and_deliveries(loops: int) -> None:
    with counting(app, loops=loops, lifespan="off") as site, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.websocket(path="/a")) for _ in range(7)]
        other = stack.enter_context(site.websocket(path="/b"))
        wait_until(lambda: snapshot(site).total.topic_subscriptions == 8, "all have subscribed")
        for number in range(5):
            clients[number].sendall(text(f"message {number}"))
            for client in clients:
                assert client.frame().payload == b"message %d" % number
        other.sendall(text("alone"))
        assert other.frame().payload == b"alone"
        total = settled(site).total
        assert (total.topic_publications, total.topic_deliveries) == (6, 5 * 7 + 1)
        assert (total.topic_subscriptions, total.topic_drops) == (8, 0)
        assert (total.messages_received, total.messages_sent) == (6, 5 * 7 + 1)
        assert total.bytes_sent == 5 * 7 * (2 + 9) + 2 + 5
        for client in clients[:3]:
            client.reset()
        wait_until(lambda: snapshot(site).total.topic_subscriptions == 5, "they have left")
        assert settled(site).total.topic_deliveries == 36, "what was delivered stays"


def test_what_a_slow_subscriber_loses() -> None:
    with (
        counting(app, lifespan="off", ws_per_message_deflate="off") as site,
        site.websocket(path="/a", receive_buffer=4096) as slow,
        site.websocket(path="/a") as reader,
    ):
        wait_until(lambda: snapshot(site).total.topic_subscriptions == 2, "both have subscribed")
        published = 0
        while snapshot(site).total.topic_drops == 0:
            message = str(published).ljust(SIZE, ".")
            reader.sendall(text(message))
            assert reader.frame().payload == message.encode()
            published += 1
        at = settled(site).total
        last = published - 1
        got = 0
        while int(slow.frame().payload.split(b".")[0]) != last:
            got += 1
        got += 1
        assert got + at.topic_drops == published == at.topic_publications
        total = settled(site).total
        assert total.topic_drops == at.topic_drops
        assert total.topic_deliveries == published + got


def test_where_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with counting(app, lifespan="off") as site, site.websocket(path="/a") as client:
        client.sendall(text("hello"))
        assert client.frame().payload == b"hello"
        shown = settled(site)
    lines = exposition(lambda: shown)("text/plain")[0].decode().splitlines()
    for name, count in (("subscriptions", 1), ("publications_total", 1), ("drops_total", 0)):
        assert f"asgi_poller_topic_{name} {count}.0" in lines
    assert "asgi_poller_topic_deliveries_total 1.0" in lines
    total = as_json(shown)["total"]
    assert (total["topic_subscriptions"], total["topic_drops"]) == (1, 0)
    StatusView("a port").print(Between(None, shown))
    row = next(line for line in capsys.readouterr().out.splitlines() if "Topics: delivered" in line)
    assert row.split()[2:5] == ["1", "-", "1"]
