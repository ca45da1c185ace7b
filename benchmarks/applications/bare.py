"""A bare ASGI application: what every server of a comparison runs. It imports no server and no
framework.

HTTP: `Hello, World!` on every path. WebSocket: `/fan` sends each message to all channels, any other
path echoes. `BENCH_BUSY_S` makes the loop block for that long at a time, for ever; when the file
named by `BENCH_TRIGGER` appears, every channel of this process is sent one message.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY = b"Hello, World!"
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", str(len(BODY)).encode())]
TRIGGER_STEP_S = 0.25

channels: set[Send] = set()
background: list[asyncio.Task[None]] = []


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if not background:
        # Not in lifespan: not every server has it.
        background.append(asyncio.get_running_loop().create_task(work()))
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})
    else:
        await lifespan(receive, send)


async def websocket(scope: Message, receive: Receive, send: Send) -> None:
    """Accept; then echo, or send to all."""
    await receive()
    await send({"type": "websocket.accept"})
    channels.add(send)
    fan = scope["path"] == "/fan"
    try:
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is not None:
                answer = {"type": "websocket.send", "text": text}
            else:
                answer = {"type": "websocket.send", "bytes": message["bytes"]}
            if not fan:
                await send(answer)
                continue
            for to in tuple(channels):
                await to(answer)
    finally:
        channels.discard(send)


async def lifespan(receive: Receive, send: Send) -> None:
    """Nothing to prepare, nothing to clean up."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def work() -> None:
    """What goes on beside the connections, as the environment says."""
    busy_s = float(os.environ.get("BENCH_BUSY_S", "0"))
    while busy_s:
        time.sleep(busy_s)
        await asyncio.sleep(0)
    trigger = os.environ.get("BENCH_TRIGGER")
    while trigger and not Path(trigger).exists():
        await asyncio.sleep(TRIGGER_STEP_S)
    if trigger:
        for send in tuple(channels):
            await send({"type": "websocket.send", "text": "to everyone"})
