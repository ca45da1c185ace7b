"""A WebSocket handshake that the application answers with an HTTP response (ASGI: Websocket Denial
Response).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.exchange import Exchange, ExchangeContext
from asgi_poller.asgi.types import Loop, Message
from asgi_poller.errors import ApplicationFault
from asgi_poller.wire.http1 import RequestHead
from asgi_poller.wire.response import DefaultFields

_PREFIX = "websocket."


class _Context(Protocol):
    """What of a channel's context a response needs."""

    @property
    def loop(self) -> Loop: ...

    @property
    def default_fields(self) -> DefaultFields: ...


class _Writer(Protocol):
    def write(self, data: bytes) -> None: ...


class Denial:
    """An HTTP exchange whose messages are called websocket.http.response.*; streamed like any
    other.

    Owned by the core's thread. `done` is called when the response is complete or cannot be.
    """

    __slots__ = ("_done", "_exchange", "_writer")

    def __init__(
        self,
        scope: dict[str, Any],
        writer: _Writer,
        context: _Context,
        *,
        access_log: AccessLog | None,
        done: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._done = done
        head = RequestHead("GET", b"/", "1.1", [])
        head.keep_alive = False
        self._exchange = Exchange(
            head, scope, self, ExchangeContext(context.loop, context.default_fields, access_log)
        )

    async def send(self, message: Message) -> None:
        """websocket.http.response.start, then .body until `more_body` is false."""
        kind: str = message["type"]
        if not kind.startswith("websocket.http.response."):
            raise ApplicationFault(f"{kind!r} cannot be sent: a denial response has begun")
        await self._exchange.send({**message, "type": kind.removeprefix(_PREFIX)})

    def fail(self) -> None:
        """The application will not complete it: 500, or the connection breaks within the body."""
        self._exchange.refuse(500, "Internal Server Error")

    # ExchangePort

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def set_reading(self, on: bool) -> None:
        """A denied handshake has no body to read."""

    def refused(self, status: int, detail: str) -> None:
        """Of a request's body: a handshake has none."""

    def response_complete(self, keep_alive: bool) -> None:
        self._done()

    def abort(self) -> None:
        self._done()
