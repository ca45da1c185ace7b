"""A response: what applications say, rightly and wrongly, and what comes of it."""

from __future__ import annotations

import asyncio

import pytest

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from asgi_poller.errors import ApplicationFault
from tests.asgi.exchanges import GET, HEAD, OK, OLD, Request, answer_of, body, head, says
from tests.support.fake_connection import errors_in, raised_by

# Responses


def sized(length: int) -> Message:
    """A head that announces a body of this length."""
    return head(200, [(b"content-length", b"%d" % length)])


GOOD: list[tuple[bytes, list[Message], bytes, bool]] = [
    (GET, [head(), body(b"hi")], OK + b"content-length: 2\r\n\r\nhi", True),
    (GET, [head(), body()], OK + b"content-length: 0\r\n\r\n", True),
    (GET, [head(), {"type": "http.response.body"}], OK + b"content-length: 0\r\n\r\n", True),
    (
        GET,
        [{"type": "http.response.start", "status": 200}, body(b"hi")],
        OK + b"content-length: 2\r\n\r\nhi",
        True,
    ),
    (
        GET,
        [head(), body(b"ab", True), body(b"", True), body(b"c" * 16, True), body()],
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n10\r\n" + b"c" * 16 + b"\r\n0\r\n\r\n",
        True,
    ),
    (
        GET,
        [head(), body(b"", True), body(b"x")],
        OK + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        True,
    ),
    (
        GET,
        [sized(4), body(b"ab", True), body(b"cd")],
        OK + b"content-length: 4\r\n\r\nabcd",
        True,
    ),
    (
        GET,
        [sized(4), body(b"abcd", True), body()],
        OK + b"content-length: 4\r\n\r\nabcd",
        True,
    ),
    (
        GET,
        [head(200, [(b"Transfer-Encoding", b"chunked")]), body(b"ab")],
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        True,
    ),
    (
        GET,
        [head(200, [(b"Connection", b"close")]), body(b"a")],
        OK + b"connection: close\r\ncontent-length: 1\r\n\r\na",
        False,
    ),
    (HEAD, [head(), body(b"hi")], OK + b"\r\n", True),
    (HEAD, [head(), body(b"hi", True), body(b"there")], OK + b"\r\n", True),
    (
        HEAD,
        [sized(2), body()],
        OK + b"content-length: 2\r\n\r\n",
        True,
    ),
    (HEAD, [head(304), body()], b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
    (GET, [head(204), body()], b"HTTP/1.1 204 No Content\r\n\r\n", True),
    (
        GET,
        [head(204, [(b"Transfer-Encoding", b"chunked"), (b"x", b"y")]), body()],
        b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
        True,
    ),
    (
        GET,
        [head(200, [(b"set-cookie", b"a=1"), (b"x", b""), (b"set-cookie", b"b=2")]), body()],
        OK + b"set-cookie: a=1\r\nx: \r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
        True,
    ),
    (
        GET,
        [head(200, [(b"Connection", b"Foo, Close")]), body(b"a")],
        OK + b"connection: Foo, Close\r\ncontent-length: 1\r\n\r\na",
        False,
    ),
    (GET, [head(204), body(b"dropped")], b"HTTP/1.1 204 No Content\r\n\r\n", True),
    (
        GET,
        [head(304, [(b"content-length", b"9")]), body()],
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        True,
    ),
    (OLD, [head(), body(b"hi")], OK + b"content-length: 2\r\nconnection: close\r\n\r\nhi", False),
    (
        OLD,
        [head(), body(b"a", True), body(b"b")],
        OK + b"connection: close\r\n\r\nab",
        False,
    ),
    (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        [head(), body(b"hi")],
        OK + b"content-length: 2\r\nconnection: keep-alive\r\n\r\nhi",
        True,
    ),
    (GET, [head(), body(bytearray(b"hi"))], OK + b"content-length: 2\r\n\r\nhi", True),
    (GET, [head(), body(memoryview(b"hi"))], OK + b"content-length: 2\r\n\r\nhi", True),
]


@pytest.mark.parametrize(("data", "messages", "expected", "keep_alive"), GOOD)
async def test_responses(
    data: bytes,
    messages: list[Message],
    expected: bytes,
    keep_alive: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = await answer_of(says(*messages), data)
    assert wire.written == expected
    assert wire.completed == [keep_alive]
    assert not wire.is_aborted
    assert errors_in(caplog) == []


async def test_a_small_response_is_one_write() -> None:
    assert len((await answer_of(says(head(), body(b"hi")))).pieces) == 1


# What applications do wrong, before anything was written: a clean 500 and one entry in the log

TOO_EARLY: dict[str, list[Message]] = {
    "nothing": [],
    "a head only": [head()],
    "a body without a head": [body(b"a")],
    "two heads": [head(), head()],
    "no such message": [{"type": "http.response.something"}],
    "a message for WebSockets": [{"type": "websocket.accept"}],
    "status 99": [head(99), body()],
    "status 101": [head(101), body()],
    "status as text": [head("200"), body()],
    "CR LF in a header": [head(200, [(b"x", b"a\r\nset-cookie: b")]), body()],
    "text in headers": [head(200, [("x", "a")]), body()],
    "headers that are None": [head(200, None), body()],
    "a body of text": [head(), body("hi")],
    "a body of None": [head(), body(None)],
    "a body longer than its length": [sized(1), body(b"ab")],
    "a body shorter than its length": [sized(3), body(b"ab")],
    "a length that is no number": [head(200, [(b"content-length", b"two")]), body(b"ab")],
}


@pytest.mark.parametrize("name", TOO_EARLY)
async def test_an_application_that_errs_early_gives_500(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    wire = await answer_of(says(*TOO_EARLY[name]))
    assert wire.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"connection: close\r\n" in wire.written
    assert wire.written.count(b"HTTP/1.1") == 1
    assert wire.completed == [False]
    assert len(errors_in(caplog)) == 1


async def test_what_is_wrong_is_told_to_the_application() -> None:
    exchange = Request(GET).exchange
    faults = [
        await raised_by(exchange.send(message))
        for message in (
            body(),
            head(600),
            head(),
            head(),
            body("a"),
            body(b"ok"),
            body(),
        )
    ]
    assert [isinstance(fault, ApplicationFault) for fault in faults] == [
        True,
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert all(isinstance(fault, RuntimeError | None) for fault in faults)
    assert "complete" in str(faults[-1])


# ... and after: the peer sees the connection break


LATE: dict[str, tuple[list[Message], bytes]] = {
    "no end": ([head(), body(b"a", True)], b"1\r\na\r\n"),
    "text": ([head(), body(b"a", True), body("b")], b"1\r\na\r\n"),
    "another head": ([head(), body(b"a", True), head()], b"1\r\na\r\n"),
    "too long": ([sized(2), body(b"a", True), body(b"bc")], b"a"),
    "too short": ([sized(3), body(b"a", True), body(b"b")], b"a"),
}


@pytest.mark.parametrize("name", LATE)
async def test_an_application_that_errs_late_breaks_the_connection(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages, written = LATE[name]
    wire = await answer_of(says(*messages))
    assert wire.written.partition(b"\r\n\r\n")[2] == written
    assert wire.is_aborted
    assert wire.completed == []
    assert len(errors_in(caplog)) == 1


@pytest.mark.parametrize(
    ("sent", "status", "is_aborted"),
    [([], b"500", False), ([head()], b"500", False), ([head(), body(b"a", True)], b"200", True)],
)
async def test_an_application_that_raises(
    sent: list[Message], status: bytes, is_aborted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(message)
        raise ZeroDivisionError("division by zero")

    wire = await answer_of(application)
    assert wire.written.startswith(b"HTTP/1.1 " + status)
    assert wire.is_aborted is is_aborted
    assert errors_in(caplog) == ["Exception in ASGI application"]
    assert "ZeroDivisionError" in caplog.text


async def test_an_application_that_raises_after_its_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head())
        await send(body(b"hi"))
        raise ValueError

    wire = await answer_of(application)
    assert wire.written.endswith(b"\r\n\r\nhi")
    assert wire.completed == [True]
    assert not wire.is_aborted
    assert len(errors_in(caplog)) == 1


async def test_answering_twice_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    wire = await answer_of(says(head(), body(b"one"), head(), body(b"two")))
    assert wire.written.endswith(b"\r\n\r\none")
    assert wire.completed == [True]
    assert len(errors_in(caplog)) == 1


async def test_a_cancelled_application_answers_500(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    assert (await answer_of(application)).written.startswith(b"HTTP/1.1 500")


async def test_a_500_to_head_has_no_body() -> None:
    written = (await answer_of(says(), HEAD)).written
    assert written.endswith(b"\r\n\r\n")
    assert b"content-length: 21" in written
