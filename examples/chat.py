"""A chat room in FastAPI: a page, and a WebSocket for everyone who has it open.

Run it from the directory above this one, and open http://127.0.0.1:8000/ in two windows:

    asgi-poller examples.chat:app --pollers 8

The room lives in this process: with --workers or --loops above 1 there would be several rooms, and
a message broker would have to connect them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field, ValidationError

PAGE = Path(__file__).with_name("chat.html").read_text(encoding="utf-8")
HISTORY_COUNT = 50  # lines that a new member gets
UNREAD_COUNT = 100  # lines that may wait for one member; beyond that it is disconnected


class Line(BaseModel):
    """What one member says."""

    name: str = Field(min_length=1, max_length=40)
    text: str = Field(min_length=1, max_length=2000)


class Event(BaseModel):
    """What every member gets: a line, or None, and the number of members."""

    line: Line | None
    members: int


class Member:
    """One open window, with a queue of its own: a slow member does not delay the others."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.unread: asyncio.Queue[Event] = asyncio.Queue(UNREAD_COUNT)

    async def write(self) -> None:
        """Send events until this is cancelled or the client has disconnected."""
        with contextlib.suppress(WebSocketDisconnect, OSError):
            while True:
                event = await self.unread.get()
                await self.websocket.send_text(event.model_dump_json())


class Room:
    """The members, and the last lines."""

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.history: list[Line] = []

    @contextlib.asynccontextmanager
    async def enter(self, websocket: WebSocket) -> AsyncIterator[None]:
        """Be a member while the block runs."""
        member = Member(websocket)
        for line in self.history:
            member.unread.put_nowait(Event(line=line, members=len(self.members) + 1))
        self.members.add(member)
        self.tell(None)
        writer = asyncio.create_task(member.write())
        try:
            yield
        finally:
            writer.cancel()
            self.members.discard(member)
            self.tell(None)

    def tell(self, line: Line | None) -> None:
        """Send a line to all members, or only their number."""
        if line is not None:
            self.history = [*self.history[1 - HISTORY_COUNT :], line]
        event = Event(line=line, members=len(self.members))
        for member in list(self.members):
            try:
                member.unread.put_nowait(event)
            except asyncio.QueueFull:
                self.members.discard(member)
                asyncio.ensure_future(member.websocket.close(1008, "too slow"))  # noqa: RUF006


app = FastAPI(title="Chat")
room = Room()


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    """The page that opens the WebSocket."""
    return PAGE


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Lines come in as JSON, events go out as JSON."""
    await websocket.accept()
    async with room.enter(websocket):
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                text = await websocket.receive_text()
                try:
                    line = Line.model_validate_json(text)
                except ValidationError:
                    await websocket.close(1008, "not a line of chat")
                    return
                room.tell(line)
