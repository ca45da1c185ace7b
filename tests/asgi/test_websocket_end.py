"""However a WebSocket ends, peer and application get the right close code, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.asgi.websocket_context import State
from asgi_poller.errors import ClientDisconnected
from tests.asgi.websocket_peer import (
    ACCEPT,
    MAX_BYTES,
    Peer,
    binary,
    closing,
    disconnect,
    gives_nothing_more,
    opened,
    text,
)
from tests.support.fake_connection import errors_in, raised_by, run_to_end, start, until_idle
from tests.support.frames import CLOSE, PING, TEXT, frame
from tests.support.frames import binary as binary_frame
from tests.support.frames import close as close_frame
from tests.support.frames import text as text_frame

CAREFUL = pytest.mark.parametrize("careful", [False, True], ids=["fast", "careful"])


@CAREFUL
@pytest.mark.parametrize(
    ("sent", "told", "answered"),
    [
        (close_frame(1000, "bye"), disconnect(1000, "bye"), 1000),
        (close_frame(1001), disconnect(1001), 1001),
        (close_frame(4321, "why"), disconnect(4321, "why"), 4321),
        (close_frame(), disconnect(1005), None),
    ],
)
async def test_the_peer_closes(
    sent: bytes, told: dict[str, Any], answered: int | None, careful: bool
) -> None:
    peer, session = await opened(careful=careful)
    session.received.feed(text_frame("last words") + sent + text_frame("never"))
    (answer,) = peer.frames()
    assert (answer.opcode, answer.close_code) == (CLOSE, answered)
    assert peer.state() is State.CLOSED
    assert session.closed_by == "peer"
    assert (await session.receive())["text"] == "last words"
    assert await session.receive() == told
    assert isinstance(await raised_by(session.send(text("a"))), OSError)


@CAREFUL
@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (closing(1000, "done"), 1000, "done"),
        (closing(), 1000, ""),
        ({"type": "websocket.close"}, 1000, ""),
        (closing(3000), 3000, ""),
        (closing(1001, "é" * 100), 1001, "é" * 100),
    ],
)
async def test_the_application_closes(
    message: dict[str, Any], code: int, reason: str, careful: bool
) -> None:
    peer, session = await opened(careful=careful)
    await session.send(message)
    (sent,) = peer.frames()
    assert (sent.opcode, sent.close_code) == (CLOSE, code)
    assert reason.encode().startswith(sent.payload[2:])
    assert len(sent.payload) <= 125
    assert peer.state() is State.CLOSING
    assert await session.receive() == disconnect(code, reason)
    session.received.feed(close_frame(code))
    assert peer.state() is State.CLOSED
    assert session.closed_by == "application"
    assert peer.wire.written == b""


async def test_messages_after_our_close_are_dropped() -> None:
    peer, session = await opened()
    session.received.feed(text_frame("before"))
    await session.send(closing(1000))
    session.received.feed(text_frame("after") + frame(TEXT, b"a", fin=False))
    session.received.feed(frame(0, b"b") + text_frame("later") * 20 + close_frame(1000))
    assert peer.state() is State.CLOSED
    assert (await session.receive())["text"] == "before"
    assert await session.receive() == disconnect(1000)
    assert await gives_nothing_more(session)


async def test_messages_behind_both_closes_are_dropped_when_the_end_was_received() -> None:
    _, session = await opened()
    await session.send(closing(1000))
    assert await session.receive() == disconnect(1000)
    session.received.feed(
        text_frame("late") + frame(PING) + text_frame("later") + close_frame(1000)
    )
    assert await gives_nothing_more(session)


@CAREFUL
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"a", mask=None), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (binary_frame(b"x" * (MAX_BYTES + 1)), 1009),
        (frame(0xF, b"x"), 1002),
    ],
)
async def test_a_peer_that_breaks_the_rules(data: bytes, code: int, careful: bool) -> None:
    peer, session = await opened(careful=careful)
    session.received.feed(text_frame("good") + data + text_frame("never"))
    (sent,) = peer.frames()
    assert (sent.opcode, sent.close_code) == (CLOSE, code)
    assert sent.payload[2:], "the peer is told what was wrong"
    assert peer.state() is State.CLOSED
    assert session.closed_by == "server"
    assert (await session.receive())["text"] == "good"
    last = await session.receive()
    assert (last["type"], last["code"]) == ("websocket.disconnect", code)
    assert last["reason"]


async def test_a_peer_that_breaks_the_rules_while_closing() -> None:
    peer, session = await opened()
    await session.send(closing(1000))
    peer.wire.take()
    session.received.feed(frame(0xF, b"x"))
    assert peer.state() is State.CLOSED
    assert peer.wire.written == b""
    assert await session.receive() == disconnect(1000)


async def test_a_connection_that_breaks_is_1006() -> None:
    peer, session = await opened()
    session.received.feed(text_frame("last"))
    session.connection_lost()
    assert (await session.receive())["text"] == "last"
    assert await session.receive() == disconnect(1006)
    for message in (text("a"), binary(b"b")):
        assert isinstance(await raised_by(session.send(message)), ClientDisconnected)
    await session.send(closing(1000))  # `finally: await websocket.close()` is no mistake
    assert peer.state() is State.CLOSED


async def test_a_connection_that_breaks_while_closing_keeps_our_code() -> None:
    peer, session = await opened()
    await session.send(closing(4000))
    session.connection_lost()
    assert peer.state() is State.CLOSED
    assert await session.receive() == disconnect(4000)
    assert session.close_code == 4000


async def test_no_answer_to_our_close() -> None:
    peer, session = await opened()
    session.close(1012, "service restart")
    assert peer.state() is State.CLOSING
    session.close(1012, "again")
    assert len(peer.frames()) == 1
    session.give_up()
    assert peer.state() is State.CLOSED
    assert session.closed_by == "server"
    assert await session.receive() == disconnect(1012, "service restart")


# What the application leaves undone


@pytest.mark.parametrize(("raises", "code"), [(False, 1000), (True, 1011)])
async def test_an_application_that_ends_first(
    raises: bool, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        if raises:
            raise ZeroDivisionError

    peer = Peer()
    await run_to_end(peer.session, application)
    (sent,) = peer.frames_after_head()
    assert (sent.opcode, sent.close_code) == (CLOSE, code)
    assert len(errors_in(caplog)) == raises


@pytest.mark.parametrize("error", [OSError("disk full"), asyncio.CancelledError()])
async def test_other_errors_than_a_lost_peer_are_errors(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raise error

    peer = Peer()
    await run_to_end(peer.session, application)
    assert peer.frames_after_head()[0].close_code == 1011
    assert len(errors_in(caplog)) == 1


async def test_an_application_may_let_the_news_of_a_lost_peer_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        while True:
            await send(text("a"))
            await asyncio.sleep(0)

    peer = Peer()
    task = start(peer.session, application)
    while len(peer.wire.pieces) < 3:  # the 101, and messages
        await asyncio.sleep(0)
    peer.session.connection_lost()
    await asyncio.wait([task])
    await until_idle()
    assert errors_in(caplog) == []


async def test_news_of_another_channels_lost_peer_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A chat that broadcasts and does not look: its own WebSocket is fine, and ends with 1011."""
    gone, peer = Peer(), Peer()
    other = await gone.accepted()
    other.connection_lost()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await other.send(text("hello all"))

    await run_to_end(peer.session, application)
    assert peer.frames_after_head()[0].close_code == 1011
    assert len(errors_in(caplog)) == 1
