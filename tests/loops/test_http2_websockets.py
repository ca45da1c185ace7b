"""WebSockets over HTTP/2 (RFC 8441): many on one connection, beside requests, and each by itself.

What a WebSocket does whatever it came over is in test_websockets.py, for both versions.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import h2.events
import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.loops.apps import Application
from tests.support.apps import accept, answer, converse
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    TEXT,
    ServerFrame,
    binary,
    close,
    deflated,
    frame,
    inflated,
    text,
)
from tests.support.http2_websockets import CANCEL, WebSockets, websockets
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, settled, wait_until

MANY = 300
ROOM = {"http2_max_concurrent_streams": MANY + 10}


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
def site(app: Application) -> Iterator[Site]:
    with serving(app, **ROOM) as site:
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[WebSockets]:
    with websockets(site.port) as client:
        yield client


def test_the_setting_that_offers_it() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    for ws, offered in (("auto", 1), ("none", 0)):
        with serving(nothing, ws=ws) as site, websockets(site.port) as client:
            client.wait(h2.events.RemoteSettingsChanged)
            assert client.h2.remote_settings.enable_connect_protocol == offered


def test_hundreds_on_one_connection(site: Site, app: Application, client: WebSockets) -> None:
    channels = [client.open(f"/{number}") for number in range(MANY)]
    assert [channel.head().status for channel in channels] == [200] * MANY
    for turn in range(3):
        for number, channel in enumerate(channels):
            channel.sendall(text(f"{turn} of {number}"))
        for number, channel in enumerate(channels):
            assert channel.frame() == ServerFrame(TEXT, f"{turn} of {number}".encode())
    assert site.connections() == MANY + 1
    for channel in channels:
        channel.sendall(close(1000))
    for channel in channels:
        assert channel.frame().close_code == 1000
        assert channel.rest() == b""
        channel.shutdown()
    wait_until(lambda: site.connections() == 1, "each has left, and the connection is there")
    assert [message["code"] for message in app.messages] == [1000] * MANY


def test_the_scope(app: Application, client: WebSockets) -> None:
    fields = [("origin", "http://a"), ("cookie", "a=b"), ("sec-websocket-protocol", "x, y")]
    with client.websocket("/path%20a?q=1", *fields, scheme="https", authority="a.example"):
        scope = app.scopes[0]
    assert (scope["type"], scope["http_version"], scope["scheme"]) == ("websocket", "2", "ws")
    assert (scope["path"], scope["query_string"]) == ("/path a", b"q=1")
    assert scope["subprotocols"] == ["x", "y"]
    assert (b"host", b"a.example") in scope["headers"]
    assert (b"cookie", b"a=b") in scope["headers"]
    assert not any(name.startswith(b":") for name, _ in scope["headers"])
    assert "websocket.http.response" in scope["extensions"]


def test_requests_in_between(client: WebSockets) -> None:
    first, second = client.websocket(), client.websocket()
    first.sendall(
        text(
            "begun",
        )[:4]
    )
    streams = [client.request(f"/echo/{number}") for number in range(5)]
    posted = client.request("/", "POST", body=b"x" * 15_000)
    second.sendall(binary(b"z" * 50_000))
    first.sendall(text("begun")[4:])
    for number, stream in enumerate(streams):
        assert client.response(stream)[2] == str(number).encode()
    assert client.response(posted)[2] == b"x" * 15_000
    assert first.frame() == ServerFrame(TEXT, b"begun")
    assert second.frame() == ServerFrame(BINARY, b"z" * 50_000)


def test_fragments_of_several_are_interleaved(client: WebSockets) -> None:
    channels = [client.websocket() for _ in range(10)]
    for channel in channels:
        channel.sendall(frame(TEXT, b"one ", fin=False))
    for channel in reversed(channels):
        channel.sendall(frame(CONTINUATION, b"two ", fin=False)[:5])
    for number, channel in enumerate(channels):
        rest = frame(CONTINUATION, b"two ", fin=False)[5:]
        channel.sendall(rest + frame(CONTINUATION, str(number).encode()))
    for number, channel in enumerate(channels):
        assert channel.frame() == ServerFrame(TEXT, f"one two {number}".encode())


def test_what_is_agreed() -> None:
    async def agrees(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            headers = [(b"X-Mine", b"1"), (b"content-length", b"0"), (b"connection", b"close")]
            message = {"type": "websocket.accept", "subprotocol": "y", "headers": headers}
            await send(message)
            await send({"type": "websocket.send", "text": "ab" * 1000})
            await receive()

    offers = "permessage-deflate; client_max_window_bits"
    fields = [("sec-websocket-protocol", "x, y"), ("sec-websocket-extensions", offers)]
    with serving(agrees, request_id=True) as site, websockets(site.port) as client:
        channel = client.websocket("/", *fields)
        answered = dict(channel.head().headers)
        assert answered["sec-websocket-protocol"] == "y"
        assert answered["sec-websocket-extensions"].startswith("permessage-deflate")
        assert answered["x-mine"] == "1"
        assert "x-request-id" in answered
        assert answered["server"] == "asgi-poller"
        unwanted = {"content-length", "connection", "upgrade", "sec-websocket-accept"}
        assert unwanted.isdisjoint(answered)
        sent = channel.frame()
        assert sent.rsv == 4
        assert inflated(sent.payload) == b"ab" * 1000
        channel.sendall(frame(TEXT, deflated(b"bye"), rsv=4))
        assert channel.frame().opcode == CLOSE


@pytest.mark.parametrize(
    ("fields", "pseudo", "status"),
    [
        ([("sec-websocket-version", "12")], {}, 400),
        ([("x-no-version", "1")], {}, 400),
        ([], {"protocol": "webtransport"}, 501),
    ],
)
def test_bad_handshakes_cost_their_stream_alone(
    app: Application,
    client: WebSockets,
    fields: list[tuple[str, str]],
    pseudo: dict[str, Any],
    status: int,
) -> None:
    with client.websocket() as well:
        before = len(app.started)
        assert client.open("/", *fields, **pseudo).response().status == status
        assert len(app.started) == before
        well.sendall(text("still here"))
        assert well.frame().payload == b"still here"


def test_an_origin_that_is_not_allowed(app: Application) -> None:
    with (
        serving(app, ws_allow_origins=["https://good.example"]) as site,
        websockets(site.port) as client,
    ):
        refused = client.open("/", ("origin", "https://bad.example")).response()
        assert refused.status == 403
        assert client.websocket("/", ("origin", "https://good.example")).head().status == 200
    assert len(app.started) == 1


def test_no_websockets() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"

    with serving(never, ws="none") as site, websockets(site.port) as client:
        client.wait(h2.events.RemoteSettingsChanged)
        assert client.open().response().status == 501


class Denier:
    """Denies as its path says."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        start: dict[str, Any] = {"type": "websocket.http.response.start", "status": 401}
        kind = "websocket.http.response.body"
        match scope["path"]:
            case "/close":
                await send({"type": "websocket.close"})
            case "/raise":
                raise ZeroDivisionError
            case "/stream":
                await send({**start, "headers": [(b"x-reason", b"why not")]})
                for _ in range(3):
                    await send({"type": kind, "body": b"no " * 100_000, "more_body": True})
                await send({"type": kind, "body": b"never"})
            case "/break":
                await send({**start, "headers": []})
                await send({"type": kind, "body": b"half", "more_body": True})


def test_denials() -> None:
    with serving(Denier()) as site, websockets(site.port) as client:
        assert client.open("/close").response().status == 403
        assert client.open("/raise").response().status == 500
        response = client.open("/stream").response()
        assert (response.status, response.header("x-reason")) == (401, "why not")
        assert response.body == b"no " * 300_000 + b"never"
        broken = client.open("/break")
        assert broken.head().status == 401
        with pytest.raises(ConnectionResetError):
            broken.rest()
        wait_until(lambda: site.connections() == 1, "all have left")


# One does not hold up the others


class Stubborn:
    """/deaf receives nothing until it is told to, /late accepts only then, and /flood says more
    than anybody reads.
    """

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.received: list[str] = []
        self.sent_bytes = 0
        self.ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer(send, b"hello")
        elif scope["type"] == "websocket" and scope["path"] == "/deaf":
            await accept(receive, send)
            while not self.go_on.is_set():
                await asyncio.sleep(0.005)  # another thread sets it
            while (message := await receive())["type"] == "websocket.receive":
                self.received.append(message["text"])
            self.ended.set()
        elif scope["type"] == "websocket" and scope["path"] == "/flood":
            await accept(receive, send)
            try:
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(10_000)})
                    self.sent_bytes += 10_000
            finally:
                self.ended.set()
        elif scope["type"] == "websocket":
            self.began.set()
            while scope["path"] == "/late" and not self.go_on.is_set():
                await asyncio.sleep(0.005)
            await converse(receive, send)


@pytest.fixture
def stubborn() -> Stubborn:
    return Stubborn()


def test_an_application_that_does_not_read_holds_up_nobody(stubborn: Stubborn) -> None:
    with serving(stubborn) as site, websockets(site.port) as client:
        deaf, well = client.websocket("/deaf"), client.websocket()
        sent = deaf.send_until_stuck(text("x" * 1000), 60_000_000, 0.2)
        assert sent < 1_000_000  # its window and no more
        for number in range(100):  # more than the connection's window
            well.sendall(binary(bytes(20_000)))
            assert well.frame().payload == bytes(20_000), number
        assert client.response(client.request())[2] == b"hello"
        stubborn.go_on.set()
        one = len(text("x" * 1000))
        rest = (text("x" * 1000) * 2)[sent % one : one] if sent % one else b""
        deaf.sendall(rest + text("last") + close(1000))
        assert deaf.frame().close_code == 1000
        assert stubborn.ended.wait(DEADLINE_S)
    assert stubborn.received == ["x" * 1000] * (-(-sent // one)) + ["last"]


def test_small_messages_for_an_application_that_does_not_read(stubborn: Stubborn) -> None:
    """What its window lets in waits as it came: not as so many messages."""
    with serving(stubborn) as site, websockets(site.port) as client:
        deaf = client.websocket("/deaf")
        one = text("x")
        assert deaf.send_until_stuck(one * 2000, 60_000_000, 0.2) < 1_000_000
        stubborn.go_on.set()
        wait_until(lambda: len(stubborn.received) > 50_000 // len(one))
    assert set(stubborn.received) == {"x"}


def test_a_client_that_opens_no_window_holds_up_nobody(stubborn: Stubborn) -> None:
    with serving(stubborn) as site, websockets(site.port) as client:
        flooded = client.open("/flood")
        flooded.opens_window = False
        flooded.head()
        well = client.websocket()
        for _ in range(20):
            well.sendall(binary(bytes(20_000)))
            assert well.frame().payload == bytes(20_000)
        settled(lambda: stubborn.sent_bytes)
        # its window, what may wait for it, what a turn may gather, and a message
        assert stubborn.sent_bytes <= 65535 + 65536 + 65536 + 2 * 10_000
        before = stubborn.sent_bytes
        client.h2.increment_flow_control_window(200_000, flooded.stream_id)  # more than waits
        client.flush()
        client.until(lambda: stubborn.sent_bytes > before, "it goes on")  # reads for its window
        flooded.reset()
        assert stubborn.ended.wait(DEADLINE_S)
        well.sendall(text("still here"))
        assert well.frame().payload == b"still here"


def test_who_is_too_slow_is_closed_alone(stubborn: Stubborn) -> None:
    options = {"ws_slow_consumer": "close", "ws_slow_consumer_timeout": 0.3}
    with (
        serving(stubborn, ws_close_timeout=0.3, **options) as site,
        websockets(site.port) as client,
    ):
        flooded = client.open("/flood")
        flooded.opens_window = False
        flooded.head()
        well = client.websocket()
        assert stubborn.ended.wait(DEADLINE_S)
        client.until(lambda: flooded.reset_code is not None, "it is cut off")
        well.sendall(text("still here"))
        assert well.frame().payload == b"still here"


def test_a_peer_that_never_ends_its_stream_is_not_waited_for(
    site: Site, client: WebSockets
) -> None:
    channel = client.websocket()
    channel.sendall(close(1000))
    assert channel.frame().close_code == 1000
    client.until(lambda: channel.reset_code is not None, "it is reset")
    assert channel.has_ended
    assert channel.reset_code == 0
    wait_until(lambda: site.connections() == 1, "it has left")


def test_frames_that_come_before_the_answer(stubborn: Stubborn) -> None:
    with serving(stubborn) as site, websockets(site.port) as client:
        eager, gone, half = (client.open("/late") for _ in range(3))
        eager.sendall(text("eager") + text("er"))
        gone.reset()
        half.shutdown()
        client.until(lambda: half.reset_code is not None, "who says no more gets no answer")
        assert half.reset_code == CANCEL
        stubborn.go_on.set()
        assert eager.head().status == 200
        assert [eager.frame().payload for _ in range(2)] == [b"eager", b"er"]
        wait_until(lambda: site.connections() == 2, "the others have left")


def test_an_end_behind_messages(stubborn: Stubborn) -> None:
    """END_STREAM without a Close: what was said before is still given to the application."""
    with serving(stubborn) as site, websockets(site.port) as client:
        channel = client.websocket("/deaf")
        client.h2.send_data(channel.stream_id, text("a") + text("b"), end_stream=True)
        client.flush()
        assert channel.rest() == b""
        wait_until(lambda: site.connections() == 1, "it has left")
        stubborn.go_on.set()
        assert stubborn.ended.wait(DEADLINE_S)
    assert stubborn.received == ["a", "b"]


def test_one_that_is_not_accepted_in_time(stubborn: Stubborn) -> None:
    with serving(stubborn, ws_accept_timeout=0.3) as site, websockets(site.port) as client:
        late, well = client.open("/late"), client.websocket()
        assert late.response().status == 500
        stubborn.go_on.set()
        well.sendall(text("still here"))
        assert well.frame().payload == b"still here"


def test_lifetimes(app: Application) -> None:
    options = {"ws_max_lifetime": 0.3, "ws_max_lifetime_jitter": 0.0}
    with serving(app, **options) as site, websockets(site.port) as client:
        for channel in [client.websocket() for _ in range(5)]:
            assert channel.frame().close_code == 1012
            channel.sendall(close(1012))
            assert channel.rest() == b""
        assert client.status(client.request("/echo/still")) == 200


def test_the_connection_goes_with_all_of_them(app: Application, site: Site) -> None:
    with websockets(site.port) as client:
        for _ in range(20):
            client.websocket()
    wait_until(lambda: len(app.messages) == 20)
    assert {message["code"] for message in app.messages} == {1006}
    wait_until(lambda: site.connections() == 0)


@pytest.mark.parametrize("spread_s", [0.0, 0.3])
def test_a_drain_closes_each_with_1012(app: Application, spread_s: float) -> None:
    with (
        serving(app, drain_spread=spread_s, **ROOM) as site,
        websockets(site.port) as client,
    ):
        channels = [client.websocket() for _ in range(50)]
        serving_of = site.server._serving
        assert serving_of is not None
        state = serving_of.loop_servers[0].state
        site.server.should_exit = True
        for channel in channels:
            assert channel.frame().close_code == 1012
            channel.sendall(close(1012))
            assert channel.rest() == b""
        assert not client.read()
        assert client.goaway_codes == [0, 0]  # to come, and come
        site.wait_ended()
    assert state.drained.began_with.websockets == 50
    assert state.drained.handshakes == 50
    assert state.drained.cut_off.count == 0


def test_one_that_opens_while_the_server_drains(stubborn: Stubborn) -> None:
    with serving(stubborn) as site, websockets(site.port) as client:
        channel = client.open("/late")
        assert stubborn.began.wait(DEADLINE_S)
        site.server.should_exit = True
        client.until(lambda: bool(client.goaway_codes), "GOAWAY")
        stubborn.go_on.set()
        assert channel.head().status == 200
        assert channel.frame().close_code == 1012
