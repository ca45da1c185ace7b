"""A chat room in FastAPI: a page, and a topic that everyone has subscribed to who has it open.

Run it from the directory above this one, and open http://127.0.0.1:8000/ in two windows:

    asgi-poller examples.chat:app --pollers 8

The room is one for all workers and event loops; who comes new gets the last lines that its worker
has heard. With --topics-history 1000,10m a page that comes back is sent what it missed; without it
the page fetches the last lines anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from asgi_poller import topics

ROOM, MEMBERS = "room", "members"  # topics: what is said, and how many have the page open
HISTORY_COUNT = 50  # lines that a new member gets


class Line(BaseModel):
    """What one member says."""

    name: str = Field(min_length=1, max_length=40)
    text: str = Field(min_length=1, max_length=2000)


class Room(BaseModel):
    """What a page begins with: the last lines, the id of the last of them, how many are here."""

    lines: list[Line] = []
    since: str
    members: int = 0

    async def listen(self, messages: topics.Reading) -> None:
        """Keep what is said, on whichever worker."""
        async for message in messages:
            line = Line.model_validate_json(message.data)
            self.lines = [*self.lines[1 - HISTORY_COUNT :], line]
            self.since = message.id

    async def count(self) -> None:
        """Say how many there are when that changes: also if a worker took some with it."""
        while True:
            with contextlib.suppress(topics.TopicsUnavailable):
                members = (await topics.subscribers(MEMBERS)).everywhere
                if members != self.members:
                    await topics.publish(MEMBERS, json=members)
                    self.members = members
            await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with topics.reading(ROOM) as messages:
        room = Room(since=messages.subscribed[ROOM].id)
        tasks = [asyncio.create_task(room.listen(messages)), asyncio.create_task(room.count())]
        yield {"room": room}
        for task in tasks:
            task.cancel()


app = FastAPI(title="Chat", lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    """The page that opens the WebSocket."""
    return FileResponse(Path(__file__).with_name("chat.html"))


@app.get("/topics.js")
async def script() -> FileResponse:
    return FileResponse(topics.CLIENT_JS)


@app.get("/room")
async def room(request: Request) -> Room:
    """What the page shows first: it subscribes to what comes after that."""
    found: Room = request.state.room
    return found


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """The page says what it wants of the topics, as topics.js does it."""
    await topics.serve(websocket, may=may, prepare=prepared)


def may(websocket: WebSocket, action: str, topic: str) -> bool:
    return topic == ROOM or (topic == MEMBERS and action == "subscribe")


def prepared(websocket: WebSocket, topic: str, value: Any) -> Any:
    """A line and nothing else; a ValueError is the client's mistake."""
    return Line.model_validate(value).model_dump()
