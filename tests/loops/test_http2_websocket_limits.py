"""What is counted and shared: WebSockets over HTTP/2 in limits, metrics and topics."""

from __future__ import annotations

import contextlib

import pytest

from asgi_poller import Server
from asgi_poller.asgi.types import Receive, Scope, Send
from tests.loops.apps import Application
from tests.support.client import handshake
from tests.support.forms import LOOPS, ONE, WORKERS, served
from tests.support.frames import TEXT, ServerFrame, text
from tests.support.http2_websockets import Channel, WebSockets, websockets
from tests.support.server import Served, serving
from tests.support.waiting import wait_until

LIMIT = 6


def is_let_in(client: WebSockets, held: list[Channel]) -> bool:
    """Whether one more gets in, who then stays: in `held`."""
    channel = client.open()
    status = channel.head().status
    if status == 200:
        held.append(channel)
    else:
        assert status == 503
    return status == 200


def is_let_in_over_1(site: Served, stack: contextlib.ExitStack) -> bool:
    client = stack.enter_context(site.connect())
    client.sendall(handshake())
    return client.head().status == 101


@pytest.mark.parametrize("form", [ONE, LOOPS, WORKERS])
def test_each_counts_in_limit_channels(form: str) -> None:
    """On few connections, which may be in several workers, beside those of HTTP/1.1."""
    options: dict[str, object] = {"limit_channels": LIMIT, "lifespan": "off"}
    if form == WORKERS:  # each has its share, then
        options["no_direct_handshake"] = True
    with (
        served(form, "tests.attacks.echo:app", **options) as site,
        contextlib.ExitStack() as stack,
    ):
        clients: list[WebSockets] = []
        held: list[Channel] = []

        def are_all_places_taken() -> bool:
            """Each worker must have a connection, and one that is late for a moment gets none."""
            clients.append(stack.enter_context(websockets(site.port)))
            while is_let_in(clients[-1], held):
                pass
            return len(held) >= LIMIT

        wait_until(are_all_places_taken, "all places are taken")
        assert len(held) == LIMIT
        assert not is_let_in_over_1(site, stack)
        for client in clients:
            assert not is_let_in(client, held)
            assert client.status(client.request()) == 200
        held.pop().reset()
        wait_until(lambda: any(is_let_in(client, held) for client in clients), "there is room")
        held.pop().reset()
        wait_until(lambda: is_let_in_over_1(site, stack), "there is room for the other kind")
        for client in clients:
            assert not is_let_in(client, held)


def test_a_publication_reaches_hundreds_on_one_connection() -> None:
    async def room(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.topic.subscribe", "topic": "all"})
        await send({"type": "websocket.send", "text": "in"})
        while (message := await receive())["type"] == "websocket.receive":
            said = message["text"]
            await send({"type": "websocket.topic.publish", "topic": "all", "text": said})

    with (
        serving(room, http2_max_concurrent_streams=1000) as site,
        websockets(site.port) as client,
    ):
        channels = [client.open() for _ in range(200)]
        for channel in channels:
            assert channel.frame() == ServerFrame(TEXT, b"in")
        channels[7].sendall(text("to all"))
        for channel in channels:
            assert channel.frame() == ServerFrame(TEXT, b"to all")


def counts_of(server: Server) -> dict[str, int]:
    assert server._serving is not None
    (loop,) = server._serving.loop_servers
    counts, state = loop.state.counts, loop.state
    return {
        "opened": counts.websockets_opened,
        "closed": sum(counts.closes),
        "connections": len(state.connections) - state.stream_count,
        "sockets ended": state.closed,
        "messages": counts.ended_messages_received,
        "denied": counts.websockets_denied,
    }


def test_the_counts() -> None:
    with serving(Application()) as site:
        with websockets(site.port) as client:
            channels = [client.websocket() for _ in range(30)]
            for channel in channels:
                channel.sendall(text("a") + text("b"))
            for channel in channels:
                assert [channel.frame().payload for _ in range(2)] == [b"a", b"b"]
            now = counts_of(site.server)
            assert (now["opened"], now["connections"], now["closed"]) == (30, 1, 0)
            for channel in channels[:10]:
                channel.reset()
            wait_until(lambda: counts_of(site.server)["closed"] == 10)
            assert counts_of(site.server)["sockets ended"] == 0
        wait_until(lambda: counts_of(site.server)["sockets ended"] == 1)
        now = counts_of(site.server)
        assert (now["closed"], now["messages"], now["connections"]) == (30, 60, 0)
