"""What the connection of a WebSocket does, whatever version of HTTP it came over: the handshake's
deadline, pings, timeouts, shutdown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.asgi.websocket_context import CLOSED, CLOSING, CONNECTING, OPEN
from asgi_poller.loops.server_state import ServerState
from asgi_poller.loops.timer_wheel import NEVER, TICK_S
from asgi_poller.loops.websocket_timeouts import WebSocketTimeouts
from asgi_poller.protocols.websocket.frames import (
    CLOSE_ABNORMAL,
    CLOSE_INTERNAL_ERROR,
    CLOSE_SERVICE_RESTART,
)
from asgi_poller.protocols.websocket.handshake import Handshake

_log = logging.getLogger("asgi_poller.error")

_PONG_BYTES = 6  # header and mask of one without a payload, the answer to our Pings


class WebSocketConnection:
    """Half of a WebSocketPort: `WebSocketProtocol` adds a transport of its own to it,
    `Http2WebSocket` a stream. Owned by the loop's thread.

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
        "session",
        "timer_tick",
        "write",
    )

    is_websocket = True

    write: Callable[[bytes | bytearray], None]  # of what is below: nothing stands between

    def __init__(
        self,
        server: ServerState,
        handshake: Handshake,
        write: Callable[[bytes | bytearray], None],
    ) -> None:
        self.write = write
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
        """The WebSocket waits for its application."""
        self.session = session
        server = self._server
        ticks = server.websocket_ticks
        if ticks.accept:
            now = server.wheel.now()
            self._deadline = now + ticks.accept
            # Nearly every WebSocket is accepted at once. Scheduled early enough for its first ping,
            # it need not be scheduled again then.
            is_ping_first = 0 < ticks.ping < ticks.accept
            server.wheel.schedule(self, now + (ticks.ping if is_ping_first else ticks.accept))

    # What each version has its own way for

    def _cut_off(self) -> None:
        """End now; what is still to be written is lost."""
        raise NotImplementedError

    def _close(self, session: WebSocketSession) -> None:
        """The WebSocket has ended: end what is below, once all is written."""
        raise NotImplementedError

    # Flow control

    def pause_writing(self) -> None:
        """More than --ws-send-limit waits for the peer."""
        if self._timeouts is not None:
            self._timeouts.fall_behind()
            self._schedule_timeouts(self._timeouts)
        session = self.session
        if session is not None:
            if session.state is OPEN:
                self._server.counts.slow_consumers += 1
            session.block_writing()

    def resume_writing(self) -> None:
        """Enough of it has gone."""
        if self._timeouts is not None:
            self._timeouts.catch_up()
        if self.session is not None:
            self.session.unblock_writing()

    # WebSocketPort

    @property
    def _request_id(self) -> bytes:
        """Until the handshake is accepted; empty where there are no ids."""
        return b"" if self._handshake is None else self._handshake.request_id

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
            if self._is_draining:  # not before the answer is written, which is about to be
                server.loop.call_soon(self.shutdown)
        elif state is CLOSING:
            self._set_deadline(server.websocket_ticks.close)
        elif state is CLOSED:
            self._flush()
            if self._is_draining and session.close_code != CLOSE_ABNORMAL:
                server.drained.handshakes += 1
            self._close(session)
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
            self._cut_off()
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
        """End now, with what was said before."""
        try:
            self._flush()
        finally:
            self._cut_off()

    def _flush(self) -> None:
        if self.session is not None:
            self.session.flush()
        self._server.output.flush_one(self)

    def _end_session(self) -> None:
        """What is below has ended."""
        self._server.wheel.cancel(self)
        self._server.output.discard(self)
        self._is_draining = False
        try:
            if self.session is not None:
                self.session.connection_lost()
        finally:
            # the WebSocket has this connection for its port: as a circle they, the transport and
            # the scope would stay until the garbage collector finds them
            self.session = None
