"""The same room in several frameworks: a text is published to all who are in it.

`app` has each below a path of its own: /starlette, /fastapi, ... "count" is answered with the
number of those in the room, "flood" publishes 200 kB.
"""

from __future__ import annotations

import gc
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings

if not settings.configured:
    settings.configure(CHANNEL_LAYERS={}, DATABASES={})

from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from fastapi import FastAPI
from fastapi import WebSocket as FastApiWebSocket
from litestar import Litestar
from litestar import WebSocket as LitestarWebSocket
from litestar import websocket as litestar_websocket
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_poller import topics
from asgi_poller.asgi.types import Application, Receive, Scope, Send

FLOOD_COUNT = 20
FLOOD = "x" * 10_000


async def said(room: str, text: str) -> str | None:
    """What a client has said; an answer for it alone, if any."""
    if text == "count":
        gc.collect()  # frameworks make circles; a server in use collects now and then by itself
        return str((await topics.subscribers(room)).here)
    if text == "flood":
        for _ in range(FLOOD_COUNT):
            await topics.publish(room, text=FLOOD)
        return "flooded"
    await topics.publish(room, text=text)
    return None


async def starlette_room(websocket: WebSocket) -> None:
    query = websocket.query_params
    await websocket.accept()
    await topics.subscribe(
        websocket,
        "starlette",
        since=query.get("since"),
        ids="ids" in query,
        slow=query.get("slow", "drop"),
    )
    async for text in websocket.iter_text():
        if text == "leave":
            answer: str | None = str(await topics.unsubscribe(websocket, "starlette"))
        elif text == "other":
            await topics.subscribe(websocket, "other")
            answer = "subscribed"
        elif text == "twice":
            await topics.publish("other", text="one")
            await topics.publish("starlette", text="two")
            answer = None
        else:
            answer = await said("starlette", text)
        if answer is not None:
            await websocket.send_text(answer)


async def early(websocket: WebSocket) -> None:
    """Subscribes before it accepts."""
    try:
        await topics.subscribe(websocket, "early")
    except RuntimeError as error:
        await websocket.accept()
        await websocket.send_text(str(error))


async def publish(request: Request) -> Response:
    return Response(await topics.publish("starlette", bytes=await request.body()))


starlette_app = Starlette(
    routes=[
        WebSocketRoute("/", starlette_room),
        WebSocketRoute("/early", early),
        Route("/publish", publish, methods=["POST"]),
    ]
)

fastapi_app = FastAPI()


@fastapi_app.websocket("/")
async def fastapi_room(websocket: FastApiWebSocket) -> None:
    await websocket.accept()
    await topics.subscribe(websocket, "fastapi")
    async for text in websocket.iter_text():
        answer = await said("fastapi", text)
        if answer is not None:
            await websocket.send_text(answer)


@fastapi_app.post("/publish")
def from_a_thread(text: str) -> str:
    """An endpoint that is no coroutine runs in a thread without a loop."""
    return topics.publish_threadsafe("fastapi", text=text).result(10)


@litestar_websocket("/")  # type: ignore[untyped-decorator]  # seen by mypy where it is not installed
async def litestar_room(socket: LitestarWebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await topics.subscribe(socket, "litestar")
    async for text in socket.iter_data():
        answer = await said("litestar", str(text))
        if answer is not None:
            await socket.send_text(answer)


litestar_app = Litestar([litestar_room])


class AsyncRoom(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    async def connect(self) -> None:
        await self.accept()
        await topics.subscribe(self, "async")

    async def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
        answer = await said("async", text_data or "")
        if answer is not None:
            await self.send(answer)


class SyncRoom(WebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    def connect(self) -> None:
        self.accept()
        async_to_sync(topics.subscribe)(self, "sync")

    def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
        answer = async_to_sync(said)("sync", text_data or "")
        if answer is not None:
            self.send(answer)


async def bare_room(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    await topics.subscribe(send, "bare")
    while (message := await receive())["type"] == "websocket.receive":
        answer = await said("bare", message["text"])
        if answer is not None:
            await send({"type": "websocket.send", "text": answer})


async def wrapped_room(scope: Scope, receive: Receive, send: Send) -> None:
    """Behind a middleware with a `send` of its own."""

    async def shouting(message: Any) -> None:
        if message.get("text"):
            message = {**message, "text": message["text"].upper()}
        await send(message)

    await bare_room(scope, receive, shouting)


ROOMS: dict[str, Application] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "litestar": litestar_app,
    "async": AsyncRoom.as_asgi(),
    "sync": SyncRoom.as_asgi(),
    "bare": bare_room,
    "wrapped": wrapped_room,
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await starlette_app(scope, receive, send)
        return
    name, _, rest = scope["path"].lstrip("/").partition("/")
    path = f"/{rest}"
    scope.update(path=path, raw_path=path.encode())
    await ROOMS[name](scope, receive, send)
