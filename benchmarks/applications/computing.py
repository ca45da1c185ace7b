"""A WebSocket echo that computes for a while before each answer, as applications do: about 70 µs on
a CPython without optimisations of its own, always the same work. What it computes with is its own.
"""

from __future__ import annotations

from typing import Any

STEPS = 600


def compute() -> int:
    """Arithmetic in Python, which holds the GIL where there is one."""
    total = 0
    for step in range(STEPS):
        total += step * step % 7
    return total


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        compute()
        await send({"type": "websocket.send", "bytes": message["bytes"]})
