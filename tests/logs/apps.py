"""An application whose server's log is looked at."""

from __future__ import annotations

import asyncio
import os
import tempfile

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.logs import dropped_lines
from tests.support.apps import answer, converse, live


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/lost`: how many lines of the log this process has lost; `/fail` raises; `/half` breaks off;
    `/slow` is 404 after 50 ms; `/wait` is never answered; WebSockets echo, but are denied at `/no`.
    """
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        if scope["path"] == "/no":
            await receive()
            await send({"type": "websocket.close"})
        else:
            await converse(receive, send)
    elif scope["path"] == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await receive()
        raise RuntimeError("told to break off")
    elif scope["path"] == "/slow":
        await receive()
        await asyncio.sleep(0.05)
        await answer(send, b"0123456789", 404)
    elif scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
    elif scope["path"] == "/fail":
        raise RuntimeError("told to fail")
    else:
        lost = f"{os.getpid()} {dropped_lines()}"
        await answer(send, lost.encode() if scope["path"] == "/lost" else b"")


async def file(scope: Scope, receive: Receive, send: Send) -> None:
    """3,000,000 bytes of a file: by its path at `/path`, by its descriptor else."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(3_000_000)
        if scope["path"] == "/path":
            await send({"type": "http.response.pathsend", "path": file.name})
        else:
            await send({"type": "http.response.zerocopysend", "file": file})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not start."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database does not answer"})
