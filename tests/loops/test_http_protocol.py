"""HTTP/1.1 over real sockets: order, faults, deadlines and slow peers, on both event loops."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.loops.apps import Application
from tests.protocols.http1.smuggling import BROKEN, CHUNKED, UNSUPPORTED
from tests.support.client import get, post
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, settled, wait_until

NEXT = get("/next", "Connection: close")


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
def site(loop: str, app: Application) -> Iterator[Site]:
    with serving(app, loop=loop) as site:
        yield site


@pytest.fixture(scope="module")
def shared(loop: str) -> Iterator[Site]:
    """One server for tests that leave no trace in it."""
    with serving(Application(), loop=loop) as site:
        yield site


# Requests, one after the other


def test_requests_on_one_connection(shared: Site) -> None:
    with shared.connect() as client:
        for number in range(5):
            client.sendall(post(str(number).encode()))
            response = client.response()
            assert (response.status, response.body) == (200, str(number).encode())
            assert response.header("server") == "asgi-poller"
            assert response.header("date") is not None
        client.sendall(get("/last", "Connection: close"))
        assert client.response().header("connection") == "close"
        assert client.rest() == b""


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_pipelined_requests_are_answered_in_order(shared: Site, size: int) -> None:
    """Some take longer than those behind them; some have bodies; cut up in any way."""
    wanted: list[bytes] = []
    data = b""
    for number in range(40):
        if number % 3 == 0:
            data += get(f"/turns/{40 - number}")
            wanted.append(str(40 - number).encode())
        elif number % 3 == 1:
            data += post(b"body %d" % number)
            wanted.append(b"body %d" % number)
        else:
            data += CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"
            wanted.append(b"abc")
    with shared.connect() as client:
        for at in range(0, len(data), size):
            client.sendall(data[at : at + size])
        assert [client.response().body for _ in wanted] == wanted
        client.sendall(get("/and/on"))
        assert client.response().status == 200


def test_http_1_0(shared: Site) -> None:
    with shared.connect() as client:
        client.sendall(b"GET /a HTTP/1.0\r\n\r\n")
        assert client.response().header("connection") == "close"
        assert client.rest() == b""
    with shared.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.response().header("connection") == "keep-alive"
        client.sendall(b"GET /stream/2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.response().body == bytes(2048)  # it ends with the connection


def test_head(shared: Site) -> None:
    with shared.connect() as client:
        for _ in range(2):
            client.sendall(get("/large/5000", method="HEAD"))
            response = client.response(has_body=False)
            assert response.status == 200
        client.sendall(get("/abc"))
        assert client.response().body == b""


def test_waiting_for_continue(shared: Site) -> None:
    with shared.connect() as client:
        head = get("/", "Content-Length: 5", "Expect: 100-continue", method="POST")
        client.sendall(head)
        assert client.response().status == 100
        client.sendall(b"hello")
        assert client.response().body == b"hello"
        client.sendall(head + b"world")  # does not wait
        response = client.response()
        if response.status == 100:
            response = client.response()
        assert response.body == b"world"
        client.sendall(get("/early", "Content-Length: 5", "Expect: 100-continue", method="POST"))
        response = client.response()
        assert (response.body, response.header("connection")) == (b"early", "close")
        assert client.rest() == b""


def test_a_response_before_the_end_of_the_request(shared: Site) -> None:
    with shared.connect() as client:
        client.sendall(get("/early", "Content-Length: 300000", method="POST"))
        client.sendall(b"x" * 1000)
        assert client.response().body == b"early"
        client.sendall(b"x" * 299_000 + get("/next"))
        assert client.response().status == 200


@pytest.mark.parametrize(
    "headers",
    [
        ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"),
        ("Upgrade: foo/2", "Connection: upgrade"),
        ("Upgrade:", "Connection: upgrade"),
        ("Upgrade: websocket", "Upgrade:", "Connection: upgrade"),
    ],
)
def test_upgrades_that_nobody_here_knows_are_requests(
    shared: Site, headers: tuple[str, ...]
) -> None:
    with shared.connect() as client:
        client.sendall(get("/echo/a", *headers) + post(b"body", "/", *headers) + get("/echo/b"))
        assert [client.response().body for _ in range(3)] == [b"a", b"body", b"b"]
        client.sendall(get("/", *headers, "Content-Length: 4", method="POST"))
        client.sendall(b"bo")
        client.sendall(b"dy")
        assert client.response().body == b"body"
        client.sendall(
            CHUNKED.replace(b"\r\n\r\n", b"\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        )
        client.sendall(b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n")
        assert client.response().body == b"body"


def test_without_websockets_a_handshake_is_a_request(loop: str, app: Application) -> None:
    with serving(app, loop=loop, ws="none") as site, site.connect() as client:
        client.sendall(get("/echo/plain", "Upgrade: websocket", "Connection: Upgrade"))
        assert client.response().body == b"plain"
        assert app.scopes[0]["type"] == "http"


# Faults


@pytest.mark.parametrize("name", BROKEN | {name: pair[0] for name, pair in UNSUPPORTED.items()})
def test_what_is_broken_is_refused_and_the_connection_ends(shared: Site, name: str) -> None:
    data, status = UNSUPPORTED[name] if name in UNSUPPORTED else (BROKEN[name], 400)
    with shared.connect() as client:
        client.sendall(data + NEXT)
        response = client.response()
        assert response.status == status
        assert response.header("connection") == "close"
        assert client.rest() == b"", "what follows is nobody's request"


def test_requests_before_a_broken_one_are_answered(site: Site, app: Application) -> None:
    with site.connect() as client:
        client.sendall(get("/echo/a") + get("/turns/9") + get("/echo/b") + b"what?\r\n\r\n" + NEXT)
        assert [client.response().body for _ in range(3)] == [b"a", b"9", b"b"]
        assert client.response().status == 400
        assert client.rest() == b""
    assert app.started == ["/echo/a", "/turns/9", "/echo/b"]


def test_a_fault_in_a_body_that_was_answered_is_not_answered_again(shared: Site) -> None:
    """Else a proxy would take it for the answer to somebody's next request."""
    with shared.connect() as client:
        client.sendall(CHUNKED.replace(b"POST / ", b"POST /early "))
        assert client.response().body == b"early"
        client.sendall(b"what?\r\n" + NEXT)
        assert client.rest() == b""


def test_a_fault_in_a_body_breaks_a_response_that_has_begun(site: Site) -> None:
    with site.connect() as client:
        client.sendall(CHUNKED.replace(b"POST / ", b"POST /stream/100000 "))
        client.head()
        client.sendall(b"what?\r\n")
        with pytest.raises((ConnectionResetError, EOFError)):
            list(client.chunks())


def test_a_response_that_fails_midway_breaks_the_connection(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get("/block"))
        client.head()
        chunks = client.chunks()
        assert next(chunks) == b"part"
        with pytest.raises((ConnectionResetError, EOFError)):
            next(chunks)


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /" + b"x" * 9000, 414),
        (get("/")[:-2] + b"X: " + b"x" * 70_000, 431),
        (get("/")[:-2] + b"X: y\r\n" * 200, 431),
        (post(b"", "/")[:-4] + b"00\r\n\r\n", 413),
        (CHUNKED.replace(b"POST / ", b"POST /wait ") + b"fffff\r\n" + b"x" * 5000, 413),
    ],
    ids=["line", "field", "fields", "length", "chunks"],
)
def test_a_refusal_reaches_a_peer_that_is_still_sending(
    loop: str, app: Application, start: bytes, status: int
) -> None:
    """close() with bytes unread would be a reset, which destroys what the peer has not read."""
    app.go_on.set()
    if status == 413 and b"Content-Length" in start:
        start = get("/", "Content-Length: 100000000", method="POST")
    with serving(app, loop=loop, limit_request_body=4000) as site, site.connect() as client:
        client.sendall(start)
        for _ in range(20):
            client.sendall(b"x" * 65536)
        assert client.response().status == status
        client.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


# Deadlines


def test_half_a_head_is_408(loop: str, app: Application) -> None:
    with serving(app, loop=loop, timeout_first_octet=0.6, timeout_request_header=0.3) as site:
        clients = [site.connect() for _ in range(3)]
        clients[0].sendall(b"GET / HT")
        clients[1].sendall(get("/")[:-2])
        assert [client.response().status for client in clients[:2]] == [408, 408]
        assert clients[2].rest() == b""  # said nothing: it gets no answer that it could mistake
        for client in clients:
            client.close()
        assert app.started == []


def test_a_head_that_begins_late_has_its_whole_time(loop: str, app: Application) -> None:
    """After an overflow of the kernel's queue it is TCP's retransmission that brings it."""
    with serving(app, loop=loop, timeout_request_header=0.3) as site, site.connect() as client:
        assert client.is_silent(0.6)
        head = get("/echo/a")
        client.sendall(head[:5])
        assert client.is_silent(0.1)
        client.sendall(head[5:])
        assert client.response().body == b"a"
        client.sendall(b"GET ")
        assert client.response().status == 408


def test_a_head_that_dribbles_is_408(loop: str, app: Application) -> None:
    with serving(app, loop=loop, timeout_request_header=0.5) as site, site.connect() as client:
        client.sendall(get("/echo/a"))
        assert client.response().body == b"a"
        head = get("/", *(["X: y"] * 40))
        sent = 0
        while client.is_silent(0.05):  # no single byte is late
            client.sendall(head[sent : sent + 1])
            sent += 1
        assert sent < len(head)
        assert client.response().status == 408
    assert app.started == ["/echo/a"]


def test_an_idle_connection_is_closed(loop: str, app: Application) -> None:
    with serving(app, loop=loop, timeout_keep_alive=0.3) as site, site.connect() as client:
        client.sendall(get("/echo/a"))
        client.response()
        assert client.rest() == b""


def test_a_busy_connection_is_not_idle(loop: str, app: Application) -> None:
    with serving(app, loop=loop, timeout_keep_alive=0.2, timeout_request_header=0.2) as site:
        with site.connect() as client:
            client.sendall(post(b"late", "/wait"))
            assert client.is_silent(0.8)
            app.go_on.set()
            assert client.response().body == b"late"


def test_a_body_that_stops_is_408(loop: str, app: Application) -> None:
    with serving(app, loop=loop, timeout_request_body=0.3) as site, site.connect() as client:
        client.sendall(post(b"hello", "/watch")[:-2])
        response = client.response()
        assert (response.status, response.header("connection")) == (408, "close")
        assert client.rest() == b""
        assert app.finished.wait(DEADLINE_S), "the application is told"


def test_a_body_that_goes_on_has_its_time_again(loop: str, app: Application) -> None:
    body_bytes, sent = 200, 0
    head = get("/echo", f"Content-Length: {body_bytes}", method="POST")
    with serving(app, loop=loop, timeout_request_body=1.0) as site:
        with site.connect() as client, site.connect() as stopped:
            client.sendall(head)
            stopped.sendall(head)
            while stopped.is_silent(0.05):  # the same time without bytes is too long
                client.sendall(b"x")
                sent += 1
            assert stopped.response().status == 408
            client.sendall(b"x" * (body_bytes - sent))
            assert client.response().body == b"x" * body_bytes


def test_a_peer_that_may_not_send_is_not_waited_for(loop: str, app: Application) -> None:
    """Because the application takes nothing, or has not asked yet (RFC 9110, 10.1.1)."""
    body_bytes = 20_000_000
    with serving(app, loop=loop, timeout_request_body=0.3) as site:
        with site.connect() as full, site.connect() as asks, site.connect() as stopped:
            full.sendall(get("/wait", f"Content-Length: {body_bytes}", method="POST"))
            sent = full.send_until_stuck(bytes(1 << 20), body_bytes)
            asks.sendall(get("/wait", "Content-Length: 5", "Expect: 100-continue", method="POST"))
            settled(lambda: len(app.started), quiet_s=0.02)
            stopped.sendall(post(b"hello", "/wait")[:-2])
            assert stopped.response().status == 408
            assert full.is_silent(0.0)
            assert asks.is_silent(0.0)
            app.go_on.set()
            full.sendall(bytes(body_bytes - sent))
            assert len(full.response().body) == body_bytes
            assert asks.response().status == 100  # from now on it is waited for
            assert asks.response().status == 408


def test_a_response_that_has_begun_breaks_if_the_body_stops(loop: str, app: Application) -> None:
    with serving(app, loop=loop, timeout_request_body=0.3) as site, site.connect() as client:
        client.sendall(get("/stream/100000000", "Content-Length: 5", method="POST"))
        with pytest.raises((EOFError, ConnectionError)):
            client.response()


# Peers that go, and peers that are slow


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("data", [get("/watch"), post(b"ab", "/watch")[:-1]])
def test_an_application_learns_that_its_peer_has_gone(
    site: Site, app: Application, how: str, data: bytes
) -> None:
    client = site.connect()
    client.sendall(data)
    wait_until(lambda: bool(app.messages))
    getattr(client, how)()
    assert app.finished.wait(DEADLINE_S)
    assert app.messages[-1] == {"type": "http.disconnect"}


def test_an_application_is_not_left_waiting_behind_a_large_response(
    site: Site, app: Application
) -> None:
    with site.connect() as client:
        client.sendall(get("/background/20000000"))
        assert len(client.response().body) == 20_000_000
        assert app.finished.wait(DEADLINE_S)
        client.sendall(get("/echo/a"))
        assert client.response().body == b"a"


def test_a_slow_reader_slows_its_application(site: Site, app: Application) -> None:
    with site.connect() as client:
        client.sendall(get("/stream/30000"))
        settled(lambda: len(app.messages))
        assert len(app.messages) < 20_000  # KiB: what kernel and transport hold
        assert len(client.response().body) == 30_000 * 1024


def test_who_does_not_read_responses_gets_no_further_ones(site: Site, app: Application) -> None:
    """Pipelined requests are answered as the answers are read, not into memory."""
    count = 60
    with site.connect() as client:
        client.sendall(get("/large/1000000") * count)
        settled(lambda: len(app.started))
        assert len(app.started) < 20
        for _ in range(count):
            assert len(client.response().body) == 1_000_000
        assert len(app.started) == count
        client.sendall(get("/echo/a"))
        assert client.response().body == b"a"


def test_requests_one_by_one_that_nobody_reads_the_answers_of(site: Site, app: Application) -> None:
    with site.connect() as client:
        for _ in range(60):
            client.sendall(get("/large/1000000"))
            settled(lambda: len(app.started), quiet_s=0.02)
        assert len(app.started) < 20
        for _ in range(60):
            assert len(client.response().body) == 1_000_000


def test_a_slow_application_slows_its_peer(site: Site, app: Application) -> None:
    body_bytes = 60_000_000
    with site.connect() as client:
        client.sendall(get("/wait", f"Content-Length: {body_bytes}", method="POST"))
        sent = client.send_until_stuck(bytes(1 << 20), body_bytes)
        assert sent < 30_000_000
        app.go_on.set()
        client.sendall(bytes(body_bytes - sent))
        assert len(client.response().body) == body_bytes


def test_requests_behind_a_large_body_wait_in_the_network(site: Site, app: Application) -> None:
    """An exchange that asks for its body must not bring in what lies behind it."""
    with site.connect() as client:
        client.sendall(post(bytes(200_000), "/echo") + get("/wait/a"))
        assert len(client.response().body) == 200_000
        assert client.send_until_stuck(get("/echo/b") * 2000, 200_000_000) < 40_000_000
        app.go_on.set()
        assert client.response().body == b"a"
        assert client.response().body == b"b"
