"""The socket of one WebSocket, from the handshake on: an asyncio protocol between the transport and
the channel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.websocket import Channel
from asgi_poller.asgi.websocket_context import CLOSED, CLOSING, CONNECTING, OPEN
from asgi_poller.loops.denial_port import DenialPort
from asgi_poller.loops.lingering_close import Linger
from asgi_poller.loops.server_state import Services
from asgi_poller.loops.timer_wheel import NEVER, TICK_S
from asgi_poller.loops.websocket_timeouts import ChannelTerm, channel_term
from asgi_poller.protocols.http1.response import phrase
from asgi_poller.protocols.websocket.frames import CLOSE_INTERNAL_ERROR, CLOSE_SERVICE_RESTART
from asgi_poller.protocols.websocket.handshake import Handshake
from asgi_poller.protocols.websocket.permessage_deflate import Deflate

_log = logging.getLogger("asgi_poller.error")

_PONG_OCTETS = 6  # header and mask of one without a payload, the answer to our Pings
_DEFAULT_SEND_LIMIT = 65536  # octets: the high-water mark that event loops set by themselves


def _nobody_listens(data: bytes) -> None:
    """For what a transport may still read while it closes."""


class ChannelConnection(asyncio.Protocol):
    """Takes a transport over from its HttpConnection at the upgrade. Owned by the core's thread.

    It hangs on the wheel once, with whichever deadline its channel's state has: accept, ping or
    pong, close.
    """

    __slots__ = (
        "_core",
        "_deadline",
        "_handshake",
        "_is_draining",
        "_life_by",
        "_octets_at_ping",
        "_ping_at",
        "_term",
        "_transport",
        "channel",
        "data_received",
        "timer_tick",
        "write",
    )

    is_channel = True

    # Between the transport and the channel stands nothing: these two are the other side's own
    # methods.
    data_received: Callable[[bytes], None]  # type: ignore[assignment]  # a slot, not a method
    write: Callable[[bytes], None]

    def __init__(self, transport: asyncio.Transport, core: Services, handshake: Handshake) -> None:
        self._transport = transport
        self.write = transport.write
        self._core = core
        self._handshake: Handshake | None = handshake  # until it is accepted
        self.channel: Channel | None = None
        self._deadline = NEVER  # of the channel's state
        self._ping_at = NEVER  # the next one
        # By when the peer must have sent something, and what it had sent when that was decided, at
        # the first Ping since it was last heard. NEVER: it need not.
        self._life_by = NEVER
        self._octets_at_ping = 0
        self._term: ChannelTerm | None = None
        self._is_draining = False  # the server stops: closed as soon as it is open
        self.timer_tick = NEVER

    def start(self, channel: Channel) -> None:
        """The channel waits for its application. To be called before `set_protocol`."""
        self.channel = channel
        self.data_received = channel.inbox.feed
        settings, wheel = self._core.channel_settings, self._core.wheel
        accept_s, ping_s = settings.accept_timeout_s, settings.ping_interval_s
        if accept_s is not None:
            self._deadline = wheel.after(accept_s)
            # Nearly every channel is accepted at once. Hung early enough for its first ping, it
            # need not be hung anew then.
            first = self._deadline if ping_s is None else min(self._deadline, wheel.after(ping_s))
            wheel.hang(self, first)
        if settings.send_limit != _DEFAULT_SEND_LIMIT:
            self._transport.set_write_buffer_limits(settings.send_limit)

    # asyncio.Protocol

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._term is not None:
            self._term.fall_behind()
            self._hang_term(self._term)
        if self.channel is not None:
            self.channel.block_writing()

    def resume_writing(self) -> None:
        if self._term is not None:
            self._term.catch_up()
        if self.channel is not None:
            self.channel.unblock_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._core.wheel.drop(self)
        try:
            if self.channel is not None:
                self.channel.connection_lost()
        finally:  # whatever happens here, the server's books are to be right
            # the channel has this connection for its port: as a circle they, the transport and the
            # scope would stay until the garbage collector finds them
            self.channel = None
            self.data_received = _nobody_listens
            self._core.connection_lost(self)

    # ChannelPort

    def accept(
        self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]
    ) -> Deflate | None:
        core, handshake = self._core, self._handshake
        assert handshake is not None
        head, deflate = handshake.accept(
            subprotocol=subprotocol,
            headers=headers,
            default_fields=core.default_fields,
            deflate=core.deflate,
        )
        self._handshake = None
        self.write(head)
        return deflate

    def deny(self, status: int) -> None:
        self.write(error_response(status, phrase(status).decode()))

    def denial_port(self, done: Callable[[], None]) -> DenialPort:
        return DenialPort(self.write, self._core.default_fields, done)

    def set_reading(self, on: bool) -> None:
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def state_changed(self) -> None:
        channel = self.channel
        if channel is None:
            return
        settings = self._core.channel_settings
        state = channel.state
        if state is OPEN:
            self._await(settings.ping_interval_s)
            self._ping_at = self._deadline
            self._term = channel_term(settings, self._core.wheel)
            if self._term is not None:
                self._hang_term(self._term)
            if self._is_draining:  # not before the 101 is written, which is about to be
                self._core.loop.call_soon(self.shutdown)
        elif state is CLOSING:
            self._await(settings.close_timeout_s)
        elif state is CLOSED:
            self._end(channel)
        else:  # a denial is streamed: the application has answered
            self._deadline = NEVER

    # Deadlines

    def _await(self, seconds: float | None) -> None:
        wheel = self._core.wheel
        if seconds is None:
            self._deadline = NEVER
            return
        self._deadline = wheel.after(seconds)
        wheel.hang(self, self._deadline)

    def _hang_term(self, term: ChannelTerm) -> None:
        tick = term.next_tick
        if tick:
            self._core.wheel.hang(self, tick)

    def on_timer(self, tick: int) -> int:
        channel = self.channel
        if channel is None:
            return NEVER
        next_tick = self._meet(channel, tick)
        if self._term is None or channel.state is not OPEN:
            return next_tick
        of_term = self._term.on_timer(channel, tick)
        return min(next_tick, of_term) if next_tick and of_term else next_tick or of_term

    def _meet(self, channel: Channel, tick: int) -> int:
        """The deadline of the channel's state: returns the next one, or NEVER."""
        if self._deadline == NEVER:
            return NEVER
        if tick < self._deadline:  # it was put off
            return self._deadline
        if channel.state is OPEN:
            return self._keep_alive(channel, tick)
        if channel.state is CONNECTING:
            _log.error("A WebSocket was neither accepted nor denied within --ws-accept-timeout.")
            channel.refuse(500)
        elif channel.state is CLOSING:
            channel.give_up()
        else:  # nobody reads what is still to be written
            self._transport.abort()
        return NEVER

    def _keep_alive(self, channel: Channel, tick: int) -> int:
        """Ping, and see that something came back: any octet is a proof of life."""
        settings, wheel = self._core.channel_settings, self._core.wheel
        if self._life_by:
            # a peer that we do not read cannot be blamed for silence
            if channel.inbox.received_octets != self._octets_at_ping or channel.inbox.is_paused:
                self._life_by = NEVER
            elif tick >= self._life_by:
                # timers may come before sockets: what the peer sent while the loop was blocked is
                # perhaps still to be read
                self._core.loop.call_later(TICK_S, self._look_again)
                self._deadline = NEVER
                return NEVER
        if tick >= self._ping_at:
            # a peer that has sent more than the answer to our last Ping is alive: it gets no Ping
            if channel.inbox.received_octets - self._octets_at_ping <= _PONG_OCTETS:
                if not self._life_by and settings.ping_timeout_s is not None:
                    self._life_by = wheel.after(settings.ping_timeout_s)
                channel.ping()
            self._octets_at_ping = channel.inbox.received_octets
            self._ping_at = wheel.after(settings.ping_interval_s or 0)
        self._deadline = min(self._ping_at, self._life_by or self._ping_at)
        return self._deadline

    def _look_again(self) -> None:
        channel = self.channel
        if channel is None or channel.state is not OPEN:
            return
        if channel.inbox.received_octets == self._octets_at_ping and not channel.inbox.is_paused:
            channel.close(CLOSE_INTERNAL_ERROR, "keepalive ping timeout")
            channel.give_up()  # who answers no Ping will answer no Close either
        else:
            self._life_by = NEVER
            self._deadline = self._ping_at
            self._core.wheel.hang(self, self._deadline)

    # The end

    def shutdown(self) -> None:
        """The server stops: 1012 to an open channel. One that waits for its application still gets
        its answer first: the client that knocked at the last moment sees no failed handshake.
        """
        self._is_draining = True
        channel = self.channel
        if channel is not None and channel.state is OPEN:
            channel.close(CLOSE_SERVICE_RESTART, "service restart")

    def abort(self) -> None:
        self._transport.abort()

    def _end(self, channel: Channel) -> None:
        if channel.closed_by == "server" and not self._transport.is_closing():
            # the peer broke a rule, or never answered: it may be sending still
            linger = Linger(self._transport, self._core.wheel, self._lingered)
            self._core.wheel.drop(self)
            linger.start()
        else:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._await(self._core.channel_settings.close_timeout_s)

    def _lingered(self) -> None:
        self.connection_lost(None)
