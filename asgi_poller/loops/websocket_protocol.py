"""The socket of one WebSocket, from the handshake on: an asyncio protocol between the transport and
the WebSocket.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.request_id import HEADER
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.loops.denial_port import DenialPort
from asgi_poller.loops.identified_responses import IdentifiedHeaders
from asgi_poller.loops.lingering_close import LingeringClose
from asgi_poller.loops.server_state import ServerState
from asgi_poller.loops.websocket_connection import WebSocketConnection
from asgi_poller.protocols.http1.response import DefaultHeaders, phrase
from asgi_poller.protocols.websocket.handshake import Handshake
from asgi_poller.protocols.websocket.permessage_deflate import Deflate

_DEFAULT_SEND_LIMIT = 65536  # octets: the high-water mark that event loops set by themselves


def _nobody_listens(data: bytes) -> None:
    """For what a transport may still read while it closes."""


class WebSocketProtocol(WebSocketConnection):
    """Takes a transport over from its HttpProtocol at the upgrade. Like that one it has an
    asyncio.Protocol's methods and not the class.
    """

    __slots__ = ("_transport", "data_received")

    # Between the transport and the WebSocket stands nothing: this and `write` are the other side's
    # own methods.
    data_received: Callable[[bytes], None]

    def __init__(
        self, transport: asyncio.Transport, server: ServerState, handshake: Handshake
    ) -> None:
        super().__init__(server, handshake, transport.write)
        self._transport = transport

    def start(self, session: WebSocketSession) -> None:
        """To be called before `set_protocol`."""
        self.data_received = session.received.feed
        super().start(session)
        send_limit_bytes = self._server.config.ws_send_limit
        if send_limit_bytes != _DEFAULT_SEND_LIMIT:
            self._transport.set_write_buffer_limits(send_limit_bytes)

    # asyncio.Protocol, with `pause_writing` and `resume_writing`

    def eof_received(self) -> bool:
        self._flush()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        try:
            self._end_session()
        finally:  # whatever happens here, the server's books are to be right
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

    def set_reading(self, on: bool) -> None:
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # The end

    def _cut_off(self) -> None:
        self._transport.abort()

    def _close(self, session: WebSocketSession) -> None:
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
