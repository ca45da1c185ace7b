"""Topics of one process: real clients, an application with Starlette, one without."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.sync.client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import ClientConnection

from asgi_poller import topics
from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until


async def room(websocket: WebSocket) -> None:
    """Subscribes to ?topic=, and publishes there what it is sent."""
    await websocket.accept()
    query = websocket.query_params
    subscribed = await topics.subscribe(
        websocket, query["topic"], since=query.get("since"), ids="ids" in query
    )
    if "ids" not in query:
        await websocket.send_json([subscribed.id, subscribed.is_complete])
    async for message in websocket.iter_text():
        if message == "leave":
            assert await topics.unsubscribe(websocket, query["topic"])
            await websocket.send_text("left")
        else:
            await topics.publish(query["topic"], text=message)


async def publish(request: Request) -> Response:
    body = await request.body()
    return Response(await topics.publish(request.query_params["topic"], json=json.loads(body)))


async def from_thread(request: Request) -> Response:
    topic = request.query_params["topic"]
    ids: list[str] = []

    def work() -> None:
        ids.append(topics.publish_threadsafe(topic, bytes=b"thread").result(DEADLINE_S))
        ids.append(asyncio.run(topics.publish(topic, text="loop of a thread")))

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.to_thread(thread.join)
    return JSONResponse(ids)


async def count(request: Request) -> Response:
    found = await topics.subscribers(request.query_params["topic"])
    return JSONResponse([found.here, found.everywhere])


app = Starlette(
    routes=[
        WebSocketRoute("/", room),
        Route("/publish", publish, methods=["POST"]),
        Route("/thread", from_thread),
        Route("/count", count),
    ]
)


@pytest.fixture(params=[1, 2], ids=["loop", "loops"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(app, loops=request.param, topics_history="100,60s") as site:
        yield site


@contextlib.contextmanager
def joined(site: Site, query: str, **options: Any) -> Iterator[tuple[ClientConnection, Any]]:
    """A client of the room, and how it was greeted."""
    url = site.url(f"/?{query}", "ws")
    with websockets.sync.client.connect(url, **options) as client:
        yield client, json.loads(client.recv(DEADLINE_S))


def counted(site: Site, topic: str = "a") -> list[int]:
    answer = site.ask(f"GET /count?topic={topic} HTTP/1.0\r\n\r\n".encode())
    found: list[int] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


def test_a_message_comes_to_every_kind_of_subscriber(site: Site) -> None:
    with (
        joined(site, "topic=a", compression=None) as (plain, _),
        joined(site, "topic=a") as (deflated, _),
        joined(site, "topic=a&ids") as (with_ids, note),
        joined(site, "topic=b") as (other, _),
    ):
        assert note["topic"] == "a"
        assert note["subscribed"] is note["complete"] is True
        long = "hello " * 100
        for message in (long, "é"):
            deflated.send(message)
            assert plain.recv(DEADLINE_S) == message
            assert deflated.recv(DEADLINE_S) == message
            told = json.loads(with_ids.recv(DEADLINE_S))
            assert (told["topic"], told["text"]) == ("a", message)
            assert told["id"] != note["id"]
        other.send("for b alone")
        assert other.recv(DEADLINE_S) == "for b alone"
        plain.send("last")
        assert plain.recv(DEADLINE_S) == "last"


def test_requests_threads_and_other_loops_publish(site: Site) -> None:
    with joined(site, "topic=a&ids") as (client, _):
        body = b'{"n": [1, null, "\\u00e9"]}'
        head = f"POST /publish?topic=a HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = site.ask(head.encode() + body)
        told = json.loads(client.recv(DEADLINE_S))
        assert told["json"] == {"n": [1, None, "é"]}
        assert answer.endswith(told["id"].encode())
        answer = site.ask(b"GET /thread?topic=a HTTP/1.0\r\n\r\n")
        ids = json.loads(answer.partition(b"\r\n\r\n")[2])
        binary = client.recv(DEADLINE_S)
        assert isinstance(binary, bytes)
        head_line, _, payload = binary.partition(b"\n")
        assert payload == b"thread"
        assert json.loads(head_line) == {"topic": "a", "id": ids[0]}
        assert json.loads(client.recv(DEADLINE_S))["id"] == ids[1]


def test_it_ends_with_the_connection_and_by_unsubscribing(site: Site) -> None:
    with joined(site, "topic=a") as (first, _), joined(site, "topic=a") as (second, _):
        assert counted(site) == [2, 2]
        second.send("leave")
        assert second.recv(DEADLINE_S) == "left"
        assert counted(site) == [1, 1]
        first.socket.close()  # without a word
        wait_until(lambda: counted(site) == [0, 0])


def test_what_was_missed_comes_first_and_in_order(site: Site) -> None:
    with joined(site, "topic=a") as (publisher, _):
        with joined(site, "topic=a&ids") as (_, note):
            pass
        for number in range(50):
            publisher.send(str(number))
        for number in range(50):
            assert publisher.recv(DEADLINE_S) == str(number)
        url = site.url(f"/?topic=a&ids&since={note['id']}", "ws")
        with websockets.sync.client.connect(url) as again:
            got = [json.loads(again.recv(DEADLINE_S)) for _ in range(51)]
            assert [each.get("text") for each in got[:50]] == [str(n) for n in range(50)]
            assert got[50]["complete"] is True
            assert got[50]["id"] == got[49]["id"]
            publisher.send("now")
            assert json.loads(again.recv(DEADLINE_S))["text"] == "now"


def test_who_missed_too_much_is_told(site: Site) -> None:
    with joined(site, "topic=a") as (client, note):
        for number in range(101):
            client.send(str(number))
            assert client.recv(DEADLINE_S) == str(number)
        with joined(site, f"topic=a&ids&since={note[0]}") as (_, told):
            assert told["complete"] is False


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Without our functions: messages of the extension."""
    assert scope["type"] == "websocket"
    assert "websocket.topic" in scope["extensions"]
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.topic.subscribe", "topic": "a"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message["text"]
        if text.startswith("{"):
            try:
                await send(json.loads(text))
            except RuntimeError as error:
                await send({"type": "websocket.send", "text": str(error)})
        else:
            await send({"type": "websocket.topic.publish", "topic": "a", "text": text})


@pytest.fixture
def bare_site() -> Iterator[Site]:
    with serving(bare, lifespan="off") as site:
        yield site


def test_messages_of_the_extension_do_the_same(bare_site: Site) -> None:
    url = bare_site.url("/", "ws")
    with websockets.sync.client.connect(url) as one, websockets.sync.client.connect(url) as two:
        one.send("hello")
        assert one.recv(DEADLINE_S) == two.recv(DEADLINE_S) == "hello"
        two.send('{"type": "websocket.topic.unsubscribe", "topic": "a"}')
        two.send('{"type": "websocket.topic.publish", "topic": "a", "json": [1]}')
        assert one.recv(DEADLINE_S) == "[1]"


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"type": "websocket.topic.subscribe"}, "'topic' is missing"),
        ({"type": "websocket.topic.subscribe", "topic": ""}, "1 to 255 bytes"),
        ({"type": "websocket.topic.subscribe", "topic": "a", "slow": "wait"}, "drop, close"),
        ({"type": "websocket.topic.publish", "topic": "a"}, "one of text, bytes and json"),
        ({"type": "websocket.topic.publish", "topic": "a", "text": 1}, "text to publish is str"),
        ({"type": "websocket.topic.mistake", "topic": "a"}, "no such message"),
    ],
)
def test_a_wrong_message_is_the_applications_mistake(
    bare_site: Site, message: dict[str, Any], problem: str
) -> None:
    with websockets.sync.client.connect(bare_site.url("/", "ws")) as client:
        client.send(json.dumps(message))
        answer = client.recv(DEADLINE_S)
        assert isinstance(answer, str)
        assert answer.startswith(message["type"])
        assert problem in answer
