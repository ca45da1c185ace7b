"""An asyncio protocol between the transport of one HTTP/1.1 client and its exchanges."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence

from asgi_poller.asgi.http import HttpExchange
from asgi_poller.asgi.scope import Peer
from asgi_poller.errors import HttpFault
from asgi_poller.loops.http_phase import BUSY, ENDING, HEAD, IDLE, SILENT, UPGRADING, Phase
from asgi_poller.loops.http_responses import HttpResponses
from asgi_poller.loops.identified_responses import responses_of
from asgi_poller.loops.lingering_close import LingeringClose
from asgi_poller.loops.server_state import ServerState
from asgi_poller.loops.timer_wheel import NEVER
from asgi_poller.loops.upgrade import upgrade
from asgi_poller.protocols.http1.parser import END, RequestEvent, RequestHead, RequestParser
from asgi_poller.protocols.http2.frames import PREFACE
from asgi_poller.settings.http2 import ONLY_HTTP2

_log = logging.getLogger("asgi_poller.error")

_LAST_REQUEST_S = 1.0  # while draining: for the head of a request that is on its way
# of a request's body after its response: who sends more, or longer, is cut off
_DISCARD_S = 10.0
_DISCARD_BYTES = 16 * 1024 * 1024


class HttpProtocol:
    """One client. Requests are answered in order, one exchange at a time (RFC 9112, 9.3.2).

    An asyncio.Protocol by its methods: loops ask for no more, and a compiled class cannot inherit
    from one that is not. Owned by the loop's thread. What the parser makes beyond the exchange at
    hand waits in `_backlog`, and the socket is not read meanwhile.
    """

    is_websocket = False
    __slots__ = (
        "_backlog",
        "_deadline",
        "_discarded_bytes",
        "_early",
        "_exchange",
        "_is_body_open",
        "_is_choked",
        "_is_draining",
        "_is_reading",
        "_parser",
        "_peer",
        "_phase",
        "_responses",
        "_server",
        "_transport",
        "_unsent_bytes",
        "timer_tick",
    )
    _transport: asyncio.Transport  # from connection_made on

    def __init__(self, server: ServerState, peer: Peer, early: bytes, parser: RequestParser | None):
        self._server = server
        self._peer = peer
        self._early = early  # what a poller has already read, and parsed if it gives its parser
        self._parser = parser or server.request_parser()
        self._responses: HttpResponses | None = None  # made for the first request or refusal
        self._exchange: HttpExchange | None = None  # the one whose response is not complete
        self._is_body_open = False  # the request last taken from the parser has more to come
        self._backlog: list[RequestEvent | HttpFault] = []
        self._unsent_bytes = 0  # when it was last looked whether the peer reads
        self._deadline = NEVER
        self._discarded_bytes = 0  # of a body whose response is complete
        self._is_reading = True
        self._is_choked = False  # the peer does not read what is written for it
        self._is_draining = False  # the server stops: no further request
        self._phase: Phase = SILENT
        self.timer_tick = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._server
        self._transport = transport  # type: ignore[assignment]  # typed as its base
        self._deadline = deadline = server.wheel.now() + server.first_octet_ticks
        server.wheel.schedule(self, deadline)
        server.connection_made(self)
        if self._peer.scheme == "https":
            server.note_tls(self._peer, transport)
        early, self._early = self._early, b""
        if self._parser.events:  # a poller has parsed what is there
            self._take(self._parser.events)
            if self._is_body_open:
                self._await_body()
        elif early:
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        phase = self._phase
        if phase is ENDING:
            return
        if phase is UPGRADING:
            parser.leftover = (parser.leftover or b"") + data
            return
        if phase is SILENT and self._server.http2_limits is not None:
            data = self._look_for_http2(data)
            if not data:
                return
        try:
            events = parser.receive(data)
        except HttpFault as fault:
            self._take([*parser.events, fault])
            return
        if events:
            self._take(events)
            if self._is_body_open:
                self._await_body()
        elif parser.is_mid_head and self._phase in (IDLE, SILENT):
            self._phase = HEAD
            self._set_deadline(self._server.config.timeout_request_header)

    def _look_for_http2(self, data: bytes) -> bytes:
        """A client with prior knowledge sends HTTP/2's preface (RFC 9113, 3.3). What is to be read
        as HTTP/1.1; nothing while it may still become one or the other.
        """
        data, self._early = self._early + data, b""
        if data.startswith(PREFACE):
            from asgi_poller.loops.http2_protocol import Http2Protocol

            self._server.wheel.cancel(self)
            self._leave()
            Http2Protocol(self._server, self._peer, data).take_over(self, self._transport)
            return b""
        if not PREFACE.startswith(data):
            if self._server.config.http == "2":
                self._refuse(HttpFault(505, ONLY_HTTP2))
                return b""
            return data
        if not self._early:
            self._set_deadline(self._server.config.timeout_request_header)
        self._early = data
        return b""

    def eof_received(self) -> bool:
        """The peer sends no more. As uvicorn, take it for the end (RFC 9112, 9.6: it may wait)."""
        if self._responses is not None:
            self._responses.flush()
        return False

    def pause_writing(self) -> None:
        self._is_choked = True
        self._watch_writing()
        if self._exchange is not None:
            self._exchange.block_writing()

    def resume_writing(self) -> None:
        self._is_choked = False
        if self._exchange is not None:
            self._exchange.unblock_writing()
            self._await_body()
        elif self._backlog:  # the next request has waited for this
            self._server.loop.call_soon(self._next)
        elif self._phase is BUSY:
            self._idle()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.wheel.cancel(self)
        exchange, self._exchange = self._exchange, None
        try:
            if exchange is not None:
                exchange.disconnect()
        finally:  # whatever happens here, the server's books are to be right
            self._backlog = []
            self._leave()
            self._server.connection_lost(self)

    def _leave(self) -> None:
        """Take part in nothing any more, and hold what holds this no longer."""
        self._phase = ENDING
        if self._responses is not None:
            self._responses.close()
        self._parser.close()

    # Requests

    def _take(self, events: Sequence[RequestEvent | HttpFault]) -> None:
        """Give events to the exchange at hand, start exchanges; what must wait for a response goes
        to the backlog. A fault is the last of them.
        """
        if self._backlog:
            self._backlog += events
            return
        for at, event in enumerate(events):
            if self._phase is ENDING:  # nothing that follows may reach the application
                return
            if isinstance(event, RequestHead):
                if self._exchange is not None:
                    self._wait_behind(events[at:])
                    return
                if event.upgrade:  # nothing but its END is left, and that is not for us
                    self._upgrade(event)
                    return
                self._start(event)
            elif event is END:
                self._is_body_open = False
                if self._exchange is not None:
                    self._exchange.feed_end()
                else:
                    self._idle()
            elif isinstance(event, HttpFault):
                self._take_fault(event)
            elif self._exchange is not None:
                self._exchange.feed(event)
            else:  # a body that goes on after its response
                self._discarded_bytes += len(event)
                if self._discarded_bytes > _DISCARD_BYTES:
                    self._end(linger=False)

    def _take_fault(self, fault: HttpFault) -> None:
        """A request is broken. Those before it are answered first; then the connection ends."""
        exchange = self._exchange
        if exchange is None:
            if self._is_body_open:  # it has been answered, and not with this
                self._end(linger=True)
            else:
                self._refuse(fault)
        elif self._is_body_open:
            exchange.refuse(fault.status, fault.detail)
        else:
            self._wait_behind([fault])

    def _wait_behind(self, events: Sequence[RequestEvent | HttpFault]) -> None:
        """The exchange at hand comes first; nothing is read until these have had their turn."""
        self._backlog = list(events)
        self._port().is_joining = True
        self._read(False)
        if self._parser.leftover is not None:
            self._phase = UPGRADING

    def _start(self, head: RequestHead) -> None:
        server = self._server
        self._peer.accepted_at = 0.0  # a WebSocket that comes after this did not wait since then
        self._deadline = NEVER
        self._phase = BUSY
        self._is_body_open = True
        if self._is_draining:
            head.keep_alive = False
        scope = server.scopes.http(head, self._peer)
        port = self._responses or self._port()
        exchange = self._exchange = HttpExchange(head, scope, port, server.http_context)
        if self._is_choked:
            exchange.block_writing()
        if server.is_guarded:
            fault = server.objection(head)
            if fault is not None:
                exchange.refuse(fault.status, fault.detail)
                return
        server.run(exchange)

    def _upgrade(self, head: RequestHead) -> None:
        """Leave HTTP behind; the responses to requests before this one are written first."""
        if self._responses is not None:
            self._responses.flush()
        self._read(True)
        try:
            upgrade(
                self._server,
                head,
                old=self,
                peer=self._peer,
                transport=self._transport,
                is_choked=self._is_choked,
                leftover=self._parser.leftover or b"",
                is_draining=self._is_draining,
            )
        except HttpFault as fault:
            self._refuse(fault)
            return
        self._server.wheel.cancel(self)
        self._leave()

    def _refuse(self, fault: HttpFault) -> None:
        """Answer a broken request, to which there is no exchange, and end the connection."""
        self._port().refuse_broken(fault)
        self._end(linger=True)

    # For its responses

    def _port(self) -> HttpResponses:
        if self._responses is None:
            self._responses = responses_of(self, self._peer, self._transport, self._server)
        return self._responses

    def set_reading(self, on: bool) -> None:
        self._read(on and not self._backlog)
        self._await_body()

    def response_ended(self, keep_alive: bool) -> None:
        self._exchange = None
        if not keep_alive or self._is_draining:
            # unread octets at the end would destroy what the peer is still to read
            self._end(linger=self._is_body_open or not self._is_reading)
        elif self._is_choked:
            self._read(False)  # a peer that does not read responses gets no further ones
        elif self._backlog:
            self._server.loop.call_soon(self._next)
        else:
            self._idle()

    def file_begins(self) -> None:
        self._deadline = NEVER
        self._watch_writing()

    def file_ended(self) -> None:
        if not self._is_choked:
            self._deadline = NEVER
            self._await_body()

    def _file_left_bytes(self) -> int:
        return 0 if self._responses is None else self._responses.file_left_bytes

    def abort(self) -> None:
        try:
            self._port().flush()
        finally:
            self._transport.abort()

    # Between requests

    def _next(self) -> None:
        """Go on with what was read while the last exchange was under way."""
        if self._exchange is not None or self._is_choked or self._phase is ENDING:
            return
        events, self._backlog = self._backlog, []
        self._port().is_joining = False
        self._take(events)
        if not self._backlog:
            self._read(True)
            self._await_body()

    def _idle(self) -> None:
        """Wait for the next request, or for the rest of one that was answered early."""
        if not self._is_reading:
            self._read(True)
        self._phase = IDLE
        server = self._server
        if self._is_body_open:
            self._discarded_bytes = 0
            self._set_deadline(_DISCARD_S)
            return
        scheduled_at = self.timer_tick
        if scheduled_at:  # then the wheel turns, and its tick is now
            self._deadline = deadline = server.wheel.tick + server.keep_alive_ticks
            if scheduled_at <= deadline:
                return
        self._set_deadline(server.config.timeout_keep_alive)

    def _read(self, on: bool) -> None:
        if self._is_reading is not on:
            self._is_reading = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # Deadlines and the end

    def _set_deadline(self, seconds: float) -> None:
        wheel = self._server.wheel
        self._deadline = deadline = wheel.after(seconds)
        wheel.schedule(self, deadline)

    def _await_body(self) -> None:
        """If the request at hand has more to come, wait for its next octet. The peer is not waited
        for while it may not send: while we don't read, or it waits for "100 Continue".
        """
        exchange, limit_s = self._exchange, self._server.config.timeout_request_body
        if exchange is None or limit_s is None or not self._is_body_open or self._is_choked:
            return
        if self._is_reading and not exchange.head.expects_continue and not self._file_left_bytes():
            self._set_deadline(limit_s)

    def on_timer(self, tick: int) -> int:
        if self._deadline == NEVER:
            return NEVER
        if tick < self._deadline:
            return self._deadline
        if self._is_choked or self._phase is ENDING or self._file_left_bytes():
            return self._check_writing()
        if self._phase is BUSY:
            if self._exchange is not None and self._is_body_open and self._is_reading:
                self._exchange.refuse(408, "the request body did not come in time")
        elif self._phase is HEAD and self._parser.is_mid_head:
            self._refuse(HttpFault(408, "the request head did not come in time"))
        elif self._phase in (SILENT, HEAD, IDLE):
            # nothing of a request: a browser's spare connection would take a 408 for its answer
            self._end(linger=False)
        return NEVER

    def shutdown(self) -> None:
        """The server stops: an idle connection closes now, a busy one after its response.

        A request that is on its way is waited for, for a moment. It may be the first on this
        connection, of a client who could not know and would see a failure.
        """
        self._is_draining = True
        if self._exchange is not None:
            self._exchange.end_connection()
        elif self._phase in (SILENT, HEAD):
            self._set_deadline(min(self._server.config.timeout_request_header, _LAST_REQUEST_S))
        elif self._phase is not UPGRADING:
            self._end(linger=False)

    def _end(self, *, linger: bool) -> None:
        """Nothing more will be read as a request; close once all is written."""
        if self._phase is ENDING:
            return
        self._phase = ENDING
        if self._responses is not None:
            self._responses.flush()
        if linger and not self._transport.is_closing():
            self._server.wheel.cancel(self)
            lost = functools.partial(self.connection_lost, None)
            LingeringClose(self._transport, self._server.wheel, lost).start()
        else:
            if not self._transport.is_closing():  # asyncio's TLS has no size after a second close()
                self._transport.close()
            self._watch_writing()

    def _watch_writing(self) -> None:
        """See that what waits to be written goes on its way: else the peer will never read it."""
        self._unsent_bytes = self._transport.get_write_buffer_size() + self._file_left_bytes()
        limit_s = self._server.config.timeout_write
        if self._unsent_bytes and limit_s is not None:
            self._set_deadline(limit_s)

    def _check_writing(self) -> int:
        before = self._unsent_bytes
        self._watch_writing()
        if self._unsent_bytes and self._unsent_bytes >= before:
            _log.info("Cut off %s: it reads no response (--timeout-write).", self._peer.client)
            self.abort()
            return NEVER
        return self._deadline if self._unsent_bytes else NEVER
