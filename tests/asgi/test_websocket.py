"""An open WebSocket: messages both ways, and control frames."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_poller.errors import ApplicationFault
from tests.asgi.websocket_peer import ACCEPT, binary, closing, opened, text
from tests.support.fake_connection import raised_by, until_idle
from tests.support.frames import BINARY, CLOSE, PING, PONG, TEXT, ServerFrame, frame
from tests.support.frames import binary as binary_frame
from tests.support.frames import close as close_frame
from tests.support.frames import text as text_frame

CAREFUL = pytest.mark.parametrize("careful", [False, True], ids=["fast", "careful"])


# Messages


@CAREFUL
async def test_messages_both_ways(careful: bool) -> None:
    peer, session = await opened(careful=careful)
    for data, message in (
        (text_frame("héllo"), {"type": "websocket.receive", "text": "héllo"}),
        (binary_frame(b"\0\1"), {"type": "websocket.receive", "bytes": b"\0\1"}),
        (text_frame(""), {"type": "websocket.receive", "text": ""}),
        (binary_frame(b""), {"type": "websocket.receive", "bytes": b""}),
    ):
        session.received.feed(data)
        assert await session.receive() == message
    for sent, expected in (
        (text("héllo"), ServerFrame(TEXT, "héllo".encode())),
        (binary(b"\0\1"), ServerFrame(BINARY, b"\0\1")),
        (text(""), ServerFrame(TEXT, b"")),
        (binary(b""), ServerFrame(BINARY, b"")),
        (binary(bytearray(b"ab")), ServerFrame(BINARY, b"ab")),
        (binary(memoryview(b"ab")), ServerFrame(BINARY, b"ab")),
        ({"type": "websocket.send", "bytes": None, "text": "a"}, ServerFrame(TEXT, b"a")),
        ({"type": "websocket.send", "bytes": b"a", "text": None}, ServerFrame(BINARY, b"a")),
    ):
        await session.send(sent)
        await asyncio.sleep(0)  # what is sent unasked may wait for the end of the turn
        assert peer.frames() == [expected]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": None, "bytes": None},
        binary("text"),
        binary(5),
        ACCEPT,
        {"type": "websocket.http.response.start", "status": 404, "headers": []},
        {"type": "http.response.start", "status": 200},
        {"type": "websocket.sned", "text": "a"},
        closing(1005),
        closing(1006),
        closing(999),
        closing(2999),
        closing(5000),
        {"type": "websocket.close", "code": "1000"},
        {"type": "websocket.close", "code": 1000, "reason": b"bytes"},
    ],
)
async def test_what_may_not_be_sent(message: Any) -> None:
    peer, session = await opened()
    fault = await raised_by(session.send(message))
    assert isinstance(fault, ApplicationFault)
    assert isinstance(fault, RuntimeError)
    assert peer.wire.written == b""
    await session.send(text("still open"))
    assert peer.frames() == [ServerFrame(TEXT, b"still open")]


async def test_messages_that_wait_are_answered_in_one_write() -> None:
    peer, session = await opened()
    session._turn = 255  # it gives way then, and not among the first messages
    session.received.feed(text_frame("a") * 5)
    for number in range(5):
        await session.receive()
        await session.send(text(str(number)))
    await until_idle()
    assert len(peer.wire.pieces) == 1
    assert [each.payload for each in peer.frames()] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_lone_message_is_written_at_once() -> None:
    peer, session = await opened()
    session.received.feed(text_frame("a"))
    await session.receive()
    await session.send(text("b"))
    assert len(peer.wire.pieces) == 1


async def test_what_was_joined_goes_out_though_the_application_rests() -> None:
    peer, session = await opened()
    session.received.feed(text_frame("a") * 2)
    await session.receive()
    await session.send(text("answer"))
    await until_idle()  # one message waits still, and nobody asks for it
    assert [each.payload for each in peer.frames()] == [b"answer"]


@pytest.mark.parametrize("by", ["application", "peer"])
async def test_what_was_joined_goes_out_before_a_close(by: str) -> None:
    peer, session = await opened()
    session.received.feed(text_frame("a") * 2)
    await session.receive()
    await session.send(text("answer"))
    if by == "peer":
        session.received.feed(close_frame(1000))
    else:
        await session.send(closing(1000))
    await until_idle()
    assert [each.opcode for each in peer.frames()] == [TEXT, CLOSE]


# Control frames


@CAREFUL
async def test_pings_are_answered_whatever_the_application_does(careful: bool) -> None:
    peer, session = await opened(careful=careful)
    session.received.feed(frame(PING, b"one") + text_frame("a") + frame(PING, b"two"))
    session.received.feed(frame(TEXT, b"a", fin=False) + frame(PING, b"three"))
    assert peer.frames() == [
        ServerFrame(PONG, b"one"),
        ServerFrame(PONG, b"two"),
        ServerFrame(PONG, b"three"),
    ]


@CAREFUL
async def test_a_ping_and_a_close_in_one_read(careful: bool) -> None:
    peer, session = await opened(careful=careful)
    session.received.feed(frame(PING, b"one") + close_frame(1000))
    *pongs, closed = peer.frames()
    assert closed.close_code == 1000
    assert pongs in ([], [ServerFrame(PONG, b"one")])  # RFC 6455, 5.5.2: either will do
