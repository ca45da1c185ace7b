"""One HTTP request and its response as ASGI sees them (ASGI: HTTP Connection Scope, spec version
2.4).

The response's states, and what the application may send in each:

    WAITING ── http.response.start ──► STARTED ── http.response.body ──► STREAMING ──► COMPLETE
       │                                  ├──────────── SENDING ────────────┤               │
       │                                  │                                 ├──► TRAILERS ──┘
       └── the peer goes, or a fault ─────┴─────────────────────────────────┴──► GONE

The head is written with the first body message, so that a small response is one write. In GONE
`send` raises, so that an application stops at once and closes what it streams from. TRAILERS is
between the last http.response.body and the last http.response.trailers of a response that
announced them, to a client that takes them; to others they are not sent. While a file is opened and
sent (SENDING: http.response.pathsend or .zerocopysend) nothing else may be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from asgi_poller.asgi.disconnect import stems_from_disconnect
from asgi_poller.asgi.flow_control import YIELD_MASK, FlowControl, wait_in
from asgi_poller.asgi.http_context import HttpContext
from asgi_poller.asgi.http_messages import as_bytes, link_headers
from asgi_poller.asgi.request_id import log_extra
from asgi_poller.asgi.response_file import FileBody, headers_for, open_path, part_of
from asgi_poller.asgi.response_port import ResponsePort
from asgi_poller.asgi.types import Message
from asgi_poller.errors import ApplicationFault, ClientDisconnected, ResponseBroken
from asgi_poller.protocols.http1.headers import checked_trailers
from asgi_poller.protocols.http1.parser import RequestHead

_log = logging.getLogger("asgi_poller.error")
# of request body waiting for the application: above it the peer is not read
_APPLICATION_FAILED = 500  # RFC 9110, 15.6.1
_BODY_HIGH_BYTES = 65536
_BODILESS = frozenset({204, 304})  # RFC 9110, 6.4.1


class State(Enum):
    WAITING = "waiting for http.response.start"
    STARTED = "waiting for the first http.response.body"
    STREAMING = "streaming the body"
    SENDING = "sending a file"
    TRAILERS = "waiting for http.response.trailers"
    COMPLETE = "complete"
    GONE = "the peer has left"

    handlers: Mapping[str, Callable[[HttpExchange, Message], None]]
    """What the application may send in this state: the table at the end of this file."""


# Asking an Enum class for its member is a function call in Python 3.11; these are not.
_WAITING: Final = State.WAITING
_STARTED: Final = State.STARTED
_STREAMING: Final = State.STREAMING
_SENDING: Final = State.SENDING
_TRAILERS: Final = State.TRAILERS
_COMPLETE: Final = State.COMPLETE
_GONE: Final = State.GONE


class HttpExchange:
    """One request. The connection feeds it; the application calls `receive` and `send`. Owned by
    the loop's thread.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_complete",
        "_context",
        "_entry",
        "_file",
        "_flow",
        "_handlers",
        "_is_body_given",
        "_is_paused",
        "_port",
        "_read_bytes",
        "_sent_count",
        "_start",
        "_started_at",
        "_trailers",
        "_waiters",
        "head",
        "scope",
        "state",
    )

    def __init__(
        self, head: RequestHead, scope: dict[str, Any], port: ResponsePort, context: HttpContext
    ) -> None:
        self.head = head
        self.scope = scope
        self._port = port
        self._context = context
        self._entry = None if context.access_log is None else context.access_log.entry(scope)
        if context.measure is not None and self._entry is not None:
            self._port = context.measure(self._entry, port)
        self._body: list[bytes] = []
        self._body_bytes = 0  # waiting for the application
        self._sent_count = 0  # messages of the response's body
        self._read_bytes = 0  # in all; counted only where there is a limit
        self._body_complete = False
        self._is_body_given = False  # its last piece has been
        self._is_paused = False
        self._waiters: list[asyncio.Future[None]] = []
        self._flow: FlowControl | None = None
        self._start: Message | None = None
        self._trailers: list[tuple[bytes, bytes]] | None = None  # so far, where it announced any
        self._file: FileBody | None = None  # being sent
        self._started_at = time.monotonic() if context.counts.is_timed else 0.0
        self.state = _WAITING
        self._handlers = _WAITING.handlers

    # The connection's side

    def end_connection(self) -> None:
        """The connection ends after this response, which says so if its head is still to come."""
        self.head.keep_alive = False

    def feed(self, piece: bytes) -> None:
        """A piece of the request's body."""
        if self.state is _GONE or self.state is _COMPLETE:
            return
        limit_bytes = self._context.max_body_bytes
        if limit_bytes is not None:
            self._read_bytes += len(piece)
            if self._context.measure is not None:
                self._note_read(self._read_bytes)
            if self._read_bytes > limit_bytes:
                self.refuse(413, "the request body is too large")
                return
        self._body.append(piece)
        self._body_bytes += len(piece)
        if self._body_bytes > _BODY_HIGH_BYTES and not self._is_paused:
            self._is_paused = True
            self._port.set_reading(False)
        self._wake()

    def feed_end(self) -> None:
        """The request is complete."""
        self._body_complete = True
        if self._waiters:
            self._wake()

    def disconnect(self) -> None:
        """The peer has left, or the request turned out to be broken."""
        if self.state is not _COMPLETE:
            self._note_break()
            self._enter(_GONE)
        self._wake()
        if self._file is not None:
            self._file.stop()
        if self._flow is not None:
            self._flow.resume()

    def refuse(self, status: int, detail: str) -> None:
        """Answer for the application, if it has not begun to, and break the connection."""
        if self.state in (_WAITING, _STARTED):
            self._answered(status)
            self._enter(_GONE)
            self._port.refuse(self.head, status, detail)
        elif self.state in (_STREAMING, _SENDING, _TRAILERS):
            self._break_off()
        self._wake()

    def _break_off(self) -> None:
        """The response has begun and cannot be completed."""
        self._enter(_GONE)
        if self._file is not None:
            self._file.stop()
        self._port.abort()

    def block_writing(self) -> None:
        if self._flow is None:
            self._flow = FlowControl(self._context.loop)
        self._flow.pause()

    def unblock_writing(self) -> None:
        if self._flow is not None:
            self._flow.resume()

    # The application's side

    def application_ended(self, error: BaseException | None) -> None:
        """The application has returned, or raised `error`: answer for what it has left undone."""
        if error is not None:
            if self.state is _GONE and stems_from_disconnect(error):
                return  # it saw that nobody listens, and has stopped
            note = log_extra(self.scope)
            if isinstance(error, ResponseBroken):
                _log.error("%s", error, extra=note)
            else:
                _log.error("Exception in ASGI application", exc_info=error, extra=note)
        elif self.state is _COMPLETE:
            return
        elif self.state is _WAITING:
            _log.error("ASGI callable returned without starting response.")
        elif self.state is not _GONE:
            _log.error("ASGI callable returned without completing response.")
        self.refuse(_APPLICATION_FAILED, "Internal Server Error")

    async def receive(self) -> Message:
        """The next piece of the request, or http.disconnect (ASGI: HTTP, Request, Disconnect)."""
        if self.head.expects_continue and (self.state is _WAITING or self.state is _STARTED):
            self.head.expects_continue = False
            self._port.send_continue()
        while not self._is_over() and (
            self._is_body_given or not (self._body or self._body_complete)
        ):
            await wait_in(self._waiters, self._context.loop)
        if self._is_over():
            return {"type": "http.disconnect"}
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._body_bytes = 0
        self._is_body_given = self._body_complete
        if self._is_paused:
            self._is_paused = False
            self._port.set_reading(True)
        return {"type": "http.request", "body": body, "more_body": not self._body_complete}

    def _is_over(self) -> bool:
        return self.state is _GONE or self.state is _COMPLETE

    async def send(self, message: Message) -> None:
        """Take a message of the response (ASGI: HTTP, Response Start and Body); waits while the
        peer is slow.

        Raises ApplicationFault for what may not be sent now, or is not valid, and
        ClientDisconnected once the peer has left (ASGI: HTTP, Disconnected Client).
        """
        handler = self._handlers.get(message["type"])
        if handler is None:
            await self._send_file(message)
        else:
            handler(self, message)
        if self.state is _STREAMING:
            self._sent_count += 1
            if self._flow is not None and not self._flow.is_writable:
                await self._flow.drain()  # after the last message nobody would open it for us
            elif not self._sent_count & YIELD_MASK:
                await asyncio.sleep(0)

    def _on_start(self, message: Message) -> None:
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 599:  # 1xx are no responses
            raise ApplicationFault(f"{status!r} is not the status of a response")
        self._start = message
        if message.get("trailers"):
            self._trailers = []
        self._enter(_STARTED)

    def _on_first_body(self, message: Message) -> None:
        start = self._start
        assert start is not None
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = as_bytes(body)
        more = message.get("more_body", False)
        if self.head.expects_continue:
            # nobody said "continue": the peer may or may not send its body now (RFC 9110, 10.1.1)
            self.head.keep_alive = False
        status = start["status"]
        goes_on = more if self._trailers is None else more or self._is_trailed()
        # if it raises, nothing is written: a clean 500
        self._port.send_head(
            self.head, status, start.get("headers", ()), body=body, more_body=goes_on
        )
        self._answered(status)
        if more:
            self._enter(_STREAMING)
        else:
            self._end_body()

    def _on_body(self, message: Message) -> None:
        more = message.get("more_body", False)
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = as_bytes(body)
        goes_on = more if self._trailers is None else more or self._is_trailed()
        self._port.send_body(body, goes_on)
        if not more:
            self._end_body()

    async def _send_file(self, message: Message) -> None:
        """A file is the body, or a piece of it (ASGI: Extensions, Path Send, Zero Copy Send)."""
        kind, before = message["type"], self.state
        is_first = before is _STARTED
        is_path = kind == "http.response.pathsend" and is_first
        files = self._port.files()
        is_next = kind == "http.response.zerocopysend" and (is_first or before is _STREAMING)
        if files is None or not (is_path or is_next):
            raise ApplicationFault(f"{kind!r} cannot be sent: {before.value}")
        self._enter(_SENDING)
        try:
            part = await open_path(message["path"]) if is_path else part_of(message)
        finally:  # nothing is written yet: whatever was raised, the application may answer with
            if self.state is _SENDING:
                self._enter(before)
        try:
            more = is_next and bool(message.get("more_body", False))
            await self._send_part(FileBody(part, files), is_first=is_first, more=more)
        finally:
            part.close()

    async def _send_part(self, body: FileBody, *, is_first: bool, more: bool) -> None:
        goes_on = more or self._is_trailed()
        if is_first and self.state is _STARTED:
            self._send_file_head(body.part.count, goes_on)
        if self.state is not _GONE:
            self._enter(_SENDING)
            self._file = body
            try:
                await body.transmit(goes_on, self._drain)
            except BaseException:  # a cancellation too: nothing can follow half a file
                if self.state is _SENDING:
                    self._break_off()
                raise
            finally:
                self._file = None
        if self.state is _GONE:
            raise _has_gone("a file")
        if more:
            self._enter(_STREAMING)
        else:
            self._end_body()

    async def _drain(self) -> None:
        if self._flow is not None:
            await self._flow.drain()

    def _send_file_head(self, count: int, more_body: bool) -> None:
        head, start = self.head, self._start
        assert start is not None
        headers = headers_for(start.get("headers", ()), count, is_all=not more_body)
        if head.expects_continue:
            head.keep_alive = False
        self._port.send_head(head, start["status"], headers, body=b"", more_body=True)
        self._answered(start["status"])

    def _is_trailed(self) -> bool:
        """Whether trailers follow the body (RFC 9110, 6.5.1: only to who asks for them)."""
        head, start = self.head, self._start
        if self._trailers is None or start is None or not head.accepts_trailers:
            return False
        return head.method != "HEAD" and start["status"] not in _BODILESS

    def _end_body(self) -> None:
        if self._trailers is not None and self._is_trailed():
            self._enter(_TRAILERS)
        else:
            self._complete()

    def _on_trailers(self, message: Message) -> None:
        assert self._trailers is not None
        self._trailers += checked_trailers(message.get("headers", ()))
        if not message.get("more_trailers", False):
            self._port.send_trailers(self._trailers)
            self._trailers = None
            self._complete()

    def _on_dropped_trailers(self, message: Message) -> None:
        """The response has ended without those that it announced: its client does not take them."""
        if self._trailers is None:
            raise ApplicationFault(f"{message['type']!r} cannot be sent: {self.state.value}")
        checked_trailers(message.get("headers", ()))
        if not message.get("more_trailers", False):
            self._trailers = None

    def _on_early_hint(self, message: Message) -> None:
        headers = link_headers(message)
        if headers and self.head.http_version != "1.0":  # which knows no interim responses
            self._port.send_early_hint(headers)

    def _on_debug(self, message: Message) -> None:
        """For who looks at the application from inside, as test clients do; not for the peer."""

    def _on_gone(self, message: Message) -> None:
        raise _has_gone(message["type"])

    def _complete(self) -> None:
        self._enter(_COMPLETE)
        if self._waiters:
            self._wake()
        if self._started_at:
            self._context.counts.request.observe(time.monotonic() - self._started_at)
        self._port.end()

    def _enter(self, state: State) -> None:
        self.state = state
        self._handlers = state.handlers

    def _wake(self) -> None:
        waiters = self._waiters[:]
        self._waiters.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _answered(self, status: int) -> None:
        """A response has begun."""
        context, entry = self._context, self._entry
        context.counts.responses[status // 100 - 2] += 1
        if entry is not None and context.access_log is not None:
            context.access_log.response(entry, status)

    def _note_read(self, read_bytes: int) -> None:
        access_log, entry = self._context.access_log, self._entry
        if access_log is not None and entry is not None:
            access_log.has_read(entry, read_bytes)

    def _note_break(self) -> None:
        access_log, entry = self._context.access_log, self._entry
        if access_log is not None and entry is not None:
            access_log.broke_off(entry)


def _has_gone(what: str) -> ClientDisconnected:
    return ClientDisconnected(f"{what!r} cannot be sent: the peer has left")


_DEBUG: Final = {"http.response.debug": HttpExchange._on_debug}
State.WAITING.handlers = {
    "http.response.start": HttpExchange._on_start,
    "http.response.early_hint": HttpExchange._on_early_hint,
    **_DEBUG,
}
State.STARTED.handlers = {"http.response.body": HttpExchange._on_first_body, **_DEBUG}
State.STREAMING.handlers = {"http.response.body": HttpExchange._on_body, **_DEBUG}
State.SENDING.handlers = {}
State.TRAILERS.handlers = {"http.response.trailers": HttpExchange._on_trailers, **_DEBUG}
State.COMPLETE.handlers = {"http.response.trailers": HttpExchange._on_dropped_trailers}
State.GONE.handlers = {
    f"http.response.{name}": HttpExchange._on_gone
    for name in ("start", "body", "trailers", "early_hint", "debug", "pathsend", "zerocopysend")
}
