"""Handshakes that are answered with a response (ASGI: Websocket Denial Response)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket_context import State
from asgi_poller.errors import ApplicationFault
from tests.asgi.exchanges import says
from tests.asgi.websocket_peer import ACCEPT, Peer, closing, disconnect, text
from tests.support.fake_connection import errors_in, raised_by, run_to_end, until_idle


def head(status: Any = 401, headers: Any = ()) -> Message:
    return {"type": "websocket.http.response.start", "status": status, "headers": headers}


def body(data: Any = b"", more: bool = False) -> Message:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


async def test_a_denial() -> None:
    peer = Peer()
    await peer.session.receive()
    await peer.session.send(head(401, [(b"www-authenticate", b"Basic")]))
    assert peer.wire.written == b""
    assert peer.state() is State.DENYING
    await peer.session.send(body(b"who are you?"))
    assert peer.wire.written == (
        b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 12\r\n"
        b"connection: close\r\n\r\nwho are you?"
    )
    assert peer.state() is State.CLOSED
    assert await peer.session.receive() == disconnect(1006)
    assert isinstance(await raised_by(peer.session.send(body())), OSError)


async def test_a_stream_waits_for_a_slow_peer() -> None:
    peer = Peer()
    await peer.session.send(head())
    peer.session.block_writing()
    sending = asyncio.ensure_future(peer.session.send(body(b"a", True)))
    await until_idle()
    assert not sending.done()
    peer.session.unblock_writing()
    await sending
    peer.session.block_writing()
    sending = asyncio.ensure_future(peer.session.send(body(b"a", True)))
    await until_idle()
    peer.session.connection_lost()
    await sending


@pytest.mark.parametrize("message", [ACCEPT, closing(), text("a"), head()])
async def test_what_may_not_be_sent_within(message: Message) -> None:
    peer = Peer()
    await peer.session.send(head())
    assert isinstance(await raised_by(peer.session.send(message)), ApplicationFault)
    await peer.session.send(body())
    assert peer.state() is State.CLOSED


BROKEN: dict[str, list[Message]] = {
    "a status that is none": [head(99), body()],
    "headers that split": [head(401, [(b"a", b"b\r\nc: d")]), body()],
    "a body of text": [head(), body("text")],
    "no body": [head()],
    "a body that is too long": [head(401, [(b"content-length", b"1")]), body(b"ab")],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_denial_that_goes_wrong_is_500(name: str, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    await run_to_end(peer.session, says(*BROKEN[name]))
    assert peer.wire.written.startswith(b"HTTP/1.1 500 ")
    assert peer.wire.written.count(b"HTTP/1.1") == 1
    assert peer.state() is State.CLOSED
    assert len(errors_in(caplog)) == 1


async def test_a_stream_that_goes_wrong_ends_without_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer = Peer()
    await run_to_end(peer.session, says(head(), body(b"a", True)))
    assert peer.wire.written.endswith(b"1\r\na\r\n")
    assert peer.state() is State.CLOSED
    assert len(errors_in(caplog)) == 1


async def test_a_peer_that_does_not_wait_for_all_of_it() -> None:
    peer = Peer()
    await peer.session.receive()
    await peer.session.send(head())
    await peer.session.send(body(b"a", True))
    peer.wire.take()
    peer.session.connection_lost()
    assert await peer.session.receive() == disconnect(1006)
    assert isinstance(await raised_by(peer.session.send(body(b"b", True))), OSError)
    assert peer.wire.written == b""
