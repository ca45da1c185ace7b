"""The socket of one WebSocket, from the handshake on: an asyncio protocol between the transport and
the WebSocket.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.request_id import HEADER
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.asgi.websocket_context import CLOSED, CLOSING, CONNECTING, OPEN
from asgi_poller.loops.denial_port import DenialPort
from asgi_poller.loops.identified_responses import IdentifiedHeaders
from asgi_poller.loops.lingering_close import LingeringClose
from asgi_poller.loops.server_state import ServerState
from asgi_poller.loops.timer_wheel import NEVER, TICK_S
from asgi_poller.loops.websocket_timeouts import WebSocketTimeouts
from asgi_poller.protocols.http1.response import DefaultHeaders, phrase
from asgi_poller.protocols.websocket.frames import (
    CLOSE_ABNORMAL,
    CLOSE_INTERNAL_ERROR,
    CLOSE_SERVICE_RESTART,
)
from asgi_poller.protocols.websocket.handshake import Handshake
from asgi_poller.protocols.websocket.permessage_deflate import Deflate

_log = logging.getLogger("asgi_poller.error")

_PONG_BYTES = 6  # header and mask of one without a payload, the answer to our Pings
_DEFAULT_SEND_LIMIT = 65536  # octets: the high-water mark that event loops set by themselves


def _nobody_listens(data: bytes) -> None:
    """For what a transport may still read while it closes."""


class WebSocketProtocol:
    """Takes a transport over from its HttpProtocol at the upgrade. Owned by the loop's thread. Like
    that one it has an asyncio.Protocol's methods and not the class.

    It is scheduled once, with the deadline that its WebSocket's state has: accept, ping or
    pong, close.
    """

    __slots__ = (
        "_bytes_at_ping",
        "_deadline",
        "_handshake",
        "_is_draining",
        "_life_by",
        "_ping_at",
        "_server",
        "_timeouts",
        "_transport",
        "data_received",
        "session",
        "timer_tick",
        "write",
    )

    is_websocket = True

    # Between the transport and the WebSocket stands nothing: these two are the other side's own
    # methods.
    data_received: Callable[[bytes], None]
    write: Callable[[bytes | bytearray], None]

    def __init__(
        self, transport: asyncio.Transport, server: ServerState, handshake: Handshake
    ) -> None:
        self._transport = transport
        self.write = transport.write
        self._server = server
        self._handshake: Handshake | None = handshake  # until it is accepted
        self.session: WebSocketSession | None = None
        self._deadline = NEVER  # of the WebSocket's state
        self._ping_at = NEVER  # the next one
        # By when the peer must have sent something, and what it had sent when that was decided, at
        # the first Ping since it was last heard. NEVER: it need not.
        self._life_by = NEVER
        self._bytes_at_ping = 0
        self._timeouts: WebSocketTimeouts | None = None
        self._is_draining = False  # the server stops: closed as soon as it is open
        self.timer_tick = NEVER

    def start(self, session: WebSocketSession) -> None:
        """The WebSocket waits for its application. To be called before `set_protocol`."""
        self.session = session
        self.data_received = session.received.feed
        server = self._server
        ticks = server.websocket_ticks
        if ticks.accept:
            now = server.wheel.now()
            self._deadline = now + ticks.accept
            # Nearly every WebSocket is accepted at once. Scheduled early enough for its first ping,
            # it need not be scheduled again then.
            is_ping_first = 0 < ticks.ping < ticks.accept
            server.wheel.schedule(self, now + (ticks.ping if is_ping_first else ticks.accept))
        if server.config.ws_send_limit != _DEFAULT_SEND_LIMIT:
            self._transport.set_write_buffer_limits(server.config.ws_send_limit)

    # asyncio.Protocol

    def eof_received(self) -> bool:
        self._flush()
        return False

    def pause_writing(self) -> None:
        if self._timeouts is not None:
            self._timeouts.fall_behind()
            self._schedule_timeouts(self._timeouts)
        session = self.session
        if session is not None:
            if session.state is OPEN:
                self._server.counts.slow_consumers += 1
            session.block_writing()

    def resume_writing(self) -> None:
        if self._timeouts is not None:
            self._timeouts.catch_up()
        if self.session is not None:
            self.session.unblock_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.wheel.cancel(self)
        self._server.output.discard(self)
        self._is_draining = False
        try:
            if self.session is not None:
                self.session.connection_lost()
        finally:  # whatever happens here, the server's books are to be right
            # the WebSocket has this connection for its port: as a circle they, the transport and
            # the scope would stay until the garbage collector finds them
            self.session = None
            self.data_received = _nobody_listens
            self._server.connection_lost(self)

    # WebSocketPort

    def accept(self, subprotocol: object, headers: Iterable[tuple[bytes, bytes]]) -> Deflate | None:
        server, handshake = self._server, self._handshake
        assert handshake is not None
        default_headers: DefaultHeaders = server.default_headers
        if handshake.request_id:
            default_headers = IdentifiedHeaders(server.default_headers)
            headers = default_headers.identify(handshake.request_id, headers)
        head, deflate = handshake.accept(
            subprotocol=subprotocol,
            headers=headers,
            default_headers=default_headers,
            deflate=server.deflate,
        )
        self._handshake = None
        server.output.write(self, head)
        if handshake.accepted_at:
            server.counts.handshake.observe(time.monotonic() - handshake.accepted_at)
        return deflate

    def deny(self, status: int) -> None:
        request_id = self._request_id
        extra = ((HEADER, request_id),) if request_id else ()
        self._server.output.write(self, error_response(status, phrase(status).decode(), extra))

    def denial_port(self, done: Callable[[], None]) -> DenialPort:
        write = functools.partial(self._server.output.write, self)
        return DenialPort(write, self._server.default_headers, done, self._request_id)

    @property
    def _request_id(self) -> bytes:
        """Until the handshake is accepted; empty where there are no ids."""
        return b"" if self._handshake is None else self._handshake.request_id

    def set_reading(self, on: bool) -> None:
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def state_changed(self) -> None:
        session = self.session
        if session is None:
            return
        server = self._server
        state = session.state
        if state is OPEN:
            self._set_deadline(server.websocket_ticks.ping)
            self._ping_at = self._deadline
            if server.websocket_ticks.has_timeouts:
                self._timeouts = WebSocketTimeouts(server.config, server.wheel)
                self._schedule_timeouts(self._timeouts)
            if self._is_draining:  # not before the 101 is written, which is about to be
                server.loop.call_soon(self.shutdown)
        elif state is CLOSING:
            self._set_deadline(server.websocket_ticks.close)
        elif state is CLOSED:
            self._end(session)
        else:  # a denial is streamed: the application has answered
            self._deadline = NEVER

    # Deadlines

    def _set_deadline(self, ticks: int) -> None:
        """So many ticks from now; NEVER: there is none."""
        if ticks == NEVER:
            self._deadline = NEVER
            return
        wheel = self._server.wheel
        self._deadline = deadline = wheel.now() + ticks
        wheel.schedule(self, deadline)

    def _schedule_timeouts(self, timeouts: WebSocketTimeouts) -> None:
        tick = timeouts.next_tick
        if tick:
            self._server.wheel.schedule(self, tick)

    def on_timer(self, tick: int) -> int:
        session = self.session
        if session is None:
            return NEVER
        next_tick = self._meet(session, tick)
        if self._timeouts is None or session.state is not OPEN:
            return next_tick
        of_timeouts = self._timeouts.on_timer(session, tick)
        return (
            min(next_tick, of_timeouts) if next_tick and of_timeouts else next_tick or of_timeouts
        )

    def _meet(self, session: WebSocketSession, tick: int) -> int:
        """The deadline of the WebSocket's state: returns the next one, or NEVER."""
        if self._deadline == NEVER:
            return NEVER
        if tick < self._deadline:  # it was put off
            return self._deadline
        if session.state is OPEN:
            return self._keep_alive(session, tick)
        if session.state is CONNECTING:
            _log.error("A WebSocket was neither accepted nor denied within --ws-accept-timeout.")
            session.refuse(500)
        elif session.state is CLOSING:
            self._is_draining = False  # there is no handshake to count
            session.give_up()
        else:  # nobody reads what is still to be written
            self._transport.abort()
        return NEVER

    def _keep_alive(self, session: WebSocketSession, tick: int) -> int:
        """Ping, and see that something came back: any octet is a proof of life."""
        config, wheel = self._server.config, self._server.wheel
        if self._life_by:
            # a peer that we do not read cannot be blamed for silence
            if session.received.received_bytes != self._bytes_at_ping or session.received.is_paused:
                self._life_by = NEVER
            elif tick >= self._life_by:
                # timers may come before sockets: what the peer sent while the loop was blocked is
                # perhaps still to be read
                self._server.loop.call_later(TICK_S, self._look_again)
                self._deadline = NEVER
                return NEVER
        if tick >= self._ping_at:
            # a peer that has sent more than the answer to our last Ping is alive: it gets no Ping
            if session.received.received_bytes - self._bytes_at_ping <= _PONG_BYTES:
                if not self._life_by and config.ws_ping_timeout is not None:
                    self._life_by = wheel.after(config.ws_ping_timeout)
                session.ping()
            self._bytes_at_ping = session.received.received_bytes
            self._ping_at = wheel.after(config.ws_ping_interval or 0)
        self._deadline = min(self._ping_at, self._life_by or self._ping_at)
        return self._deadline

    def _look_again(self) -> None:
        session = self.session
        if session is None or session.state is not OPEN:
            return
        if (
            session.received.received_bytes == self._bytes_at_ping
            and not session.received.is_paused
        ):
            self._server.counts.pings_unanswered += 1
            session.close(CLOSE_INTERNAL_ERROR, "keepalive ping timeout")
            session.give_up()  # who answers no Ping will answer no Close either
        else:
            self._life_by = NEVER
            self._deadline = self._ping_at
            self._server.wheel.schedule(self, self._deadline)

    # The end

    def shutdown(self) -> None:
        """The server stops: 1012 to an open WebSocket. One that waits for its application still
        gets its answer first: the client that knocked at the last moment sees no failed
        handshake.
        """
        self._is_draining = True
        session = self.session
        if session is not None and session.state is OPEN:
            session.close(CLOSE_SERVICE_RESTART, "service restart")

    def abort(self) -> None:
        try:
            self._flush()
        finally:
            self._transport.abort()

    def _flush(self) -> None:
        if self.session is not None:
            self.session.flush()
        self._server.output.flush_one(self)

    def _end(self, session: WebSocketSession) -> None:
        self._flush()
        if self._is_draining and session.close_code != CLOSE_ABNORMAL:
            self._server.drained.handshakes += 1
        if session.closed_by == "server" and not self._transport.is_closing():
            # the peer broke a rule, or never answered: it may be sending still
            linger = LingeringClose(self._transport, self._server.wheel, self._lingered)
            self._server.wheel.cancel(self)
            linger.start()
        else:
            if not self._transport.is_closing():  # asyncio's TLS has no size after a second close()
                self._transport.close()
            if self._transport.get_write_buffer_size():
                self._set_deadline(self._server.websocket_ticks.close)

    def _lingered(self) -> None:
        self.connection_lost(None)
