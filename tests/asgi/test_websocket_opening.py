"""A WebSocket before it is open: accepted, rejected, forgotten by the application, or left."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_poller.asgi.types import Application, Message, Receive, Scope, Send
from asgi_poller.asgi.websocket_context import State
from asgi_poller.errors import ApplicationFault, ClientDisconnected
from tests.asgi.exchanges import says
from tests.asgi.websocket_peer import ACCEPT, Peer, binary, closing, disconnect, opened, text
from tests.support.fake_connection import errors_in, raised_by, run_to_end
from tests.support.frames import server_frames
from tests.support.frames import text as text_frame

OFFER = (b"sec-websocket-protocol", b"chat, superchat")


async def answer_of(application: Application, *headers: tuple[bytes, bytes]) -> bytes:
    """What a peer gets from an application that ends."""
    peer = Peer(*headers)
    await run_to_end(peer.session, application)
    return peer.wire.written


async def test_accepting() -> None:
    peer = Peer(OFFER)
    assert await peer.session.receive() == {"type": "websocket.connect"}
    assert peer.state() is State.CONNECTING
    await peer.session.send(
        {
            "type": "websocket.accept",
            "subprotocol": "superchat",
            "headers": [(b"set-cookie", b"a=b"), (b"x-y", b"z")],
        }
    )
    assert peer.state() is State.OPEN
    lines = peer.wire.written.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert b"Sec-WebSocket-Protocol: superchat" in lines
    assert b"set-cookie: a=b" in lines
    assert b"x-y: z" in lines


async def test_accepting_before_receiving() -> None:
    """Allowed, and some applications do."""
    peer = Peer()
    await peer.session.send(ACCEPT)
    peer.session.received.feed(text_frame("a"))
    assert await peer.session.receive() == {"type": "websocket.connect"}
    assert (await peer.session.receive())["text"] == "a"


@pytest.mark.parametrize(
    "accept",
    [
        {"type": "websocket.accept", "subprotocol": None, "headers": None},
        {"type": "websocket.accept", "headers": ()},
        {"type": "websocket.accept", "headers": iter([(b"a", b"b")])},
    ],
)
async def test_forms_of_accepting(accept: Message) -> None:
    await Peer(OFFER).accepted(accept)


@pytest.mark.parametrize(
    "accept",
    [
        {"type": "websocket.accept", "subprotocol": "other"},
        {"type": "websocket.accept", "headers": [(b"x", b"a\r\nb: c")]},
        {"type": "websocket.accept", "headers": [("x", "y")]},
        {"type": "websocket.accept", "headers": [(b"sec-websocket-protocol", b"chat")]},
        text("too early"),
        binary(b"too early"),
        {"type": "http.response.start", "status": 200},
        {"type": "websocket.http.response.body", "body": b""},
    ],
)
async def test_what_may_not_be_sent_gives_500(
    accept: Any, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer(OFFER)
    assert isinstance(await raised_by(peer.session.send(accept)), ApplicationFault)
    assert peer.wire.written == b""
    await peer.session.send(ACCEPT)  # it may still do better
    assert (await answer_of(says(accept), OFFER)).startswith(b"HTTP/1.1 500 ")
    assert len(errors_in(caplog)) == 1


@pytest.mark.parametrize("message", [closing(), closing(1000), closing(4000, "why"), closing(1005)])
async def test_refusing(message: Message, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    await peer.session.receive()
    await peer.session.send(message)
    assert peer.wire.written.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"connection: close\r\n" in peer.wire.written
    assert peer.state() is State.CLOSED
    assert await peer.session.receive() == disconnect(1006)
    await peer.session.send(closing())
    for late in (ACCEPT, text("a")):
        assert isinstance(await raised_by(peer.session.send(late)), ClientDisconnected)
    assert errors_in(caplog) == []


async def test_an_application_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    assert (await answer_of(application)).startswith(b"HTTP/1.1 500 ")
    assert errors_in(caplog) == ["Exception in ASGI application"]


async def test_an_application_that_returns(caplog: pytest.LogCaptureFixture) -> None:
    assert (await answer_of(says())).startswith(b"HTTP/1.1 500 ")
    assert len(errors_in(caplog)) == 1
    assert "without accepting or closing" in caplog.text


async def test_an_application_that_takes_too_long() -> None:
    peer = Peer()
    peer.session.refuse(500)
    assert peer.wire.written.startswith(b"HTTP/1.1 500 ")
    peer.session.refuse(500)
    assert peer.wire.written.count(b"HTTP/1.1") == 1
    assert isinstance(await raised_by(peer.session.send(ACCEPT)), OSError)


async def test_a_refusal_does_not_harm_an_open_channel() -> None:
    peer, session = await opened()
    session.refuse(500)
    assert peer.wire.written == b""
    assert peer.state() is State.OPEN


async def test_a_peer_that_does_not_wait_for_its_answer() -> None:
    peer = Peer()
    assert await peer.session.receive() == {"type": "websocket.connect"}
    peer.session.connection_lost()
    assert await peer.session.receive() == disconnect(1006)
    assert isinstance(await raised_by(peer.session.send(ACCEPT)), OSError)
    assert peer.wire.written == b""


async def test_too_much_before_the_101_waits_in_the_network() -> None:
    peer = Peer()
    message = "x" * 30_000
    peer.session.received.feed(text_frame(message) * 2)
    assert peer.wire.is_read
    peer.session.received.feed(text_frame(message))
    assert not peer.wire.is_read
    session = await peer.accepted()
    for _ in range(3):
        assert (await session.receive())["text"] == message
    assert peer.wire.is_read


async def test_a_close_before_the_101_is_answered_after_it() -> None:
    peer = Peer()
    peer.session.received.feed(text_frame("a") + b"\x88\x82\0\0\0\0\x03\xe8")
    await peer.session.receive()
    await peer.session.send(ACCEPT)
    _, _, rest = peer.wire.written.partition(b"\r\n\r\n")
    assert server_frames(rest)[0].close_code == 1000
    assert (await peer.session.receive())["text"] == "a"
    assert await peer.session.receive() == disconnect(1000)
