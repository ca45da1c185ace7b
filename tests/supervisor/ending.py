"""Applications that make it hard to end a server."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable

import anyio

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support import apps
from tests.support.apps import hold, live


async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
    """Never comes up: a database that does not answer."""
    await receive()
    print("waiting for the database", file=sys.stderr, flush=True)
    await asyncio.sleep(1000)


async def stays(scope: Scope, receive: Receive, send: Send) -> None:
    """Starts, and never shuts down."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await asyncio.sleep(1000)


async def in_tasks(work: Awaitable[None], depth: int = 3) -> None:
    """As middleware does that runs what it wraps in a task of a group's."""

    async def inner() -> None:
        await (in_tasks(work, depth - 1) if depth else work)

    async with anyio.create_task_group() as group:
        group.start_soon(inner)


def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """`/call` raises before there is anything to await, `/tasks/...` in a task of its own; for the
    rest see `answer`.
    """
    path = scope.get("path", "")
    if path == "/call":
        sys.exit(3)
    if path.startswith("/tasks/"):
        return in_tasks(answer({**scope, "path": path.removeprefix("/tasks")}, receive, send))
    return answer(scope, receive, send)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """`/block` blocks the loop, `/forever` does not; `/exit/N` and `/interrupt` raise what ends a
    program; `/events` streams until the server is about to end, as sse-starlette finds out.
    """
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    if scope["type"] == "websocket":
        await hold(receive, send)
        return
    path = scope["path"]
    if path == "/block":
        print("blocking", file=sys.stderr, flush=True)
        time.sleep(60)
    if path == "/forever":
        print("for ever", file=sys.stderr, flush=True)
        await asyncio.sleep(1000)
    if path.startswith("/exit/"):
        sys.exit(int(path.rpartition("/")[2]))
    if path == "/interrupt":
        raise KeyboardInterrupt
    if path == "/events":
        from sse_starlette.sse import EventSourceResponse

        async def ticks() -> AsyncIterator[dict[str, str]]:
            while True:
                yield {"data": "tick"}
                await asyncio.sleep(0.2)

        await EventSourceResponse(ticks())(scope, receive, send)
        return
    await apps.answer(send, b"ok")
