"""One HTTP/2 stream that is a WebSocket (RFC 8441): between its session and its connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from asgi_poller.asgi.error_response import error_fields
from asgi_poller.asgi.request_id import HEADER
from asgi_poller.asgi.response_port import ResponsePort
from asgi_poller.asgi.topics_port import SESSION
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.loops.http2_denial_port import Http2DenialPort
from asgi_poller.loops.http2_output import Http2Output
from asgi_poller.loops.http2_stream import Http2Owner
from asgi_poller.loops.timer_wheel import NEVER
from asgi_poller.loops.websocket_connection import WebSocketConnection
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import phrase
from asgi_poller.protocols.http2.frames import CANCEL, INTERNAL_ERROR, NO_ERROR
from asgi_poller.protocols.http2.responses import response_fields
from asgi_poller.protocols.websocket.handshake import Handshake, check_connect, check_own_fields
from asgi_poller.protocols.websocket.permessage_deflate import Deflate

_log = logging.getLogger("asgi_poller.error")

_CREDIT_PARTS: Final = 4  # the window is opened again when such a part of it is used
_HELD_BYTES: Final = 16384  # of what waits, given to the WebSocket at a time
_PEER_END_S: Final = 2.0  # for the peer's END_STREAM after ours


class Http2WebSocket(WebSocketConnection):
    """A WebSocketPort, and a stream for its Http2Protocol. Owned by the loop's thread.

    END_STREAM is what the end of a TCP connection is in HTTP/1.1, RST_STREAM with CANCEL what a
    reset is (RFC 8441, 5). While the WebSocket is not read its window is not opened; what the
    window lets in meanwhile waits here.
    """

    __slots__ = (
        "_connection",
        "_credit_bytes",
        "_has_head",
        "_has_left",
        "_held",
        "_is_ended",
        "_is_peer_done",
        "_is_reading",
        "_is_sent",
        "_output",
        "_task",
        "_uncredited_bytes",
        "id",
    )

    def __init__(self, connection: Http2Owner, stream_id: int, handshake: Handshake) -> None:
        server = connection.server
        self.id = stream_id
        self._connection = connection
        self._output = Http2Output(
            connection,
            stream_id,
            self._block,
            self._all_sent,
            high_bytes=server.config.ws_send_limit,
        )
        super().__init__(server, handshake, self._output.write)
        self._held: bytearray | None = None  # what came while the WebSocket was not read
        window_bytes = server.config.http2_initial_stream_window_size
        self._credit_bytes = window_bytes // _CREDIT_PARTS
        self._uncredited_bytes = 0
        self._is_reading = True
        self._has_head = False  # the handshake is answered
        self._is_ended = False  # we say nothing more
        self._is_sent = False  # and all of it is on its way
        self._is_peer_done = False  # nor does the peer
        self._has_left = False
        self._task: asyncio.Task[None] | None = None  # the application's

    # The connection's side

    def run(self, session: WebSocketSession) -> None:
        """Call the application."""
        self._server.websocket_made(self)
        self.start(session)
        self._task = self._server.run(session)

    def feed(self, data: bytes, window_bytes: int) -> None:
        """A piece of the frames."""
        self._uncredited_bytes += window_bytes - len(data)  # padding
        if not self._is_reading or self._held is not None:
            if self._held is None:
                self._held = bytearray()
            self._held += data
        else:
            self._take(data)

    def feed_end(self) -> None:
        """The peer's END_STREAM. Idempotent."""
        if self._is_peer_done:
            return
        self._is_peer_done = True
        if self._held is None:
            self._on_peer_end()

    def pump(self, pieces: int) -> bool:
        """Send what there is room for now, so many pieces at most; whether something was."""
        return self._output.pump(pieces)

    def was_reset(self) -> None:
        """The stream has ended without an end, or with its connection."""
        self._forget()

    # WebSocketPort

    def accept(self, subprotocol: object, headers: Iterable[tuple[bytes, bytes]]) -> Deflate | None:
        server, handshake = self._server, self._handshake
        assert handshake is not None
        agreed, deflate = handshake.agree(subprotocol, server.deflate)
        given = response_fields(headers)
        check_own_fields(given)
        names = {name for name, _ in given}
        fields = [
            (b":status", b"200"),
            *((name.lower(), value) for name, value in agreed),
            # of a CONNECT's 200 there is no length (RFC 9110, 9.3.6)
            *(field for field in given if field[0] != b"content-length"),
            *server.default_headers.fields(names),
        ]
        if handshake.request_id and HEADER not in names:
            fields.append((HEADER, handshake.request_id))
        self._handshake = None
        self.send_head(fields)
        return deflate

    def deny(self, status: int) -> None:
        request_id = self._request_id
        extra = ((HEADER, request_id),) if request_id else ()
        fields, body = error_fields(status, phrase(status).decode(), extra)
        self.send_head(fields)
        self.send_body(body, is_last=True)

    def denial_port(self, done: Callable[[], None]) -> ResponsePort:
        default_fields = self._server.default_headers.fields
        return Http2DenialPort(self, default_fields, done, self._request_id)

    def set_reading(self, on: bool) -> None:
        self._is_reading = on
        if on:
            if self._held is not None:
                self._server.loop.call_soon(self._take_held)
            self._credit()

    # For its denial

    def send_head(self, fields: list[tuple[bytes, bytes]]) -> None:
        """The answer to the handshake."""
        self._server.output.answered()
        self._has_head = True
        self._connection.http2.send_head(self.id, fields, is_last=False)
        self._connection.wrote(0)

    def send_body(self, body: bytes, *, is_last: bool) -> None:
        """A piece of an answer that is not 200."""
        self._is_ended = is_last
        self._output.write(body, is_last=is_last)

    def break_off(self) -> None:
        """An answer that cannot be completed."""
        self._is_ended = True
        self._server.loop.call_soon(self._reset, INTERNAL_ERROR)

    # What comes

    def _take(self, data: bytes) -> None:
        session = self.session
        if session is None or self._is_ended:
            return
        try:
            session.received.feed(data)
        except Exception:  # the other streams have nothing to do with it
            _log.exception("A WebSocket failed while its messages were read, and is cut off.")
            self.abort()
            return
        self._uncredited_bytes += len(data)
        self._credit()

    def _take_held(self) -> None:
        held = self._held
        while held and self._is_reading:
            piece = bytes(held[:_HELD_BYTES])
            del held[:_HELD_BYTES]
            self._take(piece)
        if not held and self._held is not None:
            self._held = None
            if self._is_peer_done:
                self._on_peer_end()

    def _credit(self) -> None:
        """Open the window again as far as it is used, in portions, while the WebSocket is read."""
        used = self._uncredited_bytes
        if used >= self._credit_bytes and self._is_reading and not self._is_peer_done:
            self._uncredited_bytes = 0
            self._connection.http2.credit(self.id, used)
            self._connection.wrote(0)

    def _on_peer_end(self) -> None:
        """Without a Close before it that is a 1006 (RFC 6455, 7.1.5)."""
        if self._is_sent:
            self._leave_soon()
        elif not self._has_head:
            self._reset(CANCEL)
        elif not self._is_ended:
            self._flush()
            self._end_session()
            self._say_end()

    # What is sent

    def _block(self, on: bool) -> None:
        if on:
            self.pause_writing()
        else:
            self.resume_writing()

    def _close(self, session: WebSocketSession) -> None:
        self._say_end()

    def _say_end(self) -> None:
        if self._has_left:
            return
        if not self._is_ended:
            self._is_ended = True
            self._output.write(b"", is_last=True)
        if not self._is_sent:
            self._set_deadline(self._server.websocket_ticks.close)

    def _all_sent(self) -> None:
        """With our END_STREAM. The peer's is waited for a while, for its last frames may be on
        their way.
        """
        self._is_sent = True
        if self._is_peer_done or self._handshake is not None or self._is_draining:
            self._leave_soon()
        else:
            self._set_deadline(self._server.wheel.ticks(_PEER_END_S))

    def on_timer(self, tick: int) -> int:
        if not self._is_ended:
            return super().on_timer(tick)
        if self._deadline == NEVER or tick < self._deadline:
            return self._deadline
        self._reset(NO_ERROR if self._is_sent else CANCEL)
        return NEVER

    # The end

    def _cut_off(self) -> None:
        self._reset(CANCEL)

    def _leave_soon(self) -> None:
        """Not while the session is in the midst of something."""
        self._server.loop.call_soon(self._leave)

    def _leave(self) -> None:
        """Both sides have said all; or the peer need not say anything (RFC 9113, 8.1)."""
        if not self._is_peer_done:
            self._reset(NO_ERROR)
        elif not self._has_left:
            self._connection.http2.close_stream(self.id)
            self._forget()
            self._connection.stream_ended(self.id)

    def _reset(self, code: int) -> None:
        if not self._has_left:
            self._connection.http2.reset(self.id, code)
            self._connection.wrote(0)
            self._forget()
            self._connection.stream_ended(self.id)

    def _forget(self) -> None:
        if self._has_left:
            return
        self._has_left = self._is_ended = True
        self._held = None
        task, self._task = self._task, None
        self._connection.abandon(task)
        try:
            self._end_session()
        finally:  # whatever happens here, the server's books are to be right
            self._output.close()
            self._server.websocket_lost(self)


def open_websocket(
    connection: Http2Owner, stream_id: int, head: RequestHead
) -> tuple[Http2WebSocket, WebSocketSession]:
    """The WebSocket that `head` asks for, which is to `run`.

    Raises HttpFault, and changes nothing, for a handshake that is not valid or not to be served.
    """
    server = connection.server
    handshake = check_connect(head)
    scope = server.scopes.websocket(head, connection.peer, handshake.subprotocols)
    if server.scopes.id_proxies is not None:
        handshake.request_id = head.request_id
    websocket = Http2WebSocket(connection, stream_id, handshake)
    session = WebSocketSession(scope, websocket, server.websocket_context)
    server.admit_stream(head)
    scope[SESSION] = session
    return websocket, session
