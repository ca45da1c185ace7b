"""Every request and WebSocket leaves the access log lines that the documentation promises."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from asgi_poller.asgi.access_log import AccessLog
from tests.asgi.exchanges import GET, POST, Request, body, head, says
from tests.asgi.websocket_peer import Peer, closing, opened, text
from tests.support.fake_connection import run_to_end
from tests.support.frames import close as close_frame
from tests.support.frames import text as text_frame

CLIENT = "192.0.2.1:4321"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> AccessLog:
    caplog.set_level(logging.INFO, "asgi_poller.access")
    return AccessLog(logging.getLogger("asgi_poller.access"))


def scope(path: str = "/", query: bytes = b"", client: Any = ("192.0.2.1", 4321)) -> Any:
    return {
        "client": client,
        "method": "GET",
        "path": path,
        "query_string": query,
        "http_version": "1.1",
    }


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (scope(), f'{CLIENT} - "GET / HTTP/1.1" 200'),
        (scope("/a b", b"c=d"), f'{CLIENT} - "GET /a%20b?c=d HTTP/1.1" 200'),
        (scope("/é"), f'{CLIENT} - "GET /%C3%A9 HTTP/1.1" 200'),
        (scope("/", b"\xff"), f'{CLIENT} - "GET /?\\xff HTTP/1.1" 200'),
        (scope(client=None), ' - "GET / HTTP/1.1" 200'),
        (
            scope("/\r\nGET /forged HTTP/1.1"),
            f'{CLIENT} - "GET /%0D%0AGET%20/forged%20HTTP/1.1 HTTP/1.1" 200',
        ),
    ],
)
def test_a_response(
    given: Any, line: str, log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.response(log.entry(given), 200)
    assert caplog.messages[0].startswith(line)
    assert len(caplog.messages[0].splitlines()) == 1


async def test_a_line_for_each_response_and_no_more(
    log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    for data, status in ((GET, 200), (GET, 404)):
        request = Request(data, access_log=log, scope=scope("/x"))
        request.exchange.scope.update(path=None, query_string="text", client=7)
        await request.exchange.send(head(status))
        await request.exchange.send(body(b"a", True))
        await request.exchange.send(body(b"b"))
        request.exchange.application_ended(ValueError())
    request = Request(POST, access_log=log, limit=1, scope=scope("/y"))
    request.feed(b"0123456789")
    request.exchange.application_ended(None)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("access")]
    assert [line.partition('"')[2] for line in lines] == [
        'GET /x HTTP/1.1" 200',
        'GET /x HTTP/1.1" 404',
        'GET /y HTTP/1.1" 413',
    ]


async def test_a_websocket_at_its_opening_and_at_its_end(
    log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    peer, session = await opened(access_log=log)
    peer.clock.now += 12.3456
    for _ in range(3):
        session.received.feed(text_frame("hello"))
        await session.receive()
    await session.send(text("hi"))
    session.received.feed(close_frame(1001))
    session.connection_lost()
    received = 3 * len(text_frame("hello")) + len(close_frame(1001))
    assert caplog.messages == [
        f'{CLIENT} - "WebSocket /path?a=b" [accepted]',
        f'{CLIENT} - "WebSocket /path?a=b" [closed 1001 by peer] 12.346s in=3/{received}B out=1/4B',
    ]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("application", "[closed 4000 by application]"),
        ("server", "[closed 1012 by server]"),
        ("lost", "[closed 1006 by peer]"),
    ],
)
async def test_who_ended_a_websocket(
    end: str, words: str, log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    _, session = await opened(access_log=log)
    if end == "application":
        await session.send(closing(4000))
    elif end == "server":
        session.close(1012)
    session.connection_lost()
    assert len(caplog.messages) == 2
    assert words in caplog.messages[1]


async def test_a_denied_websocket_has_one_line(
    log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    answers: dict[int, list[Any]] = {
        403: [closing()],
        500: [],
        401: [
            {"type": "websocket.http.response.start", "status": 401, "headers": []},
            {"type": "websocket.http.response.body", "body": b"no"},
        ],
    }
    for messages in answers.values():
        peer = Peer(access_log=log)
        await run_to_end(peer.session, says(*messages))
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("access")]
    assert lines == [f'{CLIENT} - "WebSocket /path?a=b" {status}' for status in answers]


async def test_a_denial_that_goes_wrong_is_logged_as_what_the_peer_got(
    log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer(access_log=log)
    wrong = {"type": "websocket.http.response.start", "status": 99}
    await run_to_end(peer.session, says(wrong))
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("access")]
    assert lines == [f'{CLIENT} - "WebSocket /path?a=b" 500']
