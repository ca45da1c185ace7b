"""A WebSocket handshake that the application answers with an HTTP response (ASGI: Websocket Denial
Response).
"""

from __future__ import annotations

from typing import Any

from asgi_poller.asgi.http import HttpExchange
from asgi_poller.asgi.http_context import HttpContext
from asgi_poller.asgi.response_port import ResponsePort
from asgi_poller.asgi.types import Message
from asgi_poller.errors import ApplicationFault
from asgi_poller.protocols.http1.parser import RequestHead

_PREFIX = "websocket."
_KINDS = frozenset({"websocket.http.response.start", "websocket.http.response.body"})


class Denial:
    """An HTTP exchange whose messages are called websocket.http.response.*; streamed like any
    other. Owned by the loop's thread.
    """

    __slots__ = ("_exchange",)

    def __init__(self, scope: dict[str, Any], port: ResponsePort, context: HttpContext) -> None:
        head = RequestHead("GET", b"/", "1.1", [])
        head.keep_alive = False
        self._exchange = HttpExchange(head, scope, port, context)

    async def send(self, message: Message) -> None:
        """websocket.http.response.start, then .body until `more_body` is false."""
        kind: str = message["type"]
        if kind not in _KINDS:
            raise ApplicationFault(f"{kind!r} cannot be sent: a denial response has begun")
        await self._exchange.send({**message, "type": kind.removeprefix(_PREFIX)})

    def fail(self) -> None:
        """The application will not complete it: 500, or the connection breaks within the body."""
        self._exchange.refuse(500, "Internal Server Error")
