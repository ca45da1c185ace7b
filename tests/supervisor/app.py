"""The application that the tests of the supervisor serve.

HTTP: `/pid`; `/block?SECONDS` blocks the event loop after it has answered; `/slow?SECONDS` answers
late; `/exit?CODE` ends the process; `/grow?MIB` keeps memory. A WebSocket is greeted with the
process id and echoes. $TEST_FAIL names a file: while it exists, start-up fails as its content says.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer

_IMPORTED_IN = os.getpid()
_kept: list[bytearray] = []


def _told_to_fail() -> str:
    path = Path(os.environ.get("TEST_FAIL", "/nonexistent"))
    return path.read_text() if path.exists() else ""


if _told_to_fail() == "import":
    raise RuntimeError("told to fail at import")
if _told_to_fail() == "exit":
    os._exit(7)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["type"]:
        case "lifespan":
            await _live(receive, send)
        case "http":
            await _answer(scope, send)
        case _:
            await _echo(receive, send)


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    match _told_to_fail():
        case "lifespan":
            await send({"type": "lifespan.startup.failed", "message": "told to fail"})
            return
        case "hang":
            await asyncio.Event().wait()
        case _:
            await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _answer(scope: Scope, send: Send) -> None:
    amount = scope["query_string"].decode()
    match scope["path"]:
        case "/slow":
            await asyncio.sleep(float(amount))
        case "/grow":
            _kept.append(bytearray(b"x" * (int(amount) * 1024 * 1024)))
        case "/exit":
            os._exit(int(amount))
        case _:
            pass
    body = f"{os.getpid()} {_IMPORTED_IN}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await answer(send, body, headers=headers)
    if scope["path"] == "/block":
        # not in this step: the answer has to leave first
        asyncio.get_running_loop().call_later(0.05, block_the_loop, float(amount))


def block_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": str(os.getpid())})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message.get("text") or ""})
