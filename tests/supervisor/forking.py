"""An application that forks, as `multiprocessing` and pools do on Linux."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer, live
from tests.support.waiting import DEADLINE_S

_FORK = multiprocessing.get_context("fork")


def nap() -> None:
    """As long as a test could last."""
    time.sleep(60)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/pid`: the process. `/terminate`: how children end that are told to. `/pool`: what a pool
    computes. `/leave`: a child stays when the connection ends; its pid. WebSockets are held.
    """
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": str(os.getpid())})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    said: Any = None
    if scope["path"] == "/terminate":
        said = await asyncio.to_thread(_terminate)
    elif scope["path"] == "/pool":
        said = await asyncio.to_thread(_pool)
    elif scope["path"] == "/leave":
        child = _FORK.Process(target=nap, daemon=True)
        child.start()
        said = child.pid
    body = str(os.getpid()) if scope["path"] == "/pid" else json.dumps(said)
    headers = [(b"connection", b"close")]
    await answer(send, body.encode(), headers=headers)


def _terminate() -> list[int | None]:
    """The exit codes of children that were told to end right after they had begun."""
    children = [_FORK.Process(target=nap) for _ in range(5)]
    for child in children:
        child.start()
        child.terminate()
    for child in children:
        child.join(DEADLINE_S)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes


def _pool() -> list[int]:
    with ProcessPoolExecutor(2, mp_context=_FORK) as pool:
        return list(pool.map(abs, [-1, -2, -3]))
