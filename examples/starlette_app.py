"""A Starlette application: state from the lifespan, a streamed response, a WebSocket endpoint.

Run it from the directory above this one:

    asgi-poller examples.starlette_app:app

Then `curl http://127.0.0.1:8000/`, for a response in pieces `curl -N http://127.0.0.1:8000/count/5`,
and for the WebSocket `python -m websockets ws://127.0.0.1:8000/shout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TypedDict

from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


class State(TypedDict):
    """What the lifespan leaves for every request and WebSocket."""

    started_at: float


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    """Open here what lives as long as the server, such as a pool of database connections."""
    yield {"started_at": time.monotonic()}


async def home(request: Request) -> Response:
    """For how long the server has been up."""
    return JSONResponse({"up_seconds": round(time.monotonic() - request.state.started_at, 3)})


async def count(request: Request) -> Response:
    """Lines with numbers, each sent when it is made."""
    last: int = request.path_params["last"]

    async def numbers() -> AsyncIterator[str]:
        for number in range(1, last + 1):
            yield f"{number}\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(numbers(), media_type="text/plain")


class Shout(WebSocketEndpoint):
    """Sends text back in capitals. Clients may ask for the subprotocol `shout`."""

    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        offered: list[str] = websocket.scope["subprotocols"]
        await websocket.accept(subprotocol="shout" if "shout" in offered else None)

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data.upper())


app = Starlette(
    routes=[
        Route("/", home),
        Route("/count/{last:int}", count),
        WebSocketRoute("/shout", Shout),
    ],
    lifespan=lifespan,
)
