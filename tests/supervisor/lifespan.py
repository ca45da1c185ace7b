"""What the tests' applications have in common."""

from __future__ import annotations

from asgi_poller.asgi.types import Receive, Send


async def take_part(receive: Receive, send: Send) -> None:
    """Start up and shut down as a well-behaved application does (ASGI: Lifespan Protocol)."""
    for _ in range(2):
        await send({"type": (await receive())["type"] + ".complete"})
