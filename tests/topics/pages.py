"""An application that tests serve with workers: a page with `topics.js`, and what it talks to."""

from __future__ import annotations

from starlette.websockets import WebSocket

from asgi_poller import topics
from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer
from tests.topics import rooms

PAGE = b"<!doctype html><title>Topics</title><link rel=icon href=data:,>"
_TYPES = {"/": b"text/html", "/topics.js": b"text/javascript"}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """As `rooms`, but for the page, the script, and /ws."""
    path = scope.get("path")
    if path == "/ws":
        await topics.serve(WebSocket(scope, receive, send), may=lambda *asked: True)
    elif path in _TYPES:
        body = PAGE if path == "/" else topics.CLIENT_JS.read_bytes()
        headers = [(b"content-type", _TYPES[path]), (b"connection", b"close")]
        await answer(send, body, 200, headers)
    else:
        await rooms.app(scope, receive, send)
