"""What the monitor's port answers, and to whom."""

from __future__ import annotations

import errno
import json
import logging
import socket

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.metrics.snapshot import Snapshot
from tests.monitor.sources import answering, monitor, snapshot
from tests.support.apps import answer, echo
from tests.support.client import Response, get, handshake, read_to_end
from tests.support.server import Served, serving
from tests.support.waiting import DEADLINE_S

OPEN = ("/metrics", "/healthz", "/readyz")


def ask(port: Served, path: str, *headers: str, host: str = "localhost", **more: str) -> Response:
    """The answer to one request."""
    with port.connect() as client:
        client.sendall(get(path, "Connection: close", *headers, host=host, **more))
        return client.response(has_body=more.get("method") != "HEAD")


def test_numbers_for_prometheus() -> None:
    with monitor(answering(snapshot())) as port:
        plain = ask(port, "/metrics")
        assert plain.status == 200
        assert plain.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        assert b"\nasgi_poller_websocket_messages_received_total 1200.0\n" in plain.body
        accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        open_metrics = ask(port, "/metrics", accept)
        kind = open_metrics.header("content-type")
        assert kind is not None
        assert kind.startswith("application/openmetrics-text")
        assert open_metrics.body.endswith(b"# EOF\n")


def test_everything_for_programs() -> None:
    with monitor(answering(snapshot())) as port:
        shown = json.loads(ask(port, "/status.json").body)
    assert shown["pid"] == 999
    assert shown["workers"][1]["loops"][0]["values"]["connections_open"] == 3
    assert shown["total"]["messages_received"] == 1200


@pytest.mark.parametrize(
    ("state", "health", "ready"),
    [("starting", 200, 503), ("serving", 200, 200), ("draining", 200, 503)],
)
def test_health_and_readiness(state: str, health: int, ready: int) -> None:
    with monitor(answering(snapshot(state=state))) as port:
        assert ask(port, "/healthz").status == health
        answer = ask(port, "/readyz")
        assert answer.status == ready
        assert answer.body.decode() == ("ok\n" if ready == 200 else f"{state}\n")


def test_it_only_shows() -> None:
    with monitor(answering(snapshot())) as port:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = ask(port, "/metrics", method=method)
            assert answer.status == 405
            assert answer.header("allow") == "GET, HEAD"
        head = ask(port, "/metrics", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        missing = ask(port, "/nothing")
        assert missing.status == 404
        assert b"/metrics" in missing.body
        with port.connect() as client:
            client.sendall(handshake(path="/metrics", host="localhost"))
            assert client.response().status == 404


def test_another_host_on_loopback_is_a_page_that_was_led_here() -> None:
    with monitor(answering(snapshot())) as port:
        for host in ("evil.example", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1.evil"):
            for path in ("/metrics", "/status.json"):
                answer = ask(port, path, host=host)
                assert answer.status == 403
                assert b"localhost" in answer.body
            assert ask(port, "/healthz", host=host).status == 200, "it says nothing"
        for host in ("127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:9", "127.0.0.2:80"):
            assert ask(port, "/metrics", host=host).status == 200


def test_beyond_loopback_only_numbers_are_open() -> None:
    with monitor(answering(snapshot()), metrics="0.0.0.0:0") as port:
        for path in OPEN:
            assert ask(port, path, host="server.example").status == 200
        answer = ask(port, "/status.json")
        assert answer.status == 403
        assert b"--metrics-token" in answer.body


def test_a_token_is_wanted_for_all_but_health() -> None:
    with monitor(answering(snapshot()), metrics="0.0.0.0:0", metrics_token="s3cret") as port:
        for path in ("/healthz", "/readyz"):
            assert ask(port, path).status == 200
        for path in ("/metrics", "/status.json"):
            refused = ask(port, path)
            assert refused.status == 401
            assert refused.header("www-authenticate") == "Bearer"
            assert b"--metrics-token" in refused.body
            for wrong in ("Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Bearer", "Bearer é"):
                assert ask(port, path, f"Authorization: {wrong}").status == 401
            assert ask(port, path, "Authorization: bearer s3cret", host="any.name").status == 200


def test_a_browser_gets_a_cookie_for_the_token() -> None:
    with monitor(answering(snapshot()), metrics_token="s3cret+/=") as port:
        assert ask(port, "/status.json?token=s3cre").status == 401
        answer = ask(port, "/status.json?a=b&token=s3cret%2B/=")
        assert answer.status == 303
        assert answer.header("location") == "/status.json"
        cookie, *attributes = (answer.header("set-cookie") or "").split("; ")
        assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Strict"]
        assert "s3cret" not in cookie
        name = cookie.partition("=")[0]
        assert str(port.port) in name, "cookies know no ports"
        assert ask(port, "/status.json", f"Cookie: x=y; {cookie}").status == 200
        assert ask(port, "/status.json", f"Cookie: {name}=s3cret").status == 401
        assert ask(port, "/status.json", "Cookie: =;,\x80").status == 401


def test_what_fails_in_it_is_a_line_and_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Snapshot:
        raise OSError("no such memory")

    with monitor(broken) as port, caplog.at_level(logging.INFO, "asgi_poller.error"):
        for _ in range(3):
            for path in ("/metrics", "/healthz"):
                assert ask(port, path).status == 500
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert lines[0] == "/metrics of --metrics cannot be shown: OSError('no such memory')"
    assert all(record.exc_info is None for record in caplog.records)


@pytest.mark.parametrize("host", ["localhost", "[::1]", ""])
def test_every_address_of_a_host_is_listened_on(host: str) -> None:
    try:
        with monitor(answering(snapshot()), metrics=f"{host}:0") as port:
            for address in {"localhost": ("127.0.0.1",), "[::1]": ("::1",)}.get(
                host, ("127.0.0.1", "::1")
            ):
                with socket.create_connection((address, port.port), DEADLINE_S) as client:
                    client.sendall(get("/healthz", "Connection: close", host="localhost"))
                    assert read_to_end(client).startswith(b"HTTP/1.1 200 ")
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            pytest.skip("no IPv6 here")
        raise


async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
    """Is served beside the monitor."""
    if scope["type"] == "http":
        await answer(send, b"ok")
    elif scope["type"] == "websocket":
        await echo(scope, receive, send)


def test_a_monitor_that_cannot_run_leaves_the_server_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no loop server")

    monkeypatch.setattr("asgi_poller.monitor.monitor.LoopServer", broken)
    with caplog.at_level(logging.ERROR, "asgi_poller.error"):
        with serving(echoing, lifespan="off", metrics="0", log_config=None) as site:
            site.is_well()
    assert [record.getMessage() for record in caplog.records] == [
        "--metrics has failed and answers no more: RuntimeError('no loop server')"
    ]
