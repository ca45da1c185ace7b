"""A FastAPI application that says which request id and trace context it sees."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response, WebSocket
from starlette.requests import HTTPConnection

app = FastAPI()


def seen(connection: HTTPConnection) -> dict[str, object]:
    extensions = connection.scope.get("extensions", {})
    return {
        "ids": connection.headers.getlist("x-request-id"),
        "extension": extensions.get("asgi_poller.request_id"),
        "traceparent": connection.headers.get("traceparent"),
        "tracestate": connection.headers.get("tracestate"),
    }


@app.get("/")
def home(request: Request) -> dict[str, object]:
    return seen(request)


@app.get("/own")
def own(response: Response) -> None:
    response.headers["X-Request-Id"] = "mine"


@app.get("/fail")
def fail() -> None:
    raise RuntimeError("told to fail")


@app.websocket("/ws")
async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_json(seen(socket))
    await socket.close()


@app.websocket("/own")
async def own_websocket(socket: WebSocket) -> None:
    await socket.accept(headers=[(b"X-Request-ID", b"mine")])
    await socket.close()


@app.websocket("/deny")
async def deny(socket: WebSocket) -> None:
    await socket.send_denial_response(Response("no", 401))


@app.websocket("/close")
async def close(socket: WebSocket) -> None:
    await socket.close()
