"""How HTTP/2's connections end: drains, limits of time, peers that leave; and what is left then."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h2.events
import pytest

from asgi_poller.asgi.http import HttpExchange
from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.loops.drain import left
from asgi_poller.loops.http2_output import Http2Output
from asgi_poller.loops.http2_protocol import Http2Protocol
from asgi_poller.loops.http2_stream import Http2Stream
from asgi_poller.protocols.http2.connection import Http2Connection
from asgi_poller.protocols.http2.frames import (
    ACK,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    LAST_STREAM,
    NO_ERROR,
    PING,
    PREFACE,
    SETTINGS,
    frame,
)
from tests.loops.test_garbage import with_the_gil
from tests.support.apps import answer
from tests.support.client import Client
from tests.support.http2 import Http2Client, http2_client
from tests.support.server import Site, serving
from tests.support.waiting import wait_until

PARTS = (Http2Protocol, Http2Connection, Http2Stream, Http2Output, HttpExchange)
BEGIN = PREFACE + frame(SETTINGS, 0, 0, b"")


class Application:
    """Answers /hold when it is told to, everything else at once."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/hold":
            self.held += 1
            while not self.goes_on.is_set():
                await asyncio.sleep(0.005)  # another thread sets it
        await answer(send, b"done")


class PatientClient(Http2Client):
    """After a GOAWAY it still takes its streams, which h2 does not, and begins new ones."""

    def __init__(self, socket: Client, *, answers_pings: bool = True) -> None:
        self.goaways: list[tuple[int, int]] = []  # last stream, code
        self.pings: list[bytes] = []
        self.answers_pings = answers_pings
        self._rest = b""
        super().__init__(socket)

    def read(self) -> bool:
        data = self.socket.recv(65536)
        if not data:
            self.has_ended = True
            return False
        data, self._rest = self._rest + data, b""
        while len(data) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(data[:3], "big")
            if end > len(data):
                break
            self._take(data[:end])
            data = data[end:]
        self._rest = data
        self.flush()
        return True

    def _take(self, piece: bytes) -> None:
        if piece[3] == GOAWAY:
            last, code = piece[9:13], piece[13:17]
            self.goaways.append((int.from_bytes(last, "big"), int.from_bytes(code, "big")))
        elif piece[3] == PING and not piece[4] & ACK and not self.answers_pings:
            self.pings.append(piece[9:])
        else:
            self.events += self.h2.receive_data(piece)

    def to_the_end(self) -> None:
        while self.read():
            pass


@contextlib.contextmanager
def patient(site: Site, *, answers_pings: bool = True) -> Iterator[PatientClient]:
    with site.connect() as socket:
        yield PatientClient(socket, answers_pings=answers_pings)


def _alive(client: Http2Client) -> None:
    assert client.response(client.request("/"))[2] == b"done"


def test_a_drain_serves_what_is_open_and_what_is_on_its_way() -> None:
    """GOAWAY twice (RFC 9113, 6.8): what comes between them is served."""
    app = Application()
    with serving(app) as site, patient(site, answers_pings=False) as client:
        held = client.request("/hold")
        wait_until(lambda: app.held == 1)
        site.server.should_exit = True
        client.until(lambda: client.goaways == [(LAST_STREAM, NO_ERROR)], "the first GOAWAY")
        client.until(lambda: len(client.pings) == 1, "the PING behind it")
        client.socket.sendall(frame(PING, ACK, 0, b"of alive"))  # of another PING: no news of it
        late = client.request("/late")
        assert client.response(late)[2] == b"done"
        client.socket.sendall(frame(PING, ACK, 0, client.pings[0]))
        client.until(lambda: len(client.goaways) == 2, "the last GOAWAY")
        assert client.goaways[1] == (late, NO_ERROR)
        refused = client.request("/later")
        assert client.wait(h2.events.StreamReset, refused).error_code == 7  # REFUSED_STREAM
        app.goes_on.set()
        assert client.response(held)[2] == b"done"
        client.to_the_end()


def test_a_drain_does_not_wait_for_a_client_that_answers_no_ping() -> None:
    """Nor where a late request has come meanwhile."""
    app = Application()
    with serving(app, timeout_graceful_shutdown=None) as site:
        with patient(site, answers_pings=False) as client:
            _alive(client)
            site.server.should_exit = True
            client.until(lambda: bool(client.goaways), "the first GOAWAY")
            late = client.request("/late")
            client.to_the_end()
            assert client.body(late) == b"done"
            assert client.goaways == [(LAST_STREAM, NO_ERROR), (late, NO_ERROR)]
        site.wait_ended()


def test_limit_max_requests_counts_streams_and_ends_in_order() -> None:
    with serving(Application(), limit_max_requests=3) as site, patient(site) as client:
        streams = [client.request("/") for _ in range(3)]
        client.to_the_end()
        client.socket.close()
        assert [client.body(stream) for stream in streams] == [b"done"] * 3
        assert client.goaways[-1] == (streams[-1], NO_ERROR)
        site.wait_ended()


def test_a_drain_counts_requests_and_not_connections() -> None:
    app = Application()
    with serving(app) as site, patient(site) as client, patient(site) as idle:
        _alive(idle)
        for _ in range(7):
            client.request("/hold")
        wait_until(lambda: app.held == 7)
        serving_now = site.server._serving
        assert serving_now is not None
        (loop,) = serving_now.loop_servers
        counts = left(loop.state, set())
        assert counts.requests == 7
        app.goes_on.set()
        for stream in (1, 3, 5, 7, 9, 11, 13):
            client.response(stream)
        wait_until(lambda: left(loop.state, set()).requests == 0)


def test_a_peer_that_leaves_gets_what_it_has_asked_for() -> None:
    app = Application()
    with serving(app) as site, patient(site) as client:
        held = client.request("/hold")
        wait_until(lambda: app.held == 1)
        client.socket.sendall(frame(GOAWAY, 0, 0, bytes(8)))
        app.goes_on.set()
        client.to_the_end()
        assert client.body(held) == b"done"
        assert client.goaways == [(held, NO_ERROR)]


def test_pings_do_not_keep_an_idle_connection() -> None:
    with serving(Application(), timeout_keep_alive=0.3) as site, patient(site) as client:
        _alive(client)
        with contextlib.suppress(ConnectionError):  # a PING may come after the end
            client.h2.ping(b"stay-on!")
            client.flush()
            while client.read():
                client.h2.ping(b"stay-on!")
                client.flush()
        wait_until(lambda: site.connections() == 0)


def test_a_connection_with_a_request_is_not_idle() -> None:
    app = Application()
    options: dict[str, Any] = {"timeout_keep_alive": 0.1, "http2_keep_alive_interval": 0.1}
    with serving(app, **options) as site, patient(site) as client:
        held = client.request("/hold")
        # the interval is longer than the idle one
        client.until(lambda: len(client.of(h2.events.PingReceived)) == 4, "four PINGs")
        app.goes_on.set()
        assert client.response(held)[2] == b"done"
        client.to_the_end()


def test_who_answers_no_ping_is_cut_off() -> None:
    app = Application()
    options = {"http2_keep_alive_interval": 0.1, "http2_keep_alive_timeout": 0.2}
    with serving(app, **options) as site, patient(site, answers_pings=False) as client:
        client.request("/hold")
        wait_until(lambda: app.held == 1)
        with contextlib.suppress(ConnectionResetError):
            client.to_the_end()
        assert client.pings
        app.goes_on.set()


@pytest.mark.parametrize(
    "begun",
    [
        PREFACE[:10],
        PREFACE,
        PREFACE + frame(SETTINGS, 0, 0, b"")[:5],
        BEGIN + frame(HEADERS, 0, 1, b"\x82"),  # without END_HEADERS
        BEGIN + frame(PING, 0, 0, bytes(8))[:-1],
    ],
)
def test_what_does_not_come_to_its_end_is_not_waited_for(begun: bytes) -> None:
    options: dict[str, Any] = {"timeout_request_header": 0.2, "timeout_first_octet": 0.2}
    with serving(Application(), **options) as site, site.connect() as raw:
        raw.sendall(begun)
        assert begun[:10] == PREFACE[:10]
        raw.rest()
        raw.close()
        wait_until(lambda: site.connections() == 0)


def _requests(site: Site) -> None:
    with patient(site) as client:
        for path in ("/", "/again"):
            client.response(client.request(path, "POST", body=b"body"))
        client.status(client.request("bad path"))


def _reset(site: Site) -> None:
    with patient(site) as client:
        stream = client.request("/", "POST", body=b"some", ends=False)
        client.h2.reset_stream(stream, 8)
        client.flush()
        _alive(client)


def _vanished(site: Site) -> None:
    with patient(site) as client:
        client.request("/", "POST", body=b"some", ends=False)
        client.socket.reset()  # type: ignore[union-attr]


def _at_fault(site: Site) -> None:
    with patient(site) as client:
        _alive(client)
        client.socket.sendall(frame(0, 0, 0, b"x"))  # DATA on stream 0
        client.to_the_end()
        assert client.goaways[-1][1] == 1


def _left(site: Site) -> None:
    with patient(site) as client:
        _alive(client)
        client.socket.sendall(frame(GOAWAY, 0, 0, bytes(8)))
        client.to_the_end()


def _unopened(site: Site) -> None:
    """A response that waits for a window when the client goes."""
    with http2_client(site.port, opens_windows=False) as client:
        client.h2.update_settings({4: 2})
        client.flush()
        client.wait(h2.events.SettingsAcknowledged)
        stream = client.request("/")
        client.until(lambda: client.body(stream) == b"do", "as much as was wanted")


@pytest.fixture
def collected() -> Iterator[None]:
    """No garbage collector until the test is over."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@with_the_gil
@pytest.mark.parametrize("visit", [_requests, _reset, _vanished, _at_fault, _left, _unopened])
def test_what_ends_is_gone(loop: str, visit: Callable[[Site], None], collected: None) -> None:
    with serving(Application(), loop=loop) as site:
        others = _living()
        for _ in range(3):
            visit(site)
        wait_until(lambda: site.connections() == 0)
        wait_until(lambda: _living() <= others)


def test_streams_that_have_ended_are_gone_while_their_connection_stays() -> None:
    gc.collect()
    others = _living()
    with serving(Application()) as site, patient(site) as client:
        for _ in range(200):
            _alive(client)
        wait_until(lambda: len(_living() - others) <= 2, "the connection's own two parts")


def _living() -> set[int]:
    return {id(found) for found in gc.get_objects() if type(found) in PARTS}
