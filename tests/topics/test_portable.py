"""The same application under this server, under others, and under the frameworks' test clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import litestar.testing
import pytest
import starlette.testclient
import websockets.sync.client
from channels.testing import WebsocketCommunicator
from starlette.websockets import WebSocket, WebSocketState
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from asgi_poller import topics
from asgi_poller.config import Config
from asgi_poller.errors import ApplicationFault, ClientDisconnected
from asgi_poller.loops.server_state import ServerState
from tests.support.command import Process
from tests.support.frames import CLOSE
from tests.support.processes import free_port
from tests.support.server import Served, serving
from tests.support.waiting import DEADLINE_S, run, wait_until
from tests.topics import framework_apps
from tests.topics.framework_apps import FLOOD, FLOOD_COUNT, ROOMS

ROUNDS = 50
APP = "tests.topics.framework_apps:app"
OTHERS = {
    "uvicorn": ["uvicorn", APP, "--ws", "websockets", "--port"],
    "uvicorn wsproto": ["uvicorn", APP, "--ws", "wsproto", "--port"],
    "hypercorn": ["hypercorn", APP, "--bind"],
    "daphne": ["daphne", APP, "--port"],
}


@contextlib.contextmanager
def other_server(name: str) -> Iterator[Served]:
    port = free_port()
    *command, option = OTHERS[name]
    value = f"127.0.0.1:{port}" if option == "--bind" else str(port)
    environ = {"ASGI_POLLER_TOPICS_HISTORY": "100,60s"}
    process = Process([sys.executable, "-m", *command, option, value], environ=environ)
    try:
        process.wait_for(r"(Running on|running on|Listening on TCP)")
        yield Served(port)
    finally:
        process.close()


@pytest.fixture(scope="module", params=["asgi-poller", "two loops", *OTHERS])
def site(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param in OTHERS:
        with other_server(request.param) as served:
            yield served
    else:
        loops = 1 + (request.param == "two loops")
        with serving(framework_apps.app, loops=loops, topics_history="100,60s") as served:
            yield served


def joined(site: Served, path: str) -> Any:
    return websockets.sync.client.connect(site.url(path, "ws"), open_timeout=DEADLINE_S)


def heard(client: ClientConnection) -> str:
    return str(client.recv(DEADLINE_S))


def count(client: ClientConnection) -> int:
    client.send("count")
    return int(heard(client))


@pytest.mark.parametrize("name", ROOMS)
def test_who_is_in_a_room_hears_what_is_said_there(site: Served, name: str) -> None:
    with joined(site, f"/{name}/") as one:
        with joined(site, f"/{name}/") as two:
            for speaker, text in ((one, "Hello"), (two, "é")):
                wait_until(lambda: count(one) == 2)
                speaker.send(text)
                expected = text.upper() if name == "wrapped" else text
                assert heard(one) == heard(two) == expected
            assert count(one) == 2

        def is_alone() -> bool:
            """Other servers do not say that it has ended: it is garbage, or cannot be sent to."""
            one.send("still there?")
            heard(one)
            return count(one) == 1

        wait_until(is_alone)


def test_many_messages_come_in_order(site: Served) -> None:
    with joined(site, "/starlette/") as one, joined(site, "/starlette/") as two:
        wait_until(lambda: count(one) == 2)
        for number in range(500):
            one.send(str(number))
        for client in (one, two):
            assert [heard(client) for _ in range(500)] == [str(n) for n in range(500)]


def test_bytes_ids_and_what_was_missed(site: Served) -> None:
    with joined(site, "/starlette/?ids") as client:
        note = json.loads(heard(client))
        assert note["subscribed"] is note["complete"] is True
        assert note["topic"] == "starlette"
        httpx.post(site.url("/starlette/publish"), content=b"bytes", timeout=DEADLINE_S)
        binary = client.recv(DEADLINE_S)
        assert isinstance(binary, bytes)
        head, _, data = binary.partition(b"\n")
        assert data == b"bytes"
        identity = json.loads(head)["id"]
    for _ in range(3):
        httpx.post(site.url("/starlette/publish"), content=b"missed", timeout=DEADLINE_S)
    with joined(site, f"/starlette/?ids&since={identity}") as client:
        for _ in range(3):
            assert client.recv(DEADLINE_S).endswith(b"\nmissed")
        assert json.loads(heard(client))["complete"] is True


def test_unsubscribing_and_a_second_topic(site: Served) -> None:
    with joined(site, "/starlette/") as client:
        client.send("other")
        assert heard(client) == "subscribed"
        client.send("twice")
        assert {heard(client), heard(client)} == {"one", "two"}
        client.send("leave")
        assert heard(client) == "True"
        client.send("leave")
        assert heard(client) == "False"
        client.send("twice")
        assert heard(client) == "one"
        client.send("other")
        assert heard(client) == "subscribed"


def test_a_thread_without_a_loop_publishes(site: Served) -> None:
    with joined(site, "/fastapi/") as client:
        assert count(client) == 1
        assert httpx.post(site.url("/fastapi/publish?text=thread")).status_code == 200
        assert heard(client) == "thread"


def test_subscribing_before_accepting_is_a_mistake(site: Served) -> None:
    with joined(site, "/starlette/early") as client:
        assert "after the WebSocket is accepted" in heard(client)


@pytest.mark.parametrize("slow", ["drop", "close"])
def test_a_slow_subscriber_holds_up_nobody(
    site: Served, slow: str, request: pytest.FixtureRequest
) -> None:
    if "daphne" in request.node.name:
        pytest.skip("Daphne takes whatever is sent, without a bound: nobody is slow there")
    path = f"/starlette/?ids&slow={slow}"
    with site.websocket(path=path, receive_buffer=4096) as sleeper:
        assert sleeper.frame().payload
        with joined(site, "/starlette/") as other:
            wait_until(lambda: count(other) == 2)
            for _ in range(ROUNDS):  # more than any socket buffer and what is kept
                other.send("flood")
                answers = [heard(other) for _ in range(FLOOD_COUNT + 1)]
                assert answers.count(FLOOD) == FLOOD_COUNT
            if slow == "close":
                wait_until(lambda: count(other) == 1)
            else:
                other.send("last")
                assert heard(other) == "last"
        came = lost = 0
        while True:
            frame = sleeper.frame()
            if frame.opcode == CLOSE:
                assert frame.close_code == 1008
                break
            note = json.loads(frame.payload)
            lost += note.get("lost", 0)
            came += note.get("text") == FLOOD
            if note.get("text") == "last":
                assert lost > 100
                assert came + lost == ROUNDS * FLOOD_COUNT
                break


# Test clients, where no server is


@contextlib.contextmanager
def starlette_client(app: Any) -> Iterator[Any]:
    yield starlette.testclient.TestClient(app)


@contextlib.contextmanager
def one_loop(app: Any) -> Iterator[Any]:
    with starlette.testclient.TestClient(app) as client:  # all in one loop, with a lifespan
        yield client


@contextlib.contextmanager
def litestar_client(app: Any) -> Iterator[Any]:
    with litestar.testing.TestClient(app) as client:
        yield client


CLIENTS = [
    ("starlette", starlette_client),
    ("starlette", one_loop),
    ("fastapi", starlette_client),
    ("fastapi", one_loop),
    ("bare", starlette_client),
    ("litestar", litestar_client),
]


@pytest.mark.parametrize(("name", "client_of"), CLIENTS)
def test_a_test_client_hears_it_too(name: str, client_of: Any) -> None:
    with client_of(ROOMS[name]) as client:
        with client.websocket_connect("/") as one:
            one.send_text("alone")
            assert one.receive_text() == "alone"
            with client.websocket_connect("/") as two:
                two.send_text("count")  # it has subscribed when this is answered
                assert two.receive_text() == "2"
                two.send_text("hello")
                assert one.receive_text() == two.receive_text() == "hello"

            def is_alone() -> bool:
                one.send_text("count")
                return bool(one.receive_text() == "1")

            wait_until(is_alone)


@pytest.mark.parametrize("name", ["async", "sync"])
async def test_the_communicator_of_channels_hears_it_too(name: str) -> None:
    one = WebsocketCommunicator(ROOMS[name], "/")
    two = WebsocketCommunicator(ROOMS[name], "/")
    for each in (one, two):
        assert (await each.connect(DEADLINE_S))[0]
        await each.send_to("count")
        assert await each.receive_from(DEADLINE_S) in ("1", "2")
    await two.send_to("hello")
    assert await one.receive_from(DEADLINE_S) == await two.receive_from(DEADLINE_S) == "hello"
    for each in (one, two):
        await each.disconnect()


async def test_httpx_publishes_and_reads_in_the_loop_of_its_test() -> None:
    transport = httpx.ASGITransport(framework_apps.starlette_app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        topics.reading("starlette") as messages,
    ):
        answer = await client.post("/publish", content=b"hello")
        message = await anext(messages)
        assert (message.data, message.id) == (b"hello", answer.text)


def test_loops_that_have_ended_are_forgotten() -> None:
    """A thread after the other, each with a loop that subscribes and ends without a word."""
    got: list[str] = []

    async def session(number: int) -> None:
        sent = asyncio.Event()

        async def send(message: Any) -> None:
            got.append(message["text"])
            sent.set()

        await topics.subscribe(send, "loops")
        await topics.publish("loops", text=str(number))
        await sent.wait()
        assert (await topics.subscribers("loops")).here == 1

    for number in range(5):
        thread = threading.Thread(target=run, args=(session(number),))
        thread.start()
        thread.join(DEADLINE_S)
    assert got == ["0", "1", "2", "3", "4"]


async def nothing(*_: Any) -> Any: ...


async def test_what_cannot_be_subscribed_is_said_at_once() -> None:
    with pytest.raises(TypeError, match="its scope or its send"):
        await topics.subscribe(object(), "a")
    with pytest.raises(TypeError, match="takes the WebSocket, or its `send`"):
        await topics.subscribe({"type": "websocket"}, "a")
    held = WebSocket({"type": "websocket"}, nothing, nothing)
    with pytest.raises(ApplicationFault, match="after the WebSocket is accepted"):
        await topics.subscribe(held, "a")
    held.client_state = held.application_state = WebSocketState.DISCONNECTED
    with pytest.raises(ClientDisconnected):
        await topics.subscribe(held, "a")


async def test_a_send_that_fails_ends_its_subscription() -> None:
    failed = asyncio.Event()

    async def send(message: Any) -> None:
        failed.set()
        raise ConnectionClosed(None, None)

    await topics.subscribe(send, "failing")
    assert (await topics.subscribers("failing")).here == 1
    await topics.publish("failing", text="x")
    await failed.wait()
    await asyncio.sleep(0)
    assert (await topics.subscribers("failing")).here == 0


def test_a_loop_that_was_stopped_without_a_word_is_not_meant() -> None:
    async def begin() -> None:
        ServerState(Config(ROOMS["bare"]), ROOMS["bare"])

    async def heard() -> str | bytes:
        async with topics.reading("a") as messages:
            await topics.publish("a", text="here")
            return (await anext(messages)).data

    asyncio.run(begin())
    assert asyncio.run(heard()) == "here"
