"""Rooms with a feed: what is posted to a room comes to everybody who follows it, on every machine.

Run it from the repository, and follow a room in another terminal:

    asgi-poller examples.cluster.feed:app --topics-history 1000,5m

    python -m examples.cluster.follow ws://127.0.0.1:8000/rooms/tea
    curl -X POST 127.0.0.1:8000/rooms/tea -H 'Content-Type: application/json' -d '{"text": "hello"}'
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, WebSocket
from pydantic import BaseModel, Field

from asgi_poller import topics

TRY_AGAIN_LATER = 1013  # close code (RFC 6455, 7.4, and IANA's list)

Room = Annotated[str, Path(max_length=100, pattern=r"^[\w-]+$")]
app = FastAPI(title="Feed")


class Entry(BaseModel):
    """What is posted."""

    text: str = Field(max_length=4000)


class Posted(BaseModel):
    """The id that everybody gets it with."""

    id: str


@app.post("/rooms/{room}")
async def post(room: Room, entry: Entry) -> Posted:
    """Everybody who follows the room gets the entry; a 503 means that it may be posted again."""
    try:
        return Posted(id=await topics.publish(f"room:{room}", json=entry.model_dump()))
    except topics.TopicsUnavailable as error:
        raise HTTPException(503, "try again", {"Retry-After": "1"}) from error


@app.websocket("/rooms/{room}")
async def follow(websocket: WebSocket, room: Room, since: str | None = None) -> None:
    """What is posted from now on; first what was posted after the id `since`."""
    await websocket.accept()
    try:
        await topics.subscribe(websocket, f"room:{room}", since=since, ids=True)
    except topics.TopicsUnavailable:
        await websocket.close(TRY_AGAIN_LATER)
        return
    async for _ in websocket.iter_text():
        pass  # followers say nothing; this ends when they go
