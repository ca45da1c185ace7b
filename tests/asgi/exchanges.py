"""HTTP requests and responses on fake connections, and the messages that applications send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.http import HttpExchange
from asgi_poller.asgi.http_context import HttpContext
from asgi_poller.asgi.types import Application, Message, Receive, Scope, Send
from asgi_poller.protocols.http1.parser import END, HeadLimits, RequestHead, RequestParser
from tests.support.fake_connection import Wire, run_to_end

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


class Request:
    """An exchange on a fake connection."""

    def __init__(
        self,
        data: bytes,
        limit: int | None = None,
        access_log: AccessLog | None = None,
        scope: Scope | None = None,
    ) -> None:
        self.wire = Wire()
        self.parser = RequestParser(HeadLimits())
        events = self.parser.receive(data)
        head = events[0]
        assert isinstance(head, RequestHead)
        context = HttpContext(asyncio.get_running_loop(), access_log, max_body_bytes=limit)
        scope = {"type": "http", "method": head.method, **(scope or {})}
        self.exchange = HttpExchange(head, scope, self.wire, context)
        self._take(events[1:])

    def feed(self, data: bytes) -> None:
        self._take(self.parser.receive(data))

    def _take(self, events: Sequence[Any]) -> None:
        for event in events:
            if event is END:
                self.exchange.feed_end()
            else:
                self.exchange.feed(event)


async def answer_of(application: Application, data: bytes = GET, **options: Any) -> Wire:
    """Run the application to its end; the connection afterwards."""
    request = Request(data, **options)
    await run_to_end(request.exchange, application)
    return request.wire


def says(*messages: Message) -> Application:
    """An application that sends these and returns."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return application


def head(status: Any = 200, headers: Any = ()) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: Any = b"", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


OK = b"HTTP/1.1 200 OK\r\n"
