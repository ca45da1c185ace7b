"""What applications see and clients get is the same over both versions of HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from h2.events import InformationalResponseReceived, ResponseReceived

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.logs.served import logged
from tests.support.client import get, post
from tests.support.http2 import Field, http2_client
from tests.support.server import Site, serving


class Application:
    """Does what its path says; keeps the scopes that it has seen."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["pool"] = "shared"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.scopes.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["path"].removeprefix(scope["root_path"])
        status, headers, answer = 200, [], body or b"hello"
        if path == "/none":
            status = 204
        elif path == "/old":
            status, headers = 304, [(b"etag", b'"a"')]
        elif path == "/longer":
            headers = [(b"content-length", b"3")]
        elif path == "/split":
            headers = [(b"x", b"a\r\nb: c")]
        elif path == "/server":
            headers = [(b"Server", b"mine"), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
def site(app: Application) -> Iterator[Site]:
    with serving(app, root_path="/api", forwarded_allow_ips="127.0.0.1") as site:
        yield site


FIELDS = (("user-agent", "test"), ("accept", "*/*"), ("x-forwarded-proto", "https"))
FORWARDED = (("x-forwarded-for", "192.0.2.7"), ("cookie", "a=1"))


def test_the_scope_is_the_same(app: Application, site: Site) -> None:
    fields = FIELDS + FORWARDED
    path = "/a%20b/%C3%A9?x=1&y=%20"
    lines = [f"{name}: {value}" for name, value in fields]
    assert site.ask(get(path, "Connection: close", *lines)).startswith(b"HTTP/1.1 200 ")
    with http2_client(site.port) as client:
        assert client.response(client.request(path, headers=fields))[0] == 200
    one, two = (dict(scope) for scope in app.scopes)
    assert (one.pop("http_version"), two.pop("http_version")) == ("1.1", "2")
    given = [each for each in one.pop("headers") if each[0] != b"connection"]
    assert sorted(two["headers"]) == sorted(given)
    assert two.pop("headers")[0] == (b"host", b"test")  # ASGI: it comes first
    assert one.pop("extensions").keys() == two.pop("extensions").keys()
    assert one == two
    assert two["client"] == ("192.0.2.7", 0)
    assert (two["scheme"], two["root_path"]) == ("https", "/api")
    assert two["state"] == {"pool": "shared"}


def test_crumbs_of_cookies_are_one_field(app: Application, site: Site) -> None:
    """RFC 9113, 8.2.3."""
    cookies = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")]
    with http2_client(site.port) as client:
        client.response(client.request(headers=cookies))
    headers = app.scopes[0]["headers"]
    assert headers == [(b"host", b"test"), (b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]


def test_names_with_underscores_are_for_proxies(app: Application) -> None:
    for trusted, count in (("127.0.0.1", 1), ("192.0.2.1", 0)):
        with serving(app, forwarded_allow_ips=trusted) as site, http2_client(site.port) as client:
            client.response(client.request(headers=[("x_a", "b")]))
        assert app.scopes[-1]["headers"].count((b"x_a", b"b")) == count


BODILESS = {"/none": 204, "/old": 304}


@pytest.mark.parametrize("path", BODILESS)
def test_answers_that_have_no_body(site: Site, path: str) -> None:
    with http2_client(site.port) as client:
        status, fields, body = client.response(client.request(path))
        assert (status, body) == (BODILESS[path], b"")
        assert "content-length" not in fields
        assert client.response(client.request("/"))[2] == b"hello"


def test_head(site: Site) -> None:
    with http2_client(site.port) as client:
        status, _, body = client.response(client.request("/", "HEAD"))
        assert (status, body) == (200, b"")


def test_fields_of_a_response(site: Site) -> None:
    with http2_client(site.port) as client:
        stream = client.request("/server")
        client.response(stream)
        fields: Any = client.of(ResponseReceived, stream)[0].headers
        names = [name for name, _ in fields]
        assert names.count("set-cookie") == 2
        assert ("server", "mine") in fields
        assert names.count("server") == names.count("date") == 1


@pytest.mark.parametrize("path", ["/longer", "/split"])
def test_what_an_application_may_not_send_is_500(
    site: Site, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with http2_client(site.port) as client:
        assert client.response(client.request(path))[0] == 500
        assert client.response(client.request("/"))[0] == 200
    assert "ApplicationFault" in caplog.text


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "a long path": ({"path": "/" + "a" * 20_000}, 414),
    "a large field": ({"headers": [("x", "y" * 40_000)]}, 431),
    "many fields": ({"headers": [(f"x{number}", "y") for number in range(120)]}, 431),
    "another host": ({"path": "/", "headers": [("host", "other")]}, 400),
    "a field of connections": ({"headers": [("connection", "close")]}, 400),
    "te": ({"headers": [("te", "gzip")]}, 400),
    "a large body": ({"method": "POST", "body": b"x" * 2000}, 413),
    "a large body that says so": (
        {"method": "POST", "body": b"x" * 2000, "headers": [("content-length", "2000")]},
        413,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_have_their_status_and_cost_their_stream(app: Application, name: str) -> None:
    request, status = REFUSED[name]
    with serving(app, limit_request_body=1000) as site, http2_client(site.port) as client:
        client.h2.config.validate_outbound_headers = False
        client.h2.config.normalize_outbound_headers = False
        assert client.status(client.request(**request)) == status
        assert client.response(client.request("/"))[0] == 200
        requests = [scope["path"] for scope in app.scopes]
        assert requests[-1] == "/"


def test_hosts_that_are_not_ours(app: Application) -> None:
    with serving(app, allow_hosts=["here.test"]) as site, http2_client(site.port) as client:
        assert client.status(client.request("/")) == 400
    assert app.scopes == []


def test_a_body_that_stops_is_408(app: Application) -> None:
    with (
        serving(app, timeout_request_body=0.3) as site,
        http2_client(site.port) as client,
    ):
        stream = client.request("/", "POST", body=b"x", ends=False)
        assert client.status(stream) == 408
        assert client.response(client.request("/"))[0] == 200


def test_beyond_limit_concurrency_503() -> None:
    gate = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await gate.wait()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b""})

    with (
        serving(waits, lifespan="off", limit_concurrency=2) as site,
        http2_client(site.port) as client,
    ):
        held = [client.request("/") for _ in range(2)]
        status, fields, _ = client.response(client.request("/"))
        assert (status, fields["retry-after"]) == (503, "1")
        site.server._serving.loop_servers[0].loop.call_soon_threadsafe(gate.set)  # type: ignore[union-attr]
        assert [client.status(stream) for stream in held] == [200, 200]


def test_expect_100_continue(app: Application, site: Site) -> None:
    expect: list[Field] = [("expect", "100-continue")]
    with http2_client(site.port) as client:
        stream = client.request("/", "POST", expect, ends=False)
        client.wait(InformationalResponseReceived, stream)
        client.h2.send_data(stream, b"body", end_stream=True)
        client.flush()
        assert client.response(stream)[2] == b"body"


@pytest.mark.parametrize("given", ["", "mine"])
def test_request_ids(app: Application, given: str) -> None:
    headers: list[Field] = [("x-request-id", given)] if given else []
    with serving(app, request_id=True) as site, http2_client(site.port) as client:
        _, fields, _ = client.response(client.request("/", headers=headers))
        assert fields["x-request-id"] == given or len(fields["x-request-id"]) == 32
        _, refused, _ = client.response(client.request("/split"))
        assert "x-request-id" in refused


def test_the_access_log(app: Application, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "asgi_poller.access"),
        serving(app, access_log=True, log_config=None) as site,
    ):
        site.ask(post(b"body", "/a?b", "Connection: close"))
        with http2_client(site.port) as client:
            client.response(client.request("/a?b", "POST", body=b"body"))
    records = [each for each in caplog.records if each.name == "asgi_poller.access"]
    lines = [each.getMessage().partition(" - ")[2] for each in records]
    assert lines == ['"POST /a?b HTTP/1.1" 200', '"POST /a?b HTTP/2" 200']


def test_a_json_log_has_the_sizes(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json", app="tests.attacks.echo:app") as site:
        with http2_client(site.port) as client:
            client.response(client.request("/", "POST", body=b"x" * 777))
        site.wait_for_lines(1)
        found = json.loads(site.access_lines[0])
    assert found["status"] == 200
    assert (found["request_bytes"], found["response_bytes"]) == (777, 3)
