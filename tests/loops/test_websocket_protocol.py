"""A WebSocket's deadlines: to be accepted, to show life, to answer our Close, to read the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.asgi.websocket_context import State, WebSocketContext
from asgi_poller.config import Config
from asgi_poller.loops.server_state import ServerState
from asgi_poller.loops.websocket_protocol import WebSocketProtocol
from asgi_poller.protocols.websocket.handshake import Handshake
from asgi_poller.protocols.websocket.protocol import FrameCache, WebSocketWire
from tests.support.fake_connection import errors_in
from tests.support.fake_loop import FakeLoop
from tests.support.frames import CLOSE, PING, PONG, ServerFrame, frame, server_frames
from tests.support.frames import close as close_frame
from tests.support.frames import text as text_frame


class Transport:
    """Takes what is written, and reads nothing by itself."""

    def __init__(self) -> None:
        self.written = b""
        self.unsent = 0
        self.is_open = True
        self.is_aborted = False
        self.has_sent_eof = False
        self.is_read = True
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.written += data

    def take(self) -> list[ServerFrame]:
        written, self.written = self.written, b""
        return server_frames(written)

    def close(self) -> None:
        self.is_open = False

    def abort(self) -> None:
        self.is_open = False
        self.is_aborted = True

    def is_closing(self) -> bool:
        return not self.is_open

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_sent_eof = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int) -> None:
        pass


@contextmanager
def running(loop: FakeLoop) -> Iterator[None]:
    """Where asyncio.get_running_loop() gives `loop`."""
    asyncio._set_running_loop(cast("Any", loop))
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


async def no_application(scope: Any, receive: Any, send: Any) -> None:
    """Is not called."""


class OneWebSocket:
    """One connection on a loop whose time is ours."""

    def __init__(self, **settings: float | None) -> None:
        self.loop = FakeLoop()
        self.transport = Transport()
        config = Config("tests:app", ws_per_message_deflate="off", **cast("Any", settings))
        with running(self.loop):
            self.server = ServerState(config, no_application)
        context = WebSocketContext(
            loop=cast("Any", self.loop),
            clock=self.loop.time,
            wire=WebSocketWire,
            max_bytes=1000,
            max_queue=4,
            deflate_threshold=0,
            cache=FrameCache(),
            output=self.server.output,
        )
        handshake = Handshake(b"dGhlIHNhbXBsZSBub25jZQ==", [], "")
        self.connection = WebSocketProtocol(cast("Any", self.transport), self.server, handshake)
        self.session = WebSocketSession({"type": "websocket"}, self.connection, context)
        self.connection.start(self.session)

    def send(self, message: dict[str, Any]) -> None:
        """What the application sends; it must not wait for anything."""
        sending = self.session.send(message)
        with pytest.raises(StopIteration):
            sending.send(None)

    def open(self) -> OneWebSocket:
        self.send({"type": "websocket.accept"})
        assert self.transport.written.startswith(b"HTTP/1.1 101 ")
        self.transport.written = b""
        return self

    def state(self) -> State:
        return self.session.state


def pings(site: OneWebSocket) -> int:
    sent = site.transport.take()
    assert all(each.opcode == PING for each in sent)
    return len(sent)


def test_a_handshake_that_is_not_answered_is_500(caplog: pytest.LogCaptureFixture) -> None:
    site = OneWebSocket()
    site.loop.advance(29.5)
    assert site.state() is State.CONNECTING
    site.loop.advance(1)
    assert site.transport.written.startswith(b"HTTP/1.1 500 ")
    assert site.state() is State.CLOSED
    assert len(errors_in(caplog)) == 1


@pytest.mark.parametrize("interval", [20.0, None])
def test_a_handshake_may_take_forever_if_it_is_allowed_to(interval: float | None) -> None:
    site = OneWebSocket(ws_accept_timeout=None, ws_ping_interval=interval)
    site.loop.advance(10_000)
    assert site.state() is State.CONNECTING
    assert site.transport.written == b""


def test_a_denial_may_be_streamed_for_longer() -> None:
    site = OneWebSocket()
    site.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    site.send({"type": "websocket.http.response.body", "body": b"a", "more_body": True})
    site.loop.advance(1000)
    assert site.state() is State.DENYING
    site.send({"type": "websocket.http.response.body", "body": b"b"})
    assert site.transport.written.endswith(b"1\r\nb\r\n0\r\n\r\n")
    assert site.transport.has_sent_eof


@pytest.mark.parametrize(
    ("interval", "timeout"), [(20.0, 20.0), (5.0, 20.0), (20.0, 5.0), (1.0, 60.0), (10.0, None)]
)
def test_pings_come_as_often_as_asked_for(interval: float, timeout: float | None) -> None:
    site = OneWebSocket(ws_ping_interval=interval, ws_ping_timeout=timeout).open()
    count = 0
    for _ in range(600):
        site.loop.advance(0.5)
        sent = pings(site)
        count += sent
        if sent:
            site.session.received.feed(frame(PONG))
    assert abs(count - 300 / interval) <= 300 / interval * 0.12 + 1
    assert site.state() is State.OPEN


def test_no_pings_at_all() -> None:
    site = OneWebSocket(ws_ping_interval=None).open()
    site.loop.advance(10_000)
    assert pings(site) == 0
    assert site.state() is State.OPEN


@pytest.mark.parametrize(("interval", "timeout"), [(20.0, 20.0), (5.0, 20.0), (20.0, 5.0)])
def test_a_dead_peer_is_closed(interval: float, timeout: float) -> None:
    site = OneWebSocket(ws_ping_interval=interval, ws_ping_timeout=timeout).open()
    site.loop.advance(interval + timeout - 0.5)
    assert site.state() is State.OPEN
    site.loop.advance(1.5)
    assert site.state() is State.CLOSED, "without the time that a closing handshake has"
    last = site.transport.take()[-1]
    assert (last.opcode, last.close_code) == (CLOSE, 1011)
    assert site.transport.has_sent_eof
    site.loop.advance(3)
    assert site.transport.is_aborted


def test_a_dead_peer_is_kept_without_a_timeout() -> None:
    site = OneWebSocket(ws_ping_timeout=None).open()
    site.loop.advance(10_000)
    assert site.state() is State.OPEN


@pytest.mark.parametrize("data", [frame(PONG), text_frame("a"), frame(PING), frame(1, fin=False)])
def test_any_octet_is_a_sign_of_life(data: bytes) -> None:
    site = OneWebSocket().open()
    for at in range(len(data)):  # a frame that takes minutes is odd, but alive
        site.loop.advance(19)
        site.session.received.feed(data[at : at + 1])
    site.loop.advance(9)
    assert site.state() is State.OPEN


def test_silence_for_less_than_the_timeout_is_forgiven_again_and_again() -> None:
    random.seed(5)
    site = OneWebSocket(ws_ping_interval=3.0, ws_ping_timeout=10.0).open()
    for _ in range(300):
        site.loop.advance(random.uniform(0.1, 9.0))
        site.session.received.feed(frame(PONG))
    assert site.state() is State.OPEN


def test_a_peer_that_we_do_not_read_is_not_blamed() -> None:
    """Its application does not call receive(): the Pongs wait behind messages, unread."""
    site = OneWebSocket().open()
    site.session.received.feed(text_frame("a") * 6)
    assert not site.transport.is_read
    site.loop.advance(10_000)
    assert site.state() is State.OPEN


def test_a_peer_is_not_blamed_for_a_loop_that_is_blocked() -> None:
    site = OneWebSocket().open()
    site.loop.advance(21)
    assert pings(site) == 1
    site.loop.block(500)  # the Pong came long ago, but nobody looked
    site.loop.advance(0)
    site.session.received.feed(frame(PONG))
    site.loop.advance(10)
    assert site.state() is State.OPEN


def test_timers_that_come_before_sockets_kill_nobody() -> None:
    site = OneWebSocket(ws_ping_interval=2.0, ws_ping_timeout=1.0).open()
    site.loop.advance(2.2)
    assert pings(site) == 1
    site.loop.block(1.2)
    site.loop.advance(0.01)  # the deadline has passed, the socket was not read yet
    site.session.received.feed(frame(PONG))
    site.loop.advance(1.5)
    assert site.state() is State.OPEN
    assert pings(site) >= 1  # and it goes on
    site.loop.advance(1.5)
    assert site.state() is State.CLOSED


def test_a_peer_that_sends_is_not_asked_whether_it_lives() -> None:
    site = OneWebSocket(ws_ping_interval=20.0, ws_ping_timeout=20.0).open()
    for _ in range(50):
        site.loop.advance(5)
        site.session.received.feed(text_frame("a"))
        site.session.received.queue.clear()
    assert pings(site) == 0
    site.loop.advance(45)  # silent for more than one interval, and less than the timeout after it
    assert pings(site) == 1
    assert site.state() is State.OPEN


def test_our_close_is_answered_in_time() -> None:
    site = OneWebSocket().open()
    site.send({"type": "websocket.close", "code": 1000})
    site.loop.advance(9)
    site.session.received.feed(close_frame(1000))
    assert site.state() is State.CLOSED
    assert not site.transport.is_open
    assert not site.transport.is_aborted


def test_our_close_is_not_answered() -> None:
    site = OneWebSocket().open()
    site.send({"type": "websocket.close", "code": 1000})
    site.loop.advance(9)
    assert site.transport.is_open
    site.loop.advance(2)
    assert not site.transport.is_open


def test_who_does_not_read_the_end_is_cut_off() -> None:
    site = OneWebSocket().open()
    site.transport.unsent = 100_000
    site.send({"type": "websocket.close", "code": 1000})
    site.loop.advance(10.5)
    assert not site.transport.is_aborted
    site.loop.advance(10.5)
    assert site.transport.is_aborted


def test_a_peer_at_fault_may_read_why_before_it_is_hung_up() -> None:
    site = OneWebSocket().open()
    site.session.received.feed(frame(0xF))
    assert site.transport.take()[-1].close_code == 1002
    assert site.transport.has_sent_eof
    assert site.transport.is_open
    lingering = site.transport.protocol
    lingering.data_received(b"still sending" * 100)
    assert site.transport.is_open
    lingering.connection_lost(None)
    assert site.server.closed == 1


def test_stopping_the_server() -> None:
    site = OneWebSocket().open()
    site.connection.shutdown()
    (sent,) = site.transport.take()
    assert sent.close_code == 1012
    site.session.received.feed(close_frame(1012))
    assert site.state() is State.CLOSED


def test_stopping_the_server_before_the_application_has_answered() -> None:
    site = OneWebSocket()
    site.connection.shutdown()
    assert site.transport.written == b""
    site.send({"type": "websocket.accept"})
    site.loop.advance(0)
    head, _, rest = site.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert server_frames(rest)[0].close_code == 1012


def test_a_lost_connection_leaves_no_timer() -> None:
    site = OneWebSocket().open()
    site.connection.connection_lost(None)
    assert site.state() is State.CLOSED
    assert site.server.closed == 1
    site.loop.advance(1)
    assert site.loop.is_asleep
