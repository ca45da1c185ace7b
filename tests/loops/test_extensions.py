"""ASGI's extensions of HTTP responses as clients see them: early hints, trailers, debug (ASGI:
Extensions). Files are in test_files.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h2.events
import pytest

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from tests.support.client import Response, get
from tests.support.http2 import http2_client
from tests.support.server import Site, serving

START: Message = {"type": "http.response.start", "status": 200, "trailers": True}
SUM = [(b"X-Sum", b"42")]


def trailers(headers: Any = SUM, more: bool = False) -> Message:
    return {"type": "http.response.trailers", "headers": headers, "more_trailers": more}


def body(data: bytes = b"", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def hint(*links: Any) -> Message:
    return {"type": "http.response.early_hint", "links": list(links)}


SCRIPTS: dict[str, list[Message]] = {
    "/hint": [
        hint(b"</a.css>; rel=preload", b"</b.js>; rel=preload"),
        hint(b"</c>"),
        {"type": "http.response.start", "status": 200},
        body(b"page"),
    ],
    "/whole": [START, body(b"abc"), trailers()],
    "/pieces": [START, body(b"a", True), body(b"bc", True), body(), trailers([], True), trailers()],
    "/sized": [{**START, "headers": [(b"content-length", b"3")]}, body(b"abc"), trailers()],
    "/none": [START, body(b"abc"), trailers([])],
    "/empty": [{**START, "status": 304}, body(), trailers()],
    "/debug": [
        {"type": "http.response.debug", "info": {"template": "secret"}},
        {"type": "http.response.start", "status": 200},
        {"type": "http.response.debug", "info": {"template": "secret"}},
        body(b"a", True),
        {"type": "http.response.debug", "info": {"template": "secret"}},
        body(b"b"),
    ],
    "/forgotten": [START, body(b"abc")],
    "/plain": [{"type": "http.response.start", "status": 200}, body(b"abc"), trailers()],
    # nothing of these may reach the client
    "/bad/length": [START, body(b"abc"), trailers([(b"Content-Length", b"9")])],
    "/bad/split": [START, body(b"abc"), trailers([(b"a", b"b\r\nc: d")])],
    "/bad/value": [START, body(b"abc"), trailers(7)],
    "/hint/split": [hint(b"</a>\r\nx: y")],
    "/hint/number": [hint(7)],
    "/hint/none": [{"type": "http.response.early_hint"}],
    "/hint/late": [{"type": "http.response.start", "status": 200}, hint(b"</a>")],
    "/hint/nothing": [hint(), {"type": "http.response.start", "status": 200}, body(b"page")],
}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends what its path names."""
    if scope["type"] == "http":
        for message in SCRIPTS[scope["path"]]:
            await send(message)


@pytest.fixture(scope="module")
def site(loop: str) -> Iterator[Site]:
    with serving(application, loop=loop) as site:
        yield site


def ask(site: Site, path: str, *headers: str, **options: Any) -> bytes:
    return site.ask(get(path, "Connection: close, TE", *headers, **options))


def responses(data: bytes) -> list[bytes]:
    """Interim heads, and the response behind them."""
    interim: list[bytes] = []
    while data.startswith(b"HTTP/1.1 1"):
        head, _, data = data.partition(b"\r\n\r\n")
        interim.append(head)
    return [*interim, data]


def test_early_hints_come_before_the_response(site: Site) -> None:
    first, second, response = responses(ask(site, "/hint"))
    assert first == (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload"
    )
    assert second == b"HTTP/1.1 103 Early Hints\r\nlink: </c>"
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(b"\r\n\r\npage")


def test_early_hints_among_pipelined_requests_are_in_order(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get("/debug") + get("/hint") + get("/debug"))
        statuses = [client.response().status for _ in range(5)]
    assert statuses == [200, 103, 103, 200, 200]


def test_a_client_of_http_1_0_gets_no_early_hints(site: Site) -> None:
    assert ask(site, "/hint", version="1.0").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/hint/split", "/hint/number", "/hint/none", "/hint/late"])
def test_what_is_no_early_hint_is_a_clean_500(site: Site, path: str) -> None:
    answer = ask(site, path)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"</a>" not in answer


def test_no_links_are_no_early_hint(site: Site) -> None:
    assert ask(site, "/hint/nothing").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(("path", "chunks"), [("/whole", [b"abc"]), ("/pieces", [b"a", b"bc"])])
def test_trailers_end_a_chunked_body(site: Site, path: str, chunks: list[bytes]) -> None:
    with site.connect() as client:
        for _ in range(2):  # the connection goes on behind them
            client.sendall(get(path, "TE: trailers"))
            head: Response = client.head()
            assert head.header("transfer-encoding") == "chunked"
            for chunk in chunks:
                assert (client.line(), client.line()) == (b"%x" % len(chunk), chunk)
            assert [client.line() for _ in range(3)] == [b"0", b"x-sum: 42", b""]


def test_who_does_not_ask_for_trailers_gets_none(site: Site) -> None:
    for version in ("1.0", "1.1"):
        headers = ("TE: trailers",) if version == "1.0" else ()
        for path in ("/whole", "/pieces"):
            answer = ask(site, path, *headers, version=version)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"x-sum" not in answer.lower()
    assert b"content-length: 3\r\n" in ask(site, "/whole")  # nothing is to come behind it


@pytest.mark.parametrize("path", ["/sized", "/none", "/empty"])
def test_a_body_without_a_place_for_trailers(site: Site, path: str) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(get(path, "TE: trailers"))
            response = client.response()
            assert response.body == (b"" if path == "/empty" else b"abc")


def test_head_has_no_trailers(site: Site) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(get("/whole", "TE: trailers", method="HEAD"))
            assert client.response(has_body=False).status == 200


@pytest.mark.parametrize("path", ["/bad/length", "/bad/split", "/bad/value", "/forgotten"])
def test_a_response_without_its_trailers_breaks_off(site: Site, path: str) -> None:
    answer = ask(site, path, "TE: trailers")
    assert b"0\r\n" not in answer.partition(b"\r\n\r\n")[2]  # the client sees that it is not all
    assert b"c: d" not in answer


def test_trailers_that_were_not_announced_are_a_mistake(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.connect() as client:
        client.sendall(get("/plain", "TE: trailers"))
        assert client.response().body == b"abc"
        client.sendall(get("/debug"))
        assert client.response().body == b"ab"
    assert "'http.response.trailers' cannot be sent: complete" in caplog.text


def test_debug_is_not_for_the_peer(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get("/debug"))
        response = client.response()
        assert response.body == b"ab"
        assert "secret" not in str(response)


def test_early_hints_in_http_2(site: Site) -> None:
    with http2_client(site.port) as client:
        stream = client.request("/hint")
        assert client.response(stream)[2] == b"page"
        hints: list[Any] = client.of(h2.events.InformationalResponseReceived, stream)
        fields = [[tuple(field) for field in each.headers] for each in hints]
        assert fields == [
            [
                (":status", "103"),
                ("link", "</a.css>; rel=preload"),
                ("link", "</b.js>; rel=preload"),
            ],
            [(":status", "103"), ("link", "</c>")],
        ]


@pytest.mark.parametrize("path", ["/whole", "/pieces", "/sized"])
def test_trailers_in_http_2(site: Site, path: str) -> None:
    with http2_client(site.port) as client:
        stream = client.request(path, headers=[("te", "trailers")])
        assert client.response(stream)[2] == b"abc"
        (event,) = client.of(h2.events.TrailersReceived, stream)
        fields: list[Any] = list(event.headers or ())
        assert [(name, value) for name, value in fields] == [("x-sum", "42")]
        stream = client.request(path)
        assert client.response(stream)[2] == b"abc"
        assert not client.of(h2.events.TrailersReceived, stream)


def test_http_2_without_its_trailers_is_reset(site: Site) -> None:
    with http2_client(site.port) as client:
        stream = client.request("/forgotten", headers=[("te", "trailers")])
        client.wait(h2.events.StreamReset, stream)
        assert client.response(client.request("/none", headers=[("te", "trailers")]))[2] == b"abc"
