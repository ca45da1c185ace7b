"""What clients may ask of `topics.serve`: honest ones, and hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import litestar
import pytest
import websockets.sync.client
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from asgi_poller import topics
from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics.loop_topics import LoopTopics
from tests.support.command import Process
from tests.support.frames import text
from tests.support.processes import free_port
from tests.support.server import Served, Site, serving
from tests.support.waiting import DEADLINE_S, wait_until

LIMIT_BYTES = 4096


def may(websocket: WebSocket, action: str, topic: str) -> bool:
    """Everything in rooms, only reading of news."""
    return topic.startswith("room:") or (topic == "news" and action == "subscribe")


async def may_soon(websocket: WebSocket, action: str, topic: str) -> bool:
    if topic == "room:broken":
        raise LookupError("the database of rights is broken")
    return may(websocket, action, topic)


async def stamped(websocket: WebSocket, topic: str, value: Any) -> Any:
    """Who says it is not the client's to say."""
    if not isinstance(value, str):
        raise ValueError("internal detail")
    return {"from": websocket.query_params.get("name"), "says": value}


async def nothing_said(websocket: WebSocket) -> None:
    await websocket.accept()
    await topics.serve(websocket, may=may, max_topics=10, max_bytes=LIMIT_BYTES)


async def asked_soon(websocket: WebSocket) -> None:
    await topics.serve(websocket, may=may_soon, prepare=stamped)


async def may_nothing(websocket: WebSocket) -> None:
    await topics.serve(websocket, may=lambda websocket, action, topic: None)  # type: ignore[arg-type, return-value]


app = Starlette(
    routes=[
        WebSocketRoute("/", nothing_said),
        WebSocketRoute("/prepared", asked_soon),
        WebSocketRoute("/nothing", may_nothing),
    ]
)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(app, topics_history="100,60s") as site:
        yield site


@contextlib.contextmanager
def client(site: Served, path: str = "/") -> Iterator[ClientConnection]:
    with websockets.sync.client.connect(site.url(path, "ws"), max_size=None) as channel:
        yield channel


def say(channel: ClientConnection, *messages: Any) -> None:
    for message in messages:
        channel.send(json.dumps(message))


def heard(channel: ClientConnection) -> Any:
    return json.loads(channel.recv(DEADLINE_S))


def join(channel: ClientConnection, topic: str, since: str | None = None) -> Any:
    say(channel, {"subscribe": topic, "since": since})
    return heard(channel)


def is_well(site: Served, path: str = "/") -> None:
    """An honest client is served, whatever others do."""
    with client(site, path) as channel:
        assert join(channel, "room:well")["subscribed"] is True
        say(channel, {"publish": "room:well", "json": {"a": 1}})
        assert heard(channel)["json"] == {"a": 1}


def test_all_that_it_is_for(site: Site) -> None:
    with client(site) as ann, client(site) as bob:
        assert join(ann, "room:1") | {"id": ""} == {
            "topic": "room:1",
            "id": "",
            "subscribed": True,
            "complete": True,
        }
        join(bob, "room:1")
        say(bob, {"publish": "room:1", "text": "hi"}, {"publish": "room:1", "json": None})
        bob.send(b'{"publish": "room:1"}\n\x00\n\xff')
        for each in (ann, bob):
            first, second = heard(each), heard(each)
            assert (first["text"], second["json"]) == ("hi", None)
            data = each.recv(DEADLINE_S)
            assert isinstance(data, bytes)
            head, _, payload = data.partition(b"\n")
            assert json.loads(head).keys() == {"topic", "id"}
            assert payload == b"\x00\n\xff"
        say(ann, {"unsubscribe": "room:1"})
        assert heard(ann) == {"topic": "room:1", "unsubscribed": True}
        say(bob, {"publish": "room:1", "json": 4})
        heard(bob)
        again = [join(ann, "room:1", since=first["id"])]
        while "subscribed" not in again[-1]:
            piece = ann.recv(DEADLINE_S)
            again.append(json.loads(piece if isinstance(piece, str) else piece.split(b"\n")[0]))
        assert [each.get("json", "-") for each in again] == [None, "-", 4, "-"]


def test_it_ends_with_the_connection(site: Site) -> None:
    with client(site) as ann, client(site, "/prepared") as other:
        join(ann, "room:1")
        other.close()
        ann.close()
    wait_until(lambda: site.connections() == 0)
    is_well(site)


def test_nothing_is_allowed_that_the_application_has_not_allowed(site: Site) -> None:
    with client(site) as channel:
        for topic in ("admin", "room", "news:1"):
            refused = {"error": "forbidden", "action": "subscribe", "topic": topic, "detail": ""}
            assert join(channel, topic) == refused
        assert join(channel, "news")["subscribed"] is True
        say(channel, {"publish": "news", "text": "false"})
        assert heard(channel)["error"] == "forbidden"
        say(channel, {"publish": "room:1", "text": "true"})
    with client(site, "/nothing") as channel:
        assert join(channel, "room:1")["error"] == "forbidden"


def test_what_is_published_is_what_the_application_makes_of_it(site: Site) -> None:
    with client(site, "/prepared?name=Ann") as channel:
        join(channel, "room:1")
        say(channel, {"publish": "room:1", "json": "hi", "from": "Bob"})
        assert heard(channel)["json"] == {"from": "Ann", "says": "hi"}
        say(channel, {"publish": "room:1", "json": {"from": "Bob"}})
        refused = heard(channel)
        assert refused["error"] == "invalid"
        assert "internal" not in str(refused)


def test_a_mistake_of_the_application_ends_that_websocket(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with client(site, "/prepared") as channel, pytest.raises(ConnectionClosed) as closed:
        join(channel, "room:broken")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert "the database of rights is broken" in caplog.text
    is_well(site)


def test_ten_thousand_subscriptions_are_ten(site: Site) -> None:
    with client(site) as channel:
        for number in range(10_000):
            say(channel, {"subscribe": f"room:{number}"})
            if number % 100 == 99:  # otherwise both would wait for the other to read
                answers = [heard(channel) for _ in range(100)]
                assert all(each.get("error") == "limit" for each in answers[10:])
                assert ("subscribed" in answers[0]) is (number < 100)
        assert join(channel, "room:1")["subscribed"] is True  # one that it has
        say(channel, {"unsubscribe": "room:1"})
        assert heard(channel)["unsubscribed"] is True
        assert join(channel, "room:10000")["subscribed"] is True
        assert join(channel, "room:10001")["error"] == "limit"
    is_well(site)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("", "invalid"),
        ("{", "invalid"),
        ("[]", "invalid"),
        ("1", "invalid"),
        ("null", "invalid"),
        ('"subscribe"', "invalid"),
        ("[" * 4000, "invalid"),
        ('{"a":' * 800, "invalid"),
        ("9" * 4090, "invalid"),
        ("{}", "invalid"),
        ('{"dance": "room:1"}', "invalid"),
        ('{"subscribe": "room:1", "publish": "room:1"}', "invalid"),
        ('{"subscribe": null}', "invalid"),
        ('{"subscribe": ["room:1"]}', "invalid"),
        ('{"subscribe": {"room:1": 1}}', "invalid"),
        ('{"subscribe": ""}', "invalid"),
        ('{"subscribe": "room:\\u0000"}', "invalid"),
        ('{"subscribe": "room:\\ud800"}', "invalid"),
        (json.dumps({"subscribe": "room:" + "x" * 251}), "invalid"),
        (json.dumps({"subscribe": "room:" + "x" * 5000}), "limit"),
        ('{"subscribe": "room:1", "since": 1}', "invalid"),
        ('{"subscribe": "room:1", "since": ["a"]}', "invalid"),
        ('{"subscribe": "room:1", "since": "\\ud800"}', "invalid"),
        ('{"subscribe": "room:1", "since": "a\\nb"}', "invalid"),
        (json.dumps({"subscribe": "room:1", "since": "x" * 256}), "invalid"),
        ('{"publish": "room:1"}', "invalid"),
        ('{"publish": "room:1", "text": 1}', "invalid"),
        ('{"publish": "room:1", "text": "a", "json": 1}', "invalid"),
        ('{"publish": "room:1", "json": 1e999}', "invalid"),
        ('{"publish": "room:1", "json": NaN}', "invalid"),
        ('{"publish": "room:1", "json": "\\ud800"}', "invalid"),
        ('{"publish": "room:1", "text": "\\udfff"}', "invalid"),
        (json.dumps({"publish": "room:1", "text": "x" * 4096}), "limit"),
        ('{"publish": "room:1", "text": "' + "é" * 2040 + '"}', "limit"),
        (b"", "invalid"),
        (b"\n", "invalid"),
        (b"\xff\xfe\n", "invalid"),
        (b'{"publish": "admin"}\nx', "forbidden"),
        (b'{"publish": "room:1"}\n' + b"x" * 4096, "limit"),
    ],
)
def test_what_is_no_message_is_answered_and_harms_nobody(
    site: Site, message: str | bytes, error: str
) -> None:
    with client(site) as bystander, client(site) as channel:
        join(bystander, "room:1")
        channel.send(message)
        assert heard(channel)["error"] == error
        assert join(channel, "room:1")["subscribed"] is True  # it goes on
        say(channel, {"publish": "room:1", "text": "fine"})
        assert heard(bystander)["text"] == "fine"  # and was told nothing else


class Flood:
    """A client whose messages are all there already."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.answers: list[Any] = []
        self.scope = {"type": "websocket"}

    async def receive(self) -> dict[str, Any]:
        self.left -= 1
        if self.left < 0:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "text": '{"subscribe": "a"}'}

    async def send(self, message: Any) -> None:
        self.answers.append(message)


async def test_a_flood_leaves_others_their_turn() -> None:
    flood = Flood(1600)
    serving_it = asyncio.ensure_future(topics.serve(flood, may=lambda *asked: False))
    turns = 0
    while not serving_it.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 100
    assert len(flood.answers) == 1600


def test_a_page_may_ask_whether_the_connection_is_alive(site: Site) -> None:
    with client(site) as channel:
        say(channel, {"ping": True})
        assert heard(channel) == {"pong": True}


@pytest.mark.parametrize("since", ["x", "-1", "00000000-1", "é".encode().hex(), "1-0", "$", ">"])
def test_since_of_garbage_is_a_gap(site: Site, since: str) -> None:
    with client(site) as channel:
        told = join(channel, "room:1", since)
        assert (told["subscribed"], told["complete"]) == (True, False)


def test_who_does_not_read_the_answers_holds_up_nobody(site: Site) -> None:
    with site.websocket(receive_buffer=4096) as deaf:
        deaf.send_until_stuck(text("x") * 1000, 64 * 1024 * 1024)
        is_well(site)
        deaf.reset()
    wait_until(lambda: site.connections() == 0)


def test_without_what_joins_workers_a_client_is_told_to_come_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: object, **options: object) -> None:
        raise TopicsUnavailable("topics: the hub is away")

    with client(site) as channel:
        monkeypatch.setattr(LoopTopics, "publish", away)
        say(channel, {"publish": "room:1", "text": "hi"})
        assert heard(channel)["error"] == "unavailable"
        monkeypatch.setattr(LoopTopics, "subscribe", away)
        with pytest.raises(ConnectionClosed) as closed:
            join(channel, "room:1")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


async def in_litestar(socket: litestar.WebSocket[Any, Any, Any]) -> None:
    await topics.serve(socket, may=lambda socket, action, topic: topic == "room:well")


def test_in_another_framework() -> None:
    with serving(litestar.Litestar([litestar.websocket("/")(in_litestar)])) as site:
        is_well(site)


@pytest.mark.parametrize("ws", ["websockets", "wsproto"])
def test_under_another_server(ws: str) -> None:
    port = free_port()
    arguments = ["tests.topics.pages:app", "--ws", ws, "--port", str(port), "--lifespan", "off"]
    other = Process([sys.executable, "-m", "uvicorn", *arguments])
    try:
        other.wait_for("running on")
        site = Served(port)
        with client(site, "/ws") as ann, client(site, "/ws") as bob:
            join(ann, "room:1")
            say(bob, {"publish": "room:1", "json": 1}, [])
            assert heard(bob)["error"] == "invalid"
            assert heard(ann)["json"] == 1
        is_well(site, "/ws")
    finally:
        other.close()
    assert "Traceback" not in other.text


def test_the_client_is_part_of_the_package() -> None:
    assert "export class Topics" in topics.CLIENT_JS.read_text(encoding="utf-8")
