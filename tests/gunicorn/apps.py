"""The application that the tests let gunicorn serve, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from typing import Any

from tests.support.apps import answer

LOADED_BY = os.getpid()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """By path: see the functions. Anything else is described as JSON."""
    match scope["type"]:
        case "lifespan":
            await lifespan(receive, send)
        case "websocket":
            await echo(receive, send)
        case _:
            await respond(scope, send)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    if os.environ.get("FAIL_STARTUP"):
        await send({"type": "lifespan.startup.failed", "message": "no database today"})
        return
    await asyncio.sleep(float(os.environ.get("SLOW_STARTUP", "0")))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("lifespan has ended")
    await send({"type": "lifespan.shutdown.complete"})


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message["text"]
        await send({"type": "websocket.send", "text": str(os.getpid()) if text == "pid" else text})


async def respond(scope: Any, send: Any) -> None:
    match scope["path"]:
        case "/block":
            that_never_returns()
        case "/slow":
            say("slow has begun")
            await asyncio.sleep(1.0)
        case "/endless":
            say("endless has begun")
            await asyncio.sleep(3600)
        case "/fail":
            raise ValueError("on purpose")
    seen = {
        "client": scope["client"],
        "loaded_by": LOADED_BY,
        "parent": os.getppid(),
        "pid": os.getpid(),
        "root_path": scope["root_path"],
        "scheme": scope["scheme"],
        "threads": [thread.name for thread in threading.enumerate()],
        "tls": scope.get("extensions", {}).get("tls"),
    }
    body = json.dumps(seen).encode()
    headers = [(b"content-type", b"application/json"), (b"x-made-by", b"a test")]
    await answer(send, body, headers=headers)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # in one piece, whichever threads and processes write too


def that_never_returns() -> None:
    time.sleep(3600)


async def wsgi_like(environ: Any) -> None:
    """No ASGI application."""
