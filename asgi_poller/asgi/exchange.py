"""One HTTP request and its response as ASGI sees them (ASGI: HTTP Connection Scope, spec version
2.4).

The response's states, and what the application may send in each:

    WAITING ── http.response.start ──► STARTED ── http.response.body ──► STREAMING ──► COMPLETE
       └── the peer goes, or a fault ─────┴─────────────────────────────────┴──► GONE

The head is written with the first body message, so that a small response is one write. In GONE
`send` raises, so that an application stops at once and closes what it streams from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.disconnect import stems_from_disconnect
from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.flow import TURN_MASK, WriteGate, wait_in
from asgi_poller.asgi.types import Loop, Message
from asgi_poller.errors import ApplicationFault, ClientDisconnected
from asgi_poller.wire.http1 import RequestHead
from asgi_poller.wire.response import (
    CONTINUE,
    LAST_CHUNK,
    WHOLE_KEPT,
    DefaultFields,
    Framing,
    encode_chunk,
    encode_head,
    status_line,
)

_log = logging.getLogger("asgi_poller.error")
# of request body waiting for the application: above it the peer is not read
_APPLICATION_FAILED = 500  # RFC 9110, 15.6.1
_BODY_HIGH_OCTETS = 65536

_UNFRAMED = Framing(True, False, None, False)


class State(Enum):
    WAITING = "waiting for http.response.start"
    STARTED = "waiting for the first http.response.body"
    STREAMING = "streaming the body"
    COMPLETE = "complete"
    GONE = "the peer has gone"

    handlers: Mapping[str, Callable[[Exchange, Message], None]]
    """What the application may send in this state: the table at the end of this file."""


# Asking an Enum class for its member is a function call in Python 3.11; these are not.
_WAITING: Final = State.WAITING
_STARTED: Final = State.STARTED
_STREAMING: Final = State.STREAMING
_COMPLETE: Final = State.COMPLETE
_GONE: Final = State.GONE


class ExchangePort(Protocol):
    """The connection as its exchange sees it."""

    def write(self, data: bytes) -> None: ...

    def set_reading(self, on: bool) -> None: ...

    def refused(self, status: int, detail: str) -> None:
        """The peer gets this status, and not because of the application."""

    def response_complete(self, keep_alive: bool) -> None:
        """The response is written in full; `keep_alive` says whether the connection may serve
        another request.
        """

    def abort(self) -> None:
        """The response cannot be completed: the peer must see the connection break."""


@dataclass(slots=True)
class ExchangeContext:
    """What all exchanges of one core share. `default_fields` gives whole header lines (Date,
    Server, ...).
    """

    loop: Loop
    default_fields: DefaultFields
    access_log: AccessLog | None = None
    max_body_octets: int | None = None


class Exchange:
    """One request. The connection feeds it; the application calls `receive` and `send`. Owned by
    the core's thread.
    """

    __slots__ = (
        "_body",
        "_body_complete",
        "_body_octets",
        "_context",
        "_entry",
        "_expected_octets",
        "_framing",
        "_gate",
        "_handlers",
        "_is_body_given",
        "_is_paused",
        "_port",
        "_read_octets",
        "_sent_count",
        "_start",
        "_waiters",
        "head",
        "scope",
        "state",
    )

    def __init__(
        self, head: RequestHead, scope: dict[str, Any], port: ExchangePort, context: ExchangeContext
    ) -> None:
        self.head = head
        self.scope = scope
        self._port = port
        self._context = context
        self._entry = None if context.access_log is None else context.access_log.entry(scope)
        self._body: list[bytes] = []
        self._body_octets = 0  # waiting for the application
        self._sent_count = 0  # messages of the response's body
        self._read_octets = 0  # in all; counted only where there is a limit
        self._body_complete = False
        self._is_body_given = False  # its last piece has been
        self._is_paused = False
        self._waiters: list[asyncio.Future[None]] = []
        self._gate: WriteGate | None = None
        self._start: Message | None = None
        self._framing = _UNFRAMED
        self._expected_octets: int | None = None  # of the response's body, still to come
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
        limit_octets = self._context.max_body_octets
        if limit_octets is not None:
            self._read_octets += len(piece)
            if self._read_octets > limit_octets:
                self.refuse(413, "the request body is too large")
                return
        self._body.append(piece)
        self._body_octets += len(piece)
        if self._body_octets > _BODY_HIGH_OCTETS and not self._is_paused:
            self._is_paused = True
            self._port.set_reading(False)
        self._wake()

    def feed_end(self) -> None:
        """The request is complete."""
        self._body_complete = True
        if self._waiters:
            self._wake()

    def disconnect(self) -> None:
        """The peer has gone, or the request turned out to be broken."""
        if self.state is not _COMPLETE:
            self._enter(_GONE)
        self._wake()
        if self._gate is not None:
            self._gate.open()

    def refuse(self, status: int, detail: str) -> None:
        """Answer for the application, if it has not begun to, and break the connection."""
        if self.state in (_WAITING, _STARTED):
            self._log_access(status)
            if status != _APPLICATION_FAILED:
                self._port.refused(status, detail)
            head_only = self.head.method == "HEAD"
            self._port.write(error_response(status, detail, head_only=head_only))
            self._enter(_GONE)
            self._port.response_complete(False)
        elif self.state is _STREAMING:
            self._enter(_GONE)
            self._port.abort()
        self._wake()

    def block_writing(self) -> None:
        if self._gate is None:
            self._gate = WriteGate(self._context.loop)
        self._gate.shut()

    def unblock_writing(self) -> None:
        if self._gate is not None:
            self._gate.open()

    # The application's side

    def application_ended(self, error: BaseException | None) -> None:
        """The application has returned, or raised `error`: answer for what it has left undone."""
        if error is not None:
            if self.state is _GONE and stems_from_disconnect(error):
                return  # it was told that nobody listens, and has stopped
            _log.error("Exception in ASGI application", exc_info=error)
        elif self.state is _COMPLETE:
            return
        elif self.state is _WAITING:
            _log.error("ASGI callable returned without starting response.")
        elif self.state is not _GONE:
            _log.error("ASGI callable returned without completing response.")
        self.refuse(_APPLICATION_FAILED, "Internal Server Error")

    async def receive(self) -> Message:
        """The next piece of the request, or http.disconnect (ASGI: HTTP, Request, Disconnect)."""
        if self.head.expects_continue and self.state is _WAITING:
            self.head.expects_continue = False
            self._port.write(CONTINUE)
            self._port.set_reading(True)  # from now on the peer may be waited for
        while not self._is_over() and (
            self._is_body_given or not (self._body or self._body_complete)
        ):
            await wait_in(self._waiters, self._context.loop)
        if self._is_over():
            return {"type": "http.disconnect"}
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._body_octets = 0
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
        ClientDisconnected once the peer has gone (ASGI: HTTP, Disconnected Client).
        """
        handler = self._handlers.get(message["type"])
        if handler is None:
            raise ApplicationFault(f"{message['type']!r} cannot be sent: {self.state.value}")
        handler(self, message)
        if self.state is _STREAMING:
            self._sent_count += 1
            if self._gate is not None and not self._gate.is_open:
                await self._gate.passed()  # after the last message nobody would open it for us
            elif not self._sent_count & TURN_MASK:
                await asyncio.sleep(0)

    def _on_start(self, message: Message) -> None:
        status_line(message["status"])  # raises now, and not only with the body
        self._start = message
        self._enter(_STARTED)

    def _on_first_body(self, message: Message) -> None:
        start = self._start
        assert start is not None
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        more = message.get("more_body", False)
        context = self._context
        if self.head.expects_continue:
            # nobody said "continue": the peer may or may not send its body now (RFC 9110, 10.1.1)
            self.head.keep_alive = False
        head, self._framing = encode_head(
            self.head,
            start["status"],
            start.get("headers", ()),
            default_fields=context.default_fields,
            body_octets=None if more else len(body),
        )
        if self._framing is not WHOLE_KEPT:
            self._expected_octets = self._framing.expected_octets
            body = self._framed(body, more)  # if it raises, nothing is written: a clean 500
        self._log_access(start["status"])
        self._enter(_STREAMING)
        self._port.write(head + body if body else head)
        if not more:
            self._complete()

    def _on_body(self, message: Message) -> None:
        more = message.get("more_body", False)
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        body = self._framed(body, more)
        if body:
            self._port.write(body)
        if not more:
            self._complete()

    def _on_gone(self, message: Message) -> None:
        raise ClientDisconnected(f"{message['type']!r} cannot be sent: the peer has gone")

    def _framed(self, body: bytes, more: bool) -> bytes:
        """A piece of the response's body as it goes on the wire."""
        framing = self._framing
        if not framing.has_body:
            return b""
        if self._expected_octets is not None:
            left = self._expected_octets = self._expected_octets - len(body)
            if left < 0 or (left and not more):
                word = "longer" if left < 0 else "shorter"
                raise ApplicationFault(f"response body is {word} than its Content-Length")
        if framing.is_chunked:
            body = encode_chunk(body) if body else b""
            if not more:
                body += LAST_CHUNK
        return body

    def _complete(self) -> None:
        self._enter(_COMPLETE)
        if self._waiters:
            self._wake()
        self._port.response_complete(self._framing.keep_alive)

    def _enter(self, state: State) -> None:
        self.state = state
        self._handlers = state.handlers

    def _wake(self) -> None:
        waiters = self._waiters[:]
        self._waiters.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _log_access(self, status: int) -> None:
        access_log, entry = self._context.access_log, self._entry
        if access_log is not None and entry is not None:
            access_log.response(entry, status)


def _as_bytes(body: object) -> bytes:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise ApplicationFault(f"`body` is bytes, not {type(body).__name__}")


State.WAITING.handlers = {"http.response.start": Exchange._on_start}
State.STARTED.handlers = {"http.response.body": Exchange._on_first_body}
State.STREAMING.handlers = {"http.response.body": Exchange._on_body}
State.COMPLETE.handlers = {}
State.GONE.handlers = {
    "http.response.start": Exchange._on_gone,
    "http.response.body": Exchange._on_gone,
}
