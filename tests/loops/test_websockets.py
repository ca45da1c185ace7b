"""WebSockets over real sockets: what a peer gets, even one that floods, stalls or breaks rules."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from tests.loops.apps import Application
from tests.support.client import Client, get, handshake
from tests.support.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    ServerFrame,
    binary,
    close,
    deflated,
    frame,
    header,
    inflated,
    text,
)
from tests.support.http2_websockets import over
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, settled, wait_until

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture(params=["auto", "wsproto"])
def site(loop: str, app: Application, request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(app, loop=loop, ws=request.param) as site:
        yield site


@pytest.fixture(params=["1.1", "2"])
def version(request: pytest.FixtureRequest) -> str:
    """Of HTTP, over which a WebSocket comes."""
    return str(request.param)


def is_over(client: Client) -> bool:
    """Whether the server has ended the connection, without a reset."""
    return client.rest() == b""


def test_messages_and_a_clean_end(version: str, site: Site, app: Application) -> None:
    with over(version, site).websocket() as client:
        for size in (0, 1, 125, 126, 65535, 65536, 300_000):
            client.sendall(binary(b"x" * size) + text("é" * (size // 2)))
            assert client.frame() == ServerFrame(BINARY, b"x" * size)
            assert client.frame() == ServerFrame(TEXT, "é".encode() * (size // 2))
        client.sendall(close(4000, "enough"))
        assert client.frame().close_code == 4000
        assert is_over(client)
    assert app.finished.wait(DEADLINE_S)
    assert app.messages == [{"type": "websocket.disconnect", "code": 4000, "reason": "enough"}]


def test_octet_by_octet(version: str, site: Site) -> None:
    with over(version, site).websocket(DEFLATE) as client:
        message = b"compress me, compress me, compress me"
        for data, answer in (
            (text("a"), ServerFrame(TEXT, b"a")),
            (frame(PING, b"p"), ServerFrame(PONG, b"p")),
            (frame(TEXT, deflated(message), rsv=4), ServerFrame(TEXT, message)),
            (frame(TEXT, b"b", fin=False) + frame(0, b"c"), ServerFrame(TEXT, b"bc")),
            (close(1000), ServerFrame(CLOSE, b"\x03\xe8")),
        ):
            for at in range(len(data)):
                client.sendall(data[at : at + 1])
            assert client.frame() == answer


def test_frames_in_the_packet_of_the_handshake(site: Site) -> None:
    with site.connect() as client:
        client.sendall(handshake() + text("eager") + text("er"))
        assert client.head().status == 101
        assert client.frame().payload == b"eager"
        assert client.frame().payload == b"er"


def test_a_handshake_behind_other_requests(site: Site, app: Application) -> None:
    """Answers keep their order, and what follows the handshake is frames."""
    with site.connect() as client:
        client.sendall(get("/echo/a") + get("/turns/5") + get("/echo/b") + handshake() + text("ws"))
        assert [client.response().body for _ in range(3)] == [b"a", b"5", b"b"]
        assert client.head().status == 101
        assert client.frame().payload == b"ws"
    with site.connect() as client:
        client.sendall(get("/wait/a") + handshake())
        wait_until(lambda: "/wait/a" in app.started)
        client.sendall(text("while") + text("waiting"))
        app.go_on.set()
        assert client.response().body == b"a"
        assert client.head().status == 101
        assert [client.frame().payload for _ in range(2)] == [b"while", b"waiting"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (handshake().replace(b"Version: 13", b"Version: 12"), 426),
        (handshake().replace(b"GET", b"POST"), 405),
        (handshake().replace(b"Sec-WebSocket-Key", b"X"), 400),
        (handshake("Content-Length: 3") + b"abc", 400),
        (handshake().replace(b"Host: test\r\n", b""), 400),
    ],
)
def test_bad_handshakes(site: Site, app: Application, data: bytes, status: int) -> None:
    with site.connect() as client:
        client.sendall(data)
        assert client.response().status == status
        assert is_over(client)
    assert app.started == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (header(0x82, 20_000_000) + b"mask", 1009),
        (frame(TEXT, b"\xff\xff"), 1007),
        (frame(TEXT, b"a", mask=None), 1002),
        (frame(0xF), 1002),
        (frame(TEXT, b"a", rsv=1), 1002),
    ],
)
def test_the_reason_reaches_a_peer_that_is_still_sending(
    version: str, site: Site, app: Application, fault: bytes, code: int
) -> None:
    """close() with bytes unread would be a reset, which destroys what the peer has not read."""
    with over(version, site).websocket() as client:
        client.sendall(fault)
        for _ in range(50):
            client.sendall(bytes(65536))
        sent = client.frame()
        assert (sent.opcode, sent.close_code) == (CLOSE, code)
        client.shutdown(socket.SHUT_WR)
        assert is_over(client)
    assert app.finished.wait(DEADLINE_S)
    assert app.messages[0]["code"] == code


@pytest.mark.parametrize(
    ("how", "code"), [("close", 1006), ("reset", 1006), ("half", 1006), ("Close", 1005)]
)
def test_the_truth_about_the_end(
    version: str, site: Site, app: Application, how: str, code: int
) -> None:
    client = over(version, site).websocket()
    client.sendall(text("a"))
    assert client.frame().payload == b"a"
    if how == "half":
        client.shutdown(socket.SHUT_WR)
    elif how == "Close":
        client.sendall(close())
        assert client.frame() == ServerFrame(CLOSE, b"")
    else:
        getattr(client, how)()
    assert app.finished.wait(DEADLINE_S)
    assert app.messages == [{"type": "websocket.disconnect", "code": code, "reason": ""}]
    client.close()


def test_compression_of_each_message_by_itself(site: Site) -> None:
    with site.connect() as client:
        client.sendall(handshake(DEFLATE + "; client_max_window_bits"))
        extensions = client.head().header("sec-websocket-extensions")
        assert extensions is not None
        assert "server_no_context_takeover" in extensions
        for size in (0, 10, 300, 100_000):
            message = b"ab" * (size // 2)
            client.sendall(frame(BINARY, deflated(message), rsv=4))
            answer = client.frame()
            assert answer.rsv == (4 if size >= 256 else 0)
            assert (inflated(answer.payload) if answer.rsv else answer.payload) == message


def test_a_bomb_is_refused_while_it_is_inflated(version: str, site: Site) -> None:
    with over(version, site).websocket(DEFLATE) as client:
        client.sendall(frame(BINARY, deflated(bytes(17 * 1024 * 1024)), rsv=4))
        assert client.frame().close_code == 1009


# Slow applications and slow peers


class Deaf:
    """Accepts, and receives nothing until it is told to; or says more than anybody reads."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.received: list[Message] = []
        self.sent = 0
        self.errors: list[BaseException] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return

        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/flood":
            try:
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(65536)})
                    self.sent += 65536
            except OSError as error:
                self.errors.append(error)
            self.received.append(await receive())
            return
        while not self.go_on.is_set():
            await asyncio.sleep(0.005)  # another thread sets it
        while not self.received or self.received[-1]["type"] != "websocket.disconnect":
            self.received.append(await receive())


@pytest.fixture
def deaf() -> Deaf:
    return Deaf()


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (text("x" * 1000), ()),
        (binary(bytes(1_000_000)), ()),
        (frame(BINARY, deflated(bytes(1_000_000)), rsv=4), (DEFLATE,)),
        (frame(PING, b"x" * 100) * 100 + text("x"), ()),
    ],
    ids=["small", "large", "compressed", "pings"],
)
def test_a_deaf_application_stops_its_peer(
    version: str, loop: str, deaf: Deaf, data: bytes, headers: tuple[str, ...]
) -> None:
    with serving(deaf, loop=loop) as site, over(version, site).websocket(*headers) as client:
        assert client.send_until_stuck(data * (100_000 // len(data) + 1), 60_000_000) < 30_000_000
        deaf.go_on.set()


def test_a_deaf_application_does_not_cost_its_peer_the_channel(
    version: str, loop: str, deaf: Deaf
) -> None:
    """Peers are known that kill it: the Pong waits behind a message that nobody receives."""
    options = {"ws_ping_interval": 0.2, "ws_ping_timeout": 0.2}
    with serving(deaf, loop=loop, **options) as site, over(version, site).websocket() as client:
        client.sendall(text("one") + text("two"))
        for _ in range(5):  # more than an interval and a timeout
            assert client.frame().opcode == PING
            client.sendall(frame(PONG))
        deaf.go_on.set()
        client.sendall(close(1000))
        while (last := client.frame()).opcode == PING:
            pass
        assert last.close_code == 1000
    assert [message.get("text") for message in deaf.received] == ["one", "two", None]


def test_a_dead_peer_is_noticed(version: str, loop: str, app: Application) -> None:
    options = {"ws_ping_interval": 0.2, "ws_ping_timeout": 0.2, "ws_close_timeout": 0.2}
    with serving(app, loop=loop, **options) as site, over(version, site).websocket() as client:
        assert client.frame().opcode == PING
        assert app.finished.wait(DEADLINE_S)  # it answers nothing
        assert app.messages[0]["code"] == 1011
        while (last := client.frame()).opcode == PING:
            pass
        assert last.close_code == 1011


def test_send_waits_for_a_peer_that_does_not_read(loop: str, deaf: Deaf) -> None:
    with serving(deaf, loop=loop) as site:
        client = site.websocket(path="/flood", receive_buffer=8192)
        settled(lambda: deaf.sent)
        assert deaf.sent < 20_000_000
        client.sendall(
            frame(PING, b"x" * 125) * 50_000
        )  # answered with one Pong in the end, at most
        settled(lambda: deaf.sent)
        before = deaf.sent
        while deaf.sent == before:  # the kernel wants more once a third of its buffer has gone
            client.exactly(100_000)
        client.reset()
        wait_until(lambda: bool(deaf.errors))
        assert isinstance(deaf.errors[0], OSError)
        wait_until(lambda: bool(deaf.received))
        assert deaf.received[0]["code"] == 1006


def test_an_application_that_does_not_accept(loop: str) -> None:
    async def sleeps(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            assert (await receive())["type"] == "websocket.disconnect"

    with serving(sleeps, loop=loop, ws_accept_timeout=0.3) as site, site.connect() as client:
        client.sendall(handshake())
        assert client.response().status == 500
        assert is_over(client)


def test_our_close_that_is_not_answered(version: str, loop: str) -> None:
    async def goes(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1001})

    with (
        serving(goes, loop=loop, ws_close_timeout=0.3) as site,
        over(version, site).websocket() as client,
    ):
        assert client.frame().close_code == 1001
        client.sendall(text("never mind"))
        assert is_over(client)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_denial(loop: str, streamed: bool) -> None:
    async def denies(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        start: dict[str, Any] = {"type": "websocket.http.response.start", "status": 401}
        await send({**start, "headers": [(b"x-reason", b"why not")]})
        kind = "websocket.http.response.body"
        for _ in range(3 * streamed):
            await send({"type": kind, "body": b"no " * 1000, "more_body": True})
        await send({"type": kind, "body": b"never"})

    with serving(denies, loop=loop) as site, site.connect() as client:
        client.sendall(handshake() + text("too early"))
        response = client.response()
        assert (response.status, response.header("x-reason")) == (401, "why not")
        assert response.body == b"no " * 3000 * streamed + b"never"
        assert is_over(client)
