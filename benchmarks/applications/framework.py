"""The same in FastAPI: a WebSocket echo, a message sent to all, and a small JSON answer."""

from __future__ import annotations

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
channels: set[WebSocket] = set()


@app.get("/")
async def answer() -> dict[str, object]:
    """What a small API answers."""
    return {"id": 1, "name": "asgi", "tags": ["fast", "even"], "active": True}


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    """Send back what comes."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        return


@app.websocket("/fan")
async def fan(websocket: WebSocket) -> None:
    """Send what comes to everybody."""
    await websocket.accept()
    channels.add(websocket)
    try:
        while True:
            text = await websocket.receive_text()
            for channel in tuple(channels):
                await channel.send_text(text)
    except WebSocketDisconnect:
        return
    finally:
        channels.discard(websocket)
