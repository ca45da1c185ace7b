"""An application whose server's log is looked at."""

from __future__ import annotations

import os

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.logs import dropped_lines
from tests.support.apps import answer, converse, live


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/lost`: how many lines of the log this process has lost; `/fail` raises; WebSockets echo."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await converse(receive, send)
    elif scope["path"] == "/fail":
        raise RuntimeError("told to fail")
    else:
        lost = f"{os.getpid()} {dropped_lines()}"
        await answer(send, lost.encode() if scope["path"] == "/lost" else b"")


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not start."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database does not answer"})
