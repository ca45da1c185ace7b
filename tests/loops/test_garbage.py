"""A connection that has ended leaves nothing for the garbage collector."""

from __future__ import annotations

import gc
import sysconfig
from collections.abc import Callable, Iterator

import pytest

from asgi_poller.asgi.http import HttpExchange
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.loops.http2_websocket import Http2WebSocket
from asgi_poller.loops.http_protocol import HttpProtocol
from asgi_poller.loops.websocket_protocol import WebSocketProtocol
from asgi_poller.protocols.http1.parser import RequestHead, RequestParser
from asgi_poller.protocols.websocket.protocol import WebSocketWire
from tests.support.apps import answer, converse
from tests.support.client import Client, get, post
from tests.support.frames import close, frame, text
from tests.support.http2_websockets import websockets
from tests.support.server import Site, serving
from tests.support.waiting import wait_until

PARTS = (
    WebSocketSession,
    WebSocketProtocol,
    Http2WebSocket,
    HttpExchange,
    HttpProtocol,
    RequestHead,
    RequestParser,
    WebSocketWire,
)


async def app(scope: object, receive: object, send: object) -> None:
    """As little as there can be, so that what stays is the server's."""
    assert isinstance(scope, dict)
    assert callable(receive)
    assert callable(send)
    if scope["type"] == "http":
        await answer(send, b"hello")
    elif scope["type"] == "websocket" and scope["path"] != "/denied":
        await converse(receive, send)


def _requests(site: Site) -> None:
    with site.connect() as client:
        for request in (get(), post(b"body"), get("/again")):
            client.sendall(request)
            assert client.response().status == 200


def _pipelined(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get() * 5 + get("/", "Connection: close"))
        assert client.rest().count(b"HTTP/1.1 200 ") == 6


def _nothing_said(site: Site) -> None:
    site.connect().close()


def _half_a_head(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get()[:-2])


def _broken(site: Site) -> None:
    with site.connect() as client:
        client.sendall(b"no request at all\r\n\r\n")
        assert client.response().status == 400


def _unknown_upgrade(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get("/", "Connection: upgrade", "Upgrade: h2c"))
        assert client.response().status == 200


def _talked(site: Site) -> Client:
    client = site.websocket()
    client.sendall(text("hello"))
    assert client.frame().payload == b"hello"
    return client


def _closed_by_peer(site: Site) -> None:
    with _talked(site) as client:
        client.sendall(close(1000))
        assert client.frame().close_code == 1000
        assert client.rest() == b""


def _vanished(site: Site) -> None:
    _talked(site).close()


def _reset(site: Site) -> None:
    _talked(site).reset()


def _at_fault(site: Site) -> None:
    with _talked(site) as client:
        client.sendall(frame(3, b""))  # a reserved opcode: wsproto finds the words
        assert client.frame().close_code == 1002


def _denied(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get("/denied", "Upgrade: websocket", "Connection: Upgrade"))
        assert client.response().status == 400


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collector until the test is over."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _over_http2(site: Site) -> None:
    """Closed by the peer, reset, denied, and lost with the connection."""
    with websockets(site.port) as client:
        closed, gone, lost = client.websocket(), client.websocket(), client.websocket()
        assert client.open("/denied").response().status == 500
        gone.sendall(text("hello"))
        assert gone.frame().payload == b"hello"
        gone.reset()
        closed.sendall(close(1000))
        assert closed.frame().close_code == 1000
        closed.shutdown()
        lost.sendall(text("hello"))
        assert lost.frame().payload == b"hello"


# Without the GIL the last reference to what a core has made is dropped by the core, when it next
# runs: it may sleep on what has ended.
with_the_gil = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="an idle core lets go later"
)


@with_the_gil
@pytest.mark.parametrize(
    "visit",
    [
        _requests,
        _pipelined,
        _nothing_said,
        _half_a_head,
        _broken,
        _unknown_upgrade,
        _closed_by_peer,
        _vanished,
        _reset,
        _at_fault,
        _denied,
    ],
)
@pytest.mark.parametrize("direct", [False, True])
def test_what_ends_is_gone(
    loop: str, visit: Callable[[Site], None], direct: bool, uncollected: None
) -> None:
    with serving(app, loop=loop, direct_handshake=direct) as site:
        others = _living()  # what other tests have kept
        for _ in range(3):
            visit(site)
        wait_until(lambda: _living() <= others)


@with_the_gil
def test_what_ends_is_gone_over_http2(loop: str, uncollected: None) -> None:
    with serving(app, loop=loop) as site:
        others = _living()
        for _ in range(3):
            _over_http2(site)
        wait_until(lambda: _living() <= others)


def _living() -> set[int]:
    """The parts of connections that there are, by identity."""
    return {id(found) for found in gc.get_objects() if type(found) in PARTS}
