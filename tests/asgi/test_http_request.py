"""A request as its application receives it: bodies, limits, and peers that are slow or go."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from asgi_poller.asgi.http import State
from asgi_poller.asgi.types import Message, Receive, Scope, Send
from asgi_poller.errors import ClientDisconnected, HttpFault
from tests.asgi.exchanges import GET, POST, Request, body, head
from tests.support.fake_connection import Wire, errors_in, start, until_idle


async def received(
    data: bytes, feed: Callable[[Request], None] = lambda request: None, **options: Any
) -> tuple[list[Message], Wire]:
    """What the application receives, asking first."""
    messages: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while not messages or messages[-1].get("more_body"):
            messages.append(await receive())
        await send(head())
        await send(body())

    request = Request(data, **options)
    task = start(request.exchange, application)
    await until_idle()
    feed(request)
    await asyncio.wait([task])
    await until_idle()
    return messages, request.wire


@pytest.mark.parametrize(("data", "given"), [(GET, b""), (POST + b"0123456789", b"0123456789")])
async def test_a_body_that_is_there_is_one_message(data: bytes, given: bytes) -> None:
    messages, _ = await received(data)
    assert messages == [{"type": "http.request", "body": given, "more_body": False}]


async def test_a_body_that_comes_later() -> None:
    request = Request(POST)
    waiting = asyncio.ensure_future(request.exchange.receive())
    await until_idle()
    assert not waiting.done()
    request.feed(b"01234")
    assert await waiting == {"type": "http.request", "body": b"01234", "more_body": True}
    request.feed(b"567")
    request.feed(b"89")
    last = {"type": "http.request", "body": b"56789", "more_body": False}
    assert await request.exchange.receive() == last


async def test_a_body_over_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    messages, wire = await received(POST, lambda request: request.feed(b"01234567"), limit=7)
    assert messages == [{"type": "http.disconnect"}]
    assert wire.written.startswith(b"HTTP/1.1 413 ")
    assert wire.completed == [False]
    assert errors_in(caplog) == []


async def test_over_the_limit_within_a_response_breaks_the_connection() -> None:
    request = Request(POST, limit=7)
    await request.exchange.send(head())
    await request.exchange.send(body(b"a", True))
    request.feed(b"01234567")
    assert request.wire.is_aborted


# Peers that go


async def test_a_peer_that_goes_while_the_application_waits() -> None:
    request = Request(POST)
    waiting = [asyncio.ensure_future(request.exchange.receive()) for _ in range(2)]
    await until_idle()
    request.exchange.disconnect()
    assert await asyncio.gather(*waiting) == [{"type": "http.disconnect"}] * 2
    assert await request.exchange.receive() == {"type": "http.disconnect"}


async def test_the_rest_of_a_body_is_not_given_when_its_peer_has_gone() -> None:
    request = Request(POST)
    request.feed(b"half")
    request.exchange.disconnect()
    assert await request.exchange.receive() == {"type": "http.disconnect"}


async def test_sending_to_a_peer_that_has_gone_raises(caplog: pytest.LogCaptureFixture) -> None:
    request = Request(GET)
    request.exchange.disconnect()
    for message in (head(), body(b"a", True), body()):
        with pytest.raises(OSError):
            await request.exchange.send(message)
    wire = request.wire
    assert wire.written == b""
    assert wire.completed == []
    assert errors_in(caplog) == []


class Theirs(Exception):
    """What a framework makes of it."""


def from_disconnect() -> Exception:
    error = Theirs("the client has gone")
    error.__cause__ = ClientDisconnected("gone")
    return error


def in_context() -> Exception:
    error = Theirs("while cleaning up")
    error.__context__ = from_disconnect()
    return error


def out_of_its_group(*others: Exception) -> Exception:
    """Raised again, as `raise group.exceptions[0]` in an `except BaseExceptionGroup` does it."""
    error = ClientDisconnected("gone")
    error.__context__ = ExceptionGroup("tasks", [error, *others])
    return error


def while_handling_a_mistake() -> Exception:
    """A framework's 500, which nobody is there to hear."""
    error = ClientDisconnected("gone")
    error.__context__ = ValueError("a mistake")
    return error


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (out_of_its_group(), 0),
        (out_of_its_group(ValueError("a mistake")), 1),
        (while_handling_a_mistake(), 1),
        (ClientDisconnected("gone"), 0),
        (from_disconnect(), 0),
        (in_context(), 0),
        (ExceptionGroup("tasks", [from_disconnect(), ClientDisconnected("gone")]), 0),
        (ExceptionGroup("tasks", [from_disconnect(), ValueError("a mistake")]), 1),
        (ValueError("a mistake"), 1),
    ],
)
async def test_an_application_that_stops_because_its_peer_has_gone_has_not_failed(
    error: Exception, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    request = Request(GET)
    request.exchange.disconnect()
    request.exchange.application_ended(error)
    assert len(errors_in(caplog)) == logged


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    """`await request.is_disconnected()` in a loop begins and cancels one each time."""
    request = Request(GET)
    await request.exchange.receive()
    request.exchange.block_writing()
    await request.exchange.send(head())
    for _ in range(100):
        waits: list[asyncio.Task[Any]] = [
            asyncio.ensure_future(request.exchange.receive()),
            asyncio.ensure_future(request.exchange.send(body(b"a", True))),
        ]
        await until_idle()
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
    gc.collect()
    futures = [one for one in gc.get_objects() if isinstance(one, asyncio.Future)]
    assert len(futures) < 50


async def test_after_a_whole_response_there_is_nothing_to_receive_but_the_end() -> None:
    request = Request(GET)
    await request.exchange.send(head())
    await request.exchange.send(body(b"all"))
    assert (await request.exchange.receive())["type"] == "http.disconnect"


async def test_an_answer_ends_the_wait_for_a_disconnect() -> None:
    """Starlette waits for http.disconnect beside a streamed response."""
    request = Request(GET)
    await request.exchange.receive()
    waiting = asyncio.ensure_future(request.exchange.receive())
    await until_idle()
    await request.exchange.send(head())
    await request.exchange.send(body())
    assert await waiting == {"type": "http.disconnect"}


async def test_cancelling_a_wait_loses_nothing() -> None:
    request = Request(POST)
    for _ in range(3):
        waiting = asyncio.ensure_future(request.exchange.receive())
        await until_idle()
        waiting.cancel()
        await until_idle()
    request.feed(b"0123456789")
    assert (await request.exchange.receive())["body"] == b"0123456789"


# Peers that are slow


async def test_send_waits_while_the_peer_is_slow() -> None:
    request = Request(GET)
    exchange = request.exchange
    await exchange.send(head())
    exchange.block_writing()
    sending = asyncio.ensure_future(exchange.send(body(b"a", True)))
    await until_idle()
    assert not sending.done()
    assert b"1\r\na\r\n" in request.wire.written  # what was given is on its way
    exchange.unblock_writing()
    await sending
    exchange.block_writing()
    sending = asyncio.ensure_future(exchange.send(body(b"b", True)))
    await until_idle()
    assert not sending.done()
    exchange.disconnect()
    await sending


async def test_the_end_of_a_response_is_not_waited_for() -> None:
    """The connection is the next exchange's by then: nobody would wake the application."""
    request = Request(GET)
    request.wire.on_write = request.exchange.block_writing  # as a transport does
    await request.exchange.send(head())
    await request.exchange.send(body(b"x" * 1000))
    assert request.exchange.state is State.COMPLETE


# The connection's own answers


@pytest.mark.parametrize("sent", [[], [head()]])
async def test_a_fault_in_the_body_is_answered(sent: list[Message]) -> None:
    request = Request(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for message in sent:
        await request.exchange.send(message)
    with pytest.raises(HttpFault) as fault:
        request.feed(b"what?\r\n")
    request.exchange.refuse(fault.value.status, fault.value.detail)
    assert await request.exchange.receive() == {"type": "http.disconnect"}
    wire = request.wire
    assert wire.written.startswith(b"HTTP/1.1 400 ")
    assert wire.completed == [False]
