"""What the tests' applications do again and again (ASGI: HTTP & WebSocket, Lifespan Protocol)."""

from __future__ import annotations

from collections.abc import Iterable

from asgi_poller.asgi.types import Message, Receive, Scope, Send


async def answer(
    send: Send, body: bytes, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """A whole response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def live(receive: Receive, send: Send) -> None:
    """Start up and shut down."""
    for _ in range(2):
        await send({"type": (await receive())["type"] + ".complete"})


async def accept(receive: Receive, send: Send) -> None:
    """Open a WebSocket."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def hold(receive: Receive, send: Send) -> None:
    """Open a WebSocket and keep it until its peer goes."""
    await accept(receive, send)
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def converse(receive: Receive, send: Send) -> Message:
    """Open a WebSocket and echo until its peer goes; the last message."""
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    return message


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that echoes on WebSockets, and serves nothing else."""
    if scope["type"] == "websocket":
        await converse(receive, send)
