"""An ASGI application without a framework: a greeting over HTTP, an echo over WebSockets.

Run it from the directory above this one:

    asgi-poller examples.echo:app

Then `curl http://127.0.0.1:8000/`, and for the echo `python -m websockets ws://127.0.0.1:8000/`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Called once for each request and each WebSocket, and once for the server's lifespan."""
    match scope["type"]:
        case "http":
            await greet(scope, send)
        case "websocket":
            await echo(receive, send)
        case "lifespan":
            await live(receive, send)


async def greet(scope: Message, send: Send) -> None:
    """Answer any request with a line of text."""
    body = f"Hello from {scope['path']}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(receive: Receive, send: Send) -> None:
    """Send every message back as it came."""
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        # One of "text" and "bytes" has the message, the other is missing or None.
        await send({**message, "type": "websocket.send"})


async def live(receive: Receive, send: Send) -> None:
    """Take part in the lifespan: what is opened here, before the first request, is closed here."""
    await receive()  # lifespan.startup
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown
    await send({"type": "lifespan.shutdown.complete"})
