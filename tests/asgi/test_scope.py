"""The scope has what the request head says (ASGI: HTTP & WebSocket, Connection Scope)."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_poller.asgi.scope import Peer, ScopeMaker
from asgi_poller.protocols.http1.parser import HeadLimits, RequestHead, RequestParser

PEER = Peer(("192.0.2.1", 1234), ("192.0.2.2", 80))


def parsed(target: bytes = b"/", headers: bytes = b"", version: bytes = b"1.1") -> RequestHead:
    data = b"GET %b HTTP/%b\r\nHost: a\r\n%b\r\n" % (target, version, headers)
    head = RequestParser(HeadLimits()).receive(data)[0]
    assert isinstance(head, RequestHead)
    return head


def test_the_scope_of_a_request() -> None:
    scope = ScopeMaker().http(parsed(b"/a%20b?c=d", b"X-Y: Z\r\n"), PEER)
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "server": ("192.0.2.2", 80),
        "client": ("192.0.2.1", 1234),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=d",
        "headers": [(b"host", b"a"), (b"x-y", b"Z")],
        "state": {},
        "extensions": {
            "http.response.early_hint": {},
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.debug": {},
        },
    }


def test_the_scope_of_a_websocket() -> None:
    scope = ScopeMaker().websocket(parsed(b"/ws?x"), PEER, ["chat"])
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": ("192.0.2.2", 80),
        "client": ("192.0.2.1", 1234),
        "root_path": "",
        "path": "/ws",
        "raw_path": b"/ws",
        "query_string": b"x",
        "headers": [(b"host", b"a")],
        "subprotocols": ["chat"],
        "state": {},
        "extensions": {"websocket.http.response": {}, "websocket.topic": {}},
    }


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (b"/", "/", b"/", b""),
        (b"/?", "/", b"/", b""),
        (b"/a?b?c", "/a", b"/a", b"b?c"),
        (b"/%C3%A9", "/é", b"/%C3%A9", b""),
        (b"/%2Fa%3Fb", "//a?b", b"/%2Fa%3Fb", b""),
        (b"/%zz%", "/%zz%", b"/%zz%", b""),
        (b"/%FF", "/\ufffd", b"/%FF", b""),
        (b"/a+b", "/a+b", b"/a+b", b""),
        (b"//a", "//a", b"//a", b""),
        (b"/a/../b", "/a/../b", b"/a/../b", b""),
        (b"/a#b", "/a", b"/a", b""),
        (b"/a?b#c", "/a", b"/a", b"b"),
        (b"/a#b?c", "/a", b"/a", b""),
        (b"http://h:1/a?b", "/a", b"/a", b"b"),
        (b"http://h", "/", b"/", b""),
        (b"http://h?b", "/", b"/", b"b"),
        (b"HTTPS://h/a", "/a", b"/a", b""),
        (b"*", "*", b"*", b""),
        (b"/a://b/c", "/a://b/c", b"/a://b/c", b""),
        (b"/" + b"x" * 1000, "/" + "x" * 1000, b"/" + b"x" * 1000, b""),
    ],
)
def test_targets(target: bytes, path: str, raw_path: bytes, query: bytes, times: int) -> None:
    maker = ScopeMaker()
    head = RequestHead("GET", target, "1.1", [])
    for _ in range(times):  # known targets are remembered
        scope = maker.http(head, PEER)
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


def test_the_path_under_a_root_path() -> None:
    """As uvicorn: the application sees the whole path, and how much of it is not its own."""
    maker = ScopeMaker(root_path="/api")
    for _ in range(2):
        for scope in (maker.http(parsed(b"/a"), PEER), maker.websocket(parsed(b"/a"), PEER, [])):
            assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
                "/api",
                "/api/a",
                b"/api/a",
            )


@pytest.mark.parametrize(
    ("scheme", "http", "websocket"), [("http", "http", "ws"), ("https", "https", "wss")]
)
def test_schemes(scheme: str, http: str, websocket: str) -> None:
    peer = Peer(None, None, scheme)
    assert ScopeMaker().http(parsed(), peer)["scheme"] == http
    assert ScopeMaker().websocket(parsed(), peer, [])["scheme"] == websocket


def test_unknown_ends() -> None:
    scope = ScopeMaker().http(parsed(version=b"1.0"), Peer(None, ("/run/app.sock", None)))
    assert scope["client"] is None
    assert scope["server"] == ("/run/app.sock", None)
    assert scope["http_version"] == "1.0"


def test_every_scope_has_a_state_of_its_own() -> None:
    shared: list[Any] = []
    maker = ScopeMaker(state={"pool": shared})
    first, second = maker.http(parsed(), PEER), maker.websocket(parsed(), PEER, [])
    first["state"]["mine"] = 1
    assert "mine" not in second["state"]
    assert "mine" not in maker.state
    assert first["state"]["pool"] is second["state"]["pool"] is shared


def test_the_tls_extension_is_there_where_tls_is() -> None:
    tls = {"tls_version": 0x0304}
    peer = Peer(None, None, "https", tls)
    assert ScopeMaker().http(parsed(), peer)["extensions"]["tls"] is tls
    assert ScopeMaker().websocket(parsed(), peer, [])["extensions"]["tls"] == tls


def test_extensions_are_announced_where_they_can_be_used() -> None:
    def announced(headers: bytes = b"", version: bytes = b"1.1") -> set[str]:
        return set(ScopeMaker().http(parsed(b"/", headers, version), PEER)["extensions"])

    assert "http.response.early_hint" in announced()
    assert "http.response.early_hint" not in announced(version=b"1.0")
    for value in (b"trailers", b"gzip;q=0.5, Trailers"):
        assert "http.response.trailers" in announced(b"TE: %b\r\n" % value)
    assert "http.response.trailers" not in announced()
    assert "http.response.trailers" not in announced(b"TE: gzip, xtrailers\r\n")
    assert "http.response.trailers" not in announced(b"TE: trailers\r\n", b"1.0")


def test_what_an_application_adds_to_its_extensions_is_its_own() -> None:
    maker = ScopeMaker()
    maker.http(parsed(), PEER)["extensions"]["mine"] = {}
    assert "mine" not in maker.http(parsed(), PEER)["extensions"]


class Forwarding:
    """Trusts everybody."""

    def apply(self, headers: Any, client: Any, scheme: str) -> Any:
        return ("203.0.113.9", 0), "https"


def test_proxies_are_asked_where_a_request_came_through_one() -> None:
    maker = ScopeMaker(forwarding=Forwarding())
    forwarded = parsed(headers=b"X-Forwarded-For: 203.0.113.9\r\n")
    scope = maker.http(forwarded, PEER)
    assert (scope["client"], scope["scheme"]) == (("203.0.113.9", 0), "https")
    assert maker.websocket(forwarded, PEER, [])["scheme"] == "wss"
    assert maker.http(parsed(), PEER)["client"] == ("192.0.2.1", 1234)
