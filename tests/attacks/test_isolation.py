"""One connection's trouble is its own: no exception on its way costs another connection anything,
nor what all share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.loops import http_protocol
from asgi_poller.loops.lingering_close import LingeringClose
from tests.attacks.site import under_attack
from tests.loops.test_websocket_protocol import Transport
from tests.support.apps import answer, converse
from tests.support.client import GET, LAST_GET, handshake, read_head, read_to_end, send_all
from tests.support.frames import text
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until

POST = b"POST /%b HTTP/1.1\r\nhost: test\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def running(app: Any, **options: Any) -> Iterator[Site]:
    defaults: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": True}
    with serving(app, **(defaults | options)) as site:
        yield site


def lets_in(site: Site, count: int) -> bool:
    """Whether so many connections may be open at once: none that has ended is still counted."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(site.connect())
            client.sendall(GET)
            if not read_head(client).startswith(b"HTTP/1.1 200 "):
                return False
    return True


async def vandal(scope: Scope, receive: Receive, send: Send) -> None:
    """Puts into its scope what does not belong there, and goes on as usual."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    path = scope["path"]
    if path == "/vandal":
        for key in ("query_string", "path", "client", "http_version", "headers", "type"):
            scope[key] = 7
    if "method" in scope:
        await answer(send, b"ok")
        return
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.mark.long
def test_a_scope_is_the_applications_and_spoils_neither_log_nor_limit_nor_timer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "asgi_poller.access")
    options: dict[str, Any] = {"ws_idle_timeout": 1.0, "timeout_request_header": 1.0}
    with running(vandal, limit_connections=5, **options) as site:
        idle = site.websocket(path="/vandal")
        for _ in range(10):
            site.websocket(path="/vandal").reset()
        assert site.ask(b"GET /vandal?a=b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert read_to_end(idle)  # its idle timeout closes it
        idle.close()
        # the loop's timers go on
        assert site.ask(b"GET / HT").startswith(b"HTTP/1.1 408 ")
        assert site.ask(LAST_GET).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: lets_in(site, 5), "every connection is forgotten")
    lines = [one.getMessage() for one in caplog.records if one.name == "asgi_poller.access"]
    assert sum('"WebSocket /vandal" [accepted]' in line for line in lines) == 11
    assert sum('"WebSocket /vandal" [closed ' in line for line in lines) == 11
    assert any('"GET /vandal?a=b HTTP/1.1" 200' in line for line in lines)
    assert not [one for one in caplog.records if one.exc_info]


def test_a_log_handler_that_raises_costs_no_response(caplog: pytest.LogCaptureFixture) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise ValueError("a filter of the user's")

    caplog.set_level(logging.INFO, "asgi_poller.access")
    access = logging.getLogger("asgi_poller.access")
    access.addFilter(fail)
    try:
        with under_attack(access_log=True) as site:
            site.is_well()
    finally:
        access.removeFilter(fail)
    assert "An access log line could not be written" in caplog.text


def test_messages_and_a_reset_in_one_turn_of_the_loop_are_no_traceback(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    entered, release = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":  # blocks the loop: what comes meanwhile is read in one turn
            entered.set()
            release.wait(DEADLINE_S)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})
            return
        with contextlib.suppress(OSError):
            await converse(receive, send)

    with running(app, loop=loop, access_log=False, limit_connections=60) as site:
        channels = [site.websocket() for _ in range(50)]
        with site.connect() as blocker:
            blocker.sendall(LAST_GET)
            assert entered.wait(DEADLINE_S)
            for channel in channels:
                channel.sendall(text("hello") * 3)
                channel.reset()
            release.set()
            assert read_to_end(blocker).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: lets_in(site, 60), "they are forgotten")
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("fields", [b"", b"content-length: 30\r\n"])
def test_nothing_behind_a_refused_body_reaches_the_application(loop: str, fields: bytes) -> None:
    with under_attack(loop=loop, limit_request_body=10) as site:
        body = b"14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n"
        framing = fields + b"\r\n" + b"x" * 30 if fields else CHUNKED + body
        answer = site.ask(POST % b"first" + framing + b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 413 ")
        site.is_well()
        assert "/second" not in [one["path"] for one in site.record.requests if "path" in one]


async def early(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading the body."""
    await answer(send, b"early")


@pytest.mark.parametrize("framing", [CHUNKED, b"content-length: 100000000000\r\n\r\n"])
def test_a_body_that_goes_on_after_its_response_is_bounded_in_size(
    framing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "_DISCARD_BYTES", 100_000)
    unit = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with running(early, access_log=False) as site, site.connect() as client:
        client.sendall(POST % b"" + framing)
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionError):
            client.sendall(unit * 1_000)


def test_a_body_that_goes_on_after_its_response_is_bounded_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "_DISCARD_S", 0.5)
    with running(early, access_log=False, timeout_keep_alive=3600.0) as site:
        with site.connect() as client:
            client.sendall(POST % b"" + CHUNKED)
            assert read_head(client).startswith(b"HTTP/1.1 200 ")
            ended = threading.Event()

            def trickle() -> None:
                with contextlib.suppress(OSError):
                    while not ended.wait(0.05):
                        client.sendall(b"1\r\nx\r\n")

            thread = threading.Thread(target=trickle, daemon=True)
            thread.start()
            assert read_to_end(client).endswith(b"early")
            ended.set()
            thread.join(DEADLINE_S)


class Gone(Transport):
    """Its peer went between two looks."""

    def write_eof(self) -> None:
        raise OSError(107, "Transport endpoint is not connected")


def test_a_lingering_close_of_a_peer_that_has_gone_raises_nothing() -> None:
    transport: Any = Gone()
    wheel: Any = None  # is not asked for anything
    LingeringClose(transport, wheel, lambda: None).start()
    assert transport.is_aborted


def test_peers_that_go_before_their_denial_leave_no_connection_behind(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def deny(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await early(scope, receive, send)
            return
        await receive()
        await asyncio.sleep(0)
        await send({"type": "websocket.close"})

    with running(deny, loop=loop, access_log=False, limit_connections=20) as site:
        for _ in range(50):
            client = site.connect()
            send_all(client, handshake() + b"x" * 70_000)
            client.close()
        wait_until(lambda: lets_in(site, 20), "they are forgotten")
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("direct", [True, False], ids=["poller", "core"])
def test_a_length_of_thousands_of_digits_is_answered_and_costs_nobody_else(direct: bool) -> None:
    evil = POST % b"" + b"content-length: " + b"0" * 5000 + b"1\r\n\r\nx"
    with under_attack(limit_request_body=1000, direct_handshake=direct) as site:
        for _ in range(5):
            clients = [site.connect() for _ in range(24)]
            for at, client in enumerate(clients):
                client.sendall(evil if at == 12 else LAST_GET)
            answers = [read_to_end(client)[:13] for client in clients]
            for client in clients:
                client.close()
            assert answers.pop(12) == b"HTTP/1.1 400 "
            assert set(answers) == {b"HTTP/1.1 200 "}


def test_a_length_of_thousands_of_digits_in_a_response_is_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        length = (b"content-length", b"1" * 5000)
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"x"})

    with running(app, access_log=False) as site:
        assert site.ask(LAST_GET).startswith(b"HTTP/1.1 500 ")
