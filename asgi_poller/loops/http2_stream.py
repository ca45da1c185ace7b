"""One HTTP/2 stream that is a request: between its exchange and its connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from asgi_poller.asgi.error_response import error_fields
from asgi_poller.asgi.http import HttpExchange
from asgi_poller.asgi.refusal_log import note_refusal
from asgi_poller.asgi.request_id import HEADER
from asgi_poller.asgi.response_port import FilePort
from asgi_poller.asgi.scope import Peer
from asgi_poller.errors import HttpFault
from asgi_poller.loops.http2_output import Http2Output, Http2Writer
from asgi_poller.loops.server_state import ServerState
from asgi_poller.loops.timer_wheel import NEVER
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http2.frames import CANCEL, INTERNAL_ERROR, NO_ERROR
from asgi_poller.protocols.http2.responses import ResponseBody, response_fields, response_head

_log = logging.getLogger("asgi_poller.error")

_APPLICATION_FAILED = 500  # RFC 9110, 15.6.1: that is logged with its exception
_CREDIT_PARTS = 4  # the window is opened again when such a part of it is used


class Http2Owner(Http2Writer, Protocol):
    """The connection, as its streams see it."""

    @property
    def server(self) -> ServerState: ...

    @property
    def peer(self) -> Peer: ...

    def stream_ended(self, stream_id: int) -> None:
        """Both sides have said all, or the stream was reset."""

    def abandon(self, task: asyncio.Task[None] | None) -> None:
        """The stream was reset; its application may go on for a while."""


class Stream(Protocol):
    """A request or a WebSocket on this connection."""

    def feed(self, data: bytes, window_bytes: int) -> None: ...

    def feed_end(self) -> None: ...

    def pump(self, pieces: int) -> bool: ...

    def was_reset(self) -> None: ...


class Http2Stream:
    """A ResponsePort. Owned by the loop's thread.

    It ends when the response is sent and the request has come, of which the rest is refused once
    the response is sent (RFC 9113, 8.1). It is on the timer wheel while the request's body is
    waited for (--timeout-request-body), or the peer's window (--timeout-write).
    """

    __slots__ = (
        "_body",
        "_connection",
        "_deadline",
        "_exchange",
        "_is_body_open",
        "_is_reading",
        "_is_sent",
        "_output",
        "_sent_bytes",
        "_task",
        "_uncredited_bytes",
        "id",
        "timer_tick",
    )

    def __init__(self, connection: Http2Owner, stream_id: int, *, is_complete: bool) -> None:
        self.id = stream_id
        self._connection = connection
        self._exchange: HttpExchange | None = None
        self._output = Http2Output(connection, stream_id, self._block, self._all_sent)
        self._body = ResponseBody(True, None)
        self._is_body_open = not is_complete
        self._is_reading = True
        self._is_sent = False  # the whole response
        self._uncredited_bytes = 0
        self._sent_bytes = 0  # when it was last looked whether the peer reads
        self._task: asyncio.Task[None] | None = None  # the application's
        self._deadline = NEVER
        self.timer_tick = NEVER

    # The connection's side

    def start(self, head: RequestHead) -> None:
        """Call the application for the request."""
        connection = self._connection
        server = connection.server
        scope = server.scopes.http(head, connection.peer)
        exchange = self._exchange = HttpExchange(head, scope, self, server.http_context)
        if not self._is_body_open:
            exchange.feed_end()
        else:
            self._watch()
        if server.is_guarded:
            fault = server.objection(head)
            if fault is not None:
                exchange.refuse(fault.status, fault.detail)
                return
        self._task = server.run(exchange)

    def feed(self, data: bytes, window_bytes: int) -> None:
        """A piece of the request's body."""
        self._uncredited_bytes += window_bytes
        if self._exchange is not None:
            self._exchange.feed(data)
        self._credit()
        self._watch()

    def feed_end(self) -> None:
        """The request is complete."""
        self._is_body_open = False
        if self._exchange is not None:
            self._exchange.feed_end()
        if self._is_sent:
            self._close()

    def pump(self, pieces: int) -> bool:
        """Send what there is room for now, so many pieces at most; whether something was."""
        return self._output.pump(pieces)

    def was_reset(self) -> None:
        """The stream has ended without an end, or with its connection."""
        exchange, self._exchange = self._exchange, None
        task = self._task
        self._forget()
        if exchange is not None:
            self._connection.abandon(task)
            exchange.disconnect()

    def end_connection(self) -> None:
        """The connection goes; this request is still answered."""

    # ResponsePort

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        connection = self._connection
        server = connection.server
        fields, left = response_head(
            request,
            status,
            headers,
            default_fields=server.default_headers.fields,
            body_bytes=None if more_body else len(body),
        )
        body = left.take(body, more_body)  # raises before anything is written
        if server.scopes.id_proxies is not None and not any(name == HEADER for name, _ in fields):
            fields.append((HEADER, request.request_id))
        self._body = left
        self._write_head(fields, body, is_last=not more_body)

    def _write_head(self, fields: list[tuple[bytes, bytes]], body: bytes, *, is_last: bool) -> None:
        connection = self._connection
        connection.server.output.answered()
        is_all = is_last and not body
        connection.http2.send_head(self.id, fields, is_last=is_all)
        connection.wrote(0)
        if is_all:
            self._all_sent()
        elif body:
            self._output.write(body, is_last=is_last)
            self._watch()

    def send_body(self, body: bytes, more_body: bool) -> None:
        body = self._body.take(body, more_body)
        if body or not more_body:
            self._output.write(body, is_last=not more_body)
            self._watch()

    def send_trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._body.take(b"", False)
        fields = response_fields(headers)
        if fields:
            self._output.write_trailers(fields)
        else:
            self._output.write(b"", is_last=True)
        self._watch()

    def files(self) -> FilePort:
        return self

    # FilePort

    def begin_file(self, count: int, more_body: bool) -> bool:
        self._body.expect(count, more_body)
        return self._body.is_allowed and count > 0

    def send_file(
        self, fd: int, offset: int, count: int, *, note: Callable[[int], None] | None = None
    ) -> None:
        """The kernel knows no frames."""

    def send_file_piece(self, data: bytes) -> None:
        self._output.write(data)
        self._watch()

    def end_file(self, count: int, more_body: bool) -> None:
        if not more_body:
            self._output.write(b"", is_last=True)
            self._watch()

    # ResponsePort again

    def send_early_hint(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        fields = [(b":status", b"103"), *response_fields(headers)]
        self._connection.http2.send_head(self.id, fields, is_last=False)
        self._connection.wrote(0)

    def end(self) -> None:
        """The exchange is complete; what waits for the peer's window is still sent."""
        self._exchange = None

    def abort(self) -> None:
        self._reset(INTERNAL_ERROR)

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        if status != _APPLICATION_FAILED:
            self._note_refusal(status, detail)
        extra = () if not hasattr(request, "request_id") else ((HEADER, request.request_id),)
        self._answer(status, detail, extra, is_head=request.method == "HEAD")

    def refuse_broken(self, fault: HttpFault, *, is_head: bool) -> None:
        """Answer what is no request."""
        self._note_refusal(fault.status, fault.detail, fault.name)
        self._connection.server.counts.count_response(fault.status)
        self._answer(fault.status, fault.detail, fault.headers, is_head=is_head)

    def send_continue(self) -> None:
        self._connection.http2.send_head(self.id, [(b":status", b"100")], is_last=False)
        self._connection.wrote(0)
        self.set_reading(True)  # from now on the body is waited for

    def set_reading(self, on: bool) -> None:
        self._is_reading = on
        self._credit()
        self._watch()

    # Inside

    def _note_refusal(self, status: int, detail: str, name: str | None = None) -> None:
        words = f"{status} {detail}"
        note_refusal(words, self._connection.peer.client)
        self._connection.server.counts.count_refusal(name or words)

    def _answer(
        self, status: int, detail: str, extra: Iterable[tuple[bytes, bytes]], *, is_head: bool
    ) -> None:
        fields, body = error_fields(status, detail, extra)
        self._write_head(fields, b"" if is_head else body, is_last=True)
        self._exchange = None

    def _credit(self) -> None:
        """Open the window again as far as it is used, in portions, while the body is wanted."""
        used = self._uncredited_bytes
        if used and self._is_reading and self._is_body_open and not self._is_sent:
            window = self._connection.server.config.http2_initial_stream_window_size
            if used * _CREDIT_PARTS >= window:
                self._uncredited_bytes = 0
                self._connection.http2.credit(self.id, used)
                self._connection.wrote(0)

    def _block(self, on: bool) -> None:
        if self._exchange is None:
            return
        if on:
            self._exchange.block_writing()
        else:
            self._exchange.unblock_writing()

    def _all_sent(self) -> None:
        self._is_sent = True
        self._exchange = None
        if self._is_body_open:
            self._reset(NO_ERROR)  # RFC 9113, 8.1: the response stands, the rest is not wanted
        else:
            self._close()

    def _close(self) -> None:
        self._connection.http2.close_stream(self.id)
        self._leave()

    def _reset(self, code: int) -> None:
        exchange, self._exchange = self._exchange, None
        connection, task = self._connection, self._task
        connection.http2.reset(self.id, code)
        connection.wrote(0)
        self._leave()
        if exchange is not None:
            connection.abandon(task)
            exchange.disconnect()

    def _leave(self) -> None:
        connection = self._connection
        self._forget()
        connection.stream_ended(self.id)

    def _forget(self) -> None:
        self._is_body_open = False
        self._task = None
        self._output.close()
        self._connection.server.wheel.cancel(self)

    # Deadlines

    def _watch(self) -> None:
        """Wait for the window of a peer that is to take something, else for the body."""
        config, wheel = self._connection.server.config, self._connection.server.wheel
        limit_s = None
        if self._output.is_waiting:
            limit_s = config.timeout_write
            self._sent_bytes = self._output.sent_bytes
        elif self._awaits_body():
            limit_s = config.timeout_request_body
        if limit_s is None:
            self._deadline = NEVER
        else:
            self._deadline = wheel.after(limit_s)
            wheel.schedule(self, self._deadline)

    def _awaits_body(self) -> bool:
        """The peer is not waited for while it may not send: while we don't read, or it waits for
        "100 Continue".
        """
        exchange = self._exchange
        if exchange is None or not self._is_body_open or not self._is_reading:
            return False
        return not exchange.head.expects_continue

    def on_timer(self, tick: int) -> int:
        if self._deadline == NEVER or tick < self._deadline:
            return self._deadline
        if self._output.is_waiting:
            if self._output.sent_bytes == self._sent_bytes:
                peer = self._connection.peer
                _log.info(
                    "Reset a stream of %s: it reads no response (--timeout-write).", peer.client
                )
                self._reset(CANCEL)
                return NEVER
            self._watch()
            return self._deadline
        if self._exchange is not None and self._awaits_body():
            self._exchange.refuse(408, "the request body did not come in time")
        return NEVER
