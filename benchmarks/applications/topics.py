"""FastAPI: what comes on `/fan` is published to all there by `asgi_poller.topics`; what comes on
`/loop` is sent to all there by a loop of `send_text`, in the same server.
"""

from __future__ import annotations

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from asgi_poller import topics

app = FastAPI()
channels: set[WebSocket] = set()


@app.get("/")
async def answer() -> str:
    """That it is ready."""
    return "ready"


@app.websocket("/fan")
async def fan(websocket: WebSocket) -> None:
    """By topics."""
    await websocket.accept()
    await topics.subscribe(websocket, "all")
    async for text in websocket.iter_text():
        await topics.publish("all", text=text)


@app.websocket("/loop")
async def loop(websocket: WebSocket) -> None:
    """By a loop."""
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
