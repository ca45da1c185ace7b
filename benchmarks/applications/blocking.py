"""An application one of whose handlers blocks its loop: GET /block?SECONDS."""

from __future__ import annotations

import asyncio
import time
from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/block":
        await send({"type": "http.response.body", "body": b"blocked", "more_body": True})
        await asyncio.sleep(0.1)  # what came in the same turn is served first
        time.sleep(float(scope["query_string"]))  # blocks the loop, as an application does
    await send({"type": "http.response.body", "body": b"ok"})
