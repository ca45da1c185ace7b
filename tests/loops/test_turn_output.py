"""What several connections say in one turn of the loop, over real sockets: nothing is lost, late or
out of order.

A gate holds the applications; when it opens, all of them run in one turn, in the order in which
they came. The last one may block the loop, so that a test can look at what was written by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from asgi_poller.asgi.turn_output import GATHERED_BYTES, GATHERED_S
from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer
from tests.support.client import Client, get, handshake, read_rest
from tests.support.frames import CLOSE, PING, PONG, frame, inflated, text
from tests.support.server import Site, serving
from tests.support.tls import client_context, write_pair
from tests.support.waiting import DEADLINE_S, wait_until

Say = Callable[[str], Any]


class Gate:
    """The application. A request's path, and a WebSocket's message, says what is done behind the
    gate: words with commas between them.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self._gate = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].lstrip("/")
        if scope["type"] == "websocket":
            await self._websocket(receive, send)
        elif path == "open":
            self._gate.set()
            self._gate = asyncio.Event()
            for _ in range(4):
                await asyncio.sleep(0)
            await answer(send, b"open")
        else:
            await self._pass()
            await self._request(path.split(","), send)

    async def _pass(self) -> None:
        gate = self._gate
        self.waiting += 1
        await gate.wait()

    async def _websocket(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await self._pass()
            for word in message["text"].split(","):
                if word == "close":
                    await send({"type": "websocket.close"})
                elif not self._does(word):
                    await send({"type": "websocket.send", "text": _words(word)})

    async def _request(self, words: list[str], send: Send) -> None:
        for word in words:
            if word == "wait":
                await self._pass()
            elif word == "part":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
            elif not self._does(word):
                await answer(send, _words(word).encode())

    def _does(self, word: str) -> bool:
        """Whether `word` is something to do, and not to say."""
        if word == "stall":
            self.stalled.set()
            assert self.go_on.wait(DEADLINE_S)
        elif word == "compute":
            time.sleep(GATHERED_S * 3)
        else:
            return False
        return True


def _words(word: str) -> str:
    return "x" * (GATHERED_BYTES + 1) if word == "large" else word


class Turn:
    """A server with a gate, and clients before it."""

    def __init__(self, site: Site, app: Gate, wrap: Callable[[Client], Any] | None = None) -> None:
        self.site = site
        self.app = app
        self.wrap = wrap
        self.stack = contextlib.ExitStack()

    def client(self) -> Any:
        """A connection, with TLS where the server has it."""
        client: Any = self.site.connect()
        if self.wrap is not None:
            client = self.wrap(client)
        return self.stack.enter_context(client)

    def comes(self, client: Any, data: bytes) -> Any:
        """`client` sends `data`, and its application waits before the gate."""
        before = self.app.waiting
        client.sendall(data)
        wait_until(lambda: self.app.waiting > before)
        return client

    def request(self, words: str, *headers: str, version: str = "1.1") -> Any:
        return self.comes(self.client(), get(f"/{words}", *headers, version=version))

    def websocket(self, words: str, *headers: str) -> Client:
        client = self.stack.enter_context(self.site.websocket(*headers))
        self.comes(client, text(words))
        return client

    def opens(self) -> Any:
        """Let all of them run in one turn."""
        client = self.client()
        client.sendall(get("/open"))
        return client

    def stalls(self) -> None:
        """The same; the last of them blocks the loop now."""
        self.opens()
        assert self.app.stalled.wait(DEADLINE_S)

    def goes_on(self) -> None:
        self.app.go_on.set()


@pytest.fixture
def app() -> Iterator[Gate]:
    app = Gate()
    yield app
    app.go_on.set()


@pytest.fixture
def turn(loop: str, app: Gate) -> Iterator[Turn]:
    with serving(app, loop=loop, lifespan="off") as site:
        turn = Turn(site, app)
        with turn.stack:
            yield turn
            app.go_on.set()


def test_who_answers_first_waits_for_the_last(turn: Turn) -> None:
    a, b, c = turn.request("a"), turn.websocket("b,bb"), turn.request("stall,c")
    turn.stalls()
    assert a.is_silent(0)
    assert b.is_silent(0)
    turn.goes_on()
    assert (a.response().body, c.response().body) == (b"a", b"c")
    assert [b.frame().payload, b.frame().payload] == [b"b", b"bb"]


def test_but_not_longer_than_a_moment(turn: Turn) -> None:
    """An application that computes writes what the others had to say with its own."""
    a, b, last = turn.request("a"), turn.websocket("compute,b"), turn.request("stall,c")
    turn.stalls()
    assert a.response().body == b"a"
    assert b.frame().payload == b"b"
    turn.goes_on()
    assert last.response().body == b"c"


def test_nor_with_much_to_say(turn: Turn) -> None:
    a, b, last = turn.request("large"), turn.websocket("b,large"), turn.request("stall,c")
    turn.stalls()
    assert len(a.response().body) == GATHERED_BYTES + 1
    assert b.frame().payload == b"b"
    assert len(b.frame().payload) == GATHERED_BYTES + 1
    turn.goes_on()
    assert last.response().body == b"c"


def test_nor_if_the_last_never_answers(turn: Turn) -> None:
    a, b = turn.request("a"), turn.websocket("b")
    turn.request("compute")  # no answer
    turn.opens()
    assert a.response().body == b"a"
    assert b.frame().payload == b"b"


@pytest.mark.parametrize(
    ("version", "header"), [("1.1", "Connection: close"), ("1.0", "Accept: */*")]
)
def test_a_connection_that_ends_is_not_kept(turn: Turn, version: str, header: str) -> None:
    a = turn.request("a", header, version=version)
    turn.request("stall,z")
    turn.stalls()
    assert a.response().body == b"a"
    turn.goes_on()
    assert a.rest() == b""


def test_nor_one_that_breaks_off(turn: Turn) -> None:
    """The rest of a request is broken, which is read before the end of the turn."""
    chunked = get("/part,wait", "Transfer-Encoding: chunked", method="POST")
    a = turn.comes(turn.client(), chunked)
    turn.request("stall,wait")
    turn.stalls()
    a.sendall(b"no size\r\n")
    turn.goes_on()
    head, body = a.head(), a.exactly(len(b"4\r\npart\r\n"))
    assert (head.status, body) == (200, b"4\r\npart\r\n")
    assert a.rest() == b""
    turn.opens()


def test_nor_a_websocket_that_closes(turn: Turn) -> None:
    a = turn.websocket("a,b,close")
    turn.request("stall,z")
    turn.stalls()
    assert [a.frame().payload, a.frame().payload] == [b"a", b"b"]
    assert a.frame().close_code == 1000


def test_control_frames_come_behind_what_was_said_before_them(turn: Turn) -> None:
    a = turn.websocket("a,b")
    turn.request("stall,z")
    turn.stalls()
    a.sendall(frame(PING, b"p") + frame(CLOSE, b"\x03\xe8"))
    turn.goes_on()
    frames = [a.frame() for _ in range(4)]
    assert [each.opcode for each in frames[2:]] == [PONG, CLOSE]
    assert [each.payload for each in frames[:3]] == [b"a", b"b", b"p"]
    assert a.rest() == b""


def test_a_peer_that_sends_no_more_gets_what_was_said(turn: Turn) -> None:
    """Its end is read before the end of the turn."""
    a, b = turn.request("a"), turn.websocket("b")
    turn.request("stall,wait")
    turn.stalls()
    a.shutdown(1)
    b.shutdown(1)
    turn.goes_on()
    assert a.response().body == b"a"
    assert b.frame().payload == b"b"
    turn.opens()


def test_a_peer_that_is_gone_takes_nobody_with_it(turn: Turn) -> None:
    a, b, c = turn.request("a"), turn.websocket("b"), turn.request("c")
    turn.request("stall,z")
    turn.stalls()
    a.reset()
    b.reset()
    turn.goes_on()
    assert c.response().body == b"c"
    wait_until(lambda: turn.site.connections() == 3)


def test_the_answer_before_an_upgrade_comes_before_it(turn: Turn) -> None:
    a = turn.comes(turn.client(), get("/a") + handshake())
    turn.request("stall,z")
    turn.stalls()
    turn.goes_on()
    assert a.response().body == b"a"
    assert a.response(has_body=False).status == 101


def test_pipelined_requests_beside_others(turn: Turn) -> None:
    a, b = turn.comes(turn.client(), get("/a") + get("/open") + get("/open")), turn.request("b")
    turn.opens()
    assert [a.response().body for _ in range(3)] == [b"a", b"open", b"open"]
    assert b.response().body == b"b"


def test_a_server_that_stops_has_said_everything(turn: Turn) -> None:
    a, b = turn.request("a"), turn.websocket("b,c")
    turn.request("stall,z")
    turn.stalls()
    stopping = threading.Thread(target=turn.site.server.stop, args=(DEADLINE_S,))
    stopping.start()
    turn.goes_on()
    assert a.response().body == b"a"
    assert [b.frame().payload, b.frame().payload] == [b"b", b"c"]
    assert b.frame().close_code == 1012
    b.sendall(frame(CLOSE, b"\x03\xf4"))
    b.close()
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()


def test_deflated_messages_keep_their_order(turn: Turn) -> None:
    words = ["deflate " * 200 + str(number) for number in range(20)]
    a = turn.websocket(",".join(words), "Sec-WebSocket-Extensions: permessage-deflate")
    b = turn.websocket("b")
    turn.opens()
    frames = [a.frame() for _ in words]
    assert [inflated(each.payload).decode() for each in frames] == words
    assert b.frame().payload == b"b"


def test_tls(loop: str, app: Gate, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = write_pair(tmp_path, "server", authority.issue_cert("localhost"))
    context = client_context(authority)

    def wrapped(client: Client) -> ssl.SSLSocket:
        return context.wrap_socket(client, server_hostname="localhost")

    options: dict[str, Any] = {"bind_tls": ["127.0.0.1:0"], "ssl_certfile": files.both}
    with serving(app, loop=loop, lifespan="off", **options) as site:
        turn = Turn(site, app, wrapped)
        with turn.stack:
            a = turn.request("a")
            b = turn.request("b", "Connection: close")
            turn.request("stall,z")
            turn.stalls()
            assert read_rest(b).endswith(b"\r\n\r\nb")
            turn.goes_on()
            assert a.recv(1000).endswith(b"\r\n\r\na")
