"""Applications of FastAPI, Starlette and Channels' kind, served over both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.exceptions import WebSocketException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.fake_connection import errors_in
from tests.support.server import Site, serving
from tests.support.waiting import run, wait_until


class Seen:
    """What happened in the application, for the test's thread to see."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.changed = threading.Condition()

    def add(self, event: Any) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait_for(self, event: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: event in self.events, 10), self.events


def fastapi_app(seen: Seen) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        seen.add("start")
        yield {"pool": "the pool"}
        seen.add("stop")

    app = FastAPI(lifespan=lifespan)

    @app.get("/items/{number}")
    async def item(number: int, request: Request, q: str | None = None) -> dict[str, Any]:
        return {"number": number, "q": q, "pool": request.state.pool}

    @app.post("/items")
    def create(item: dict[str, Any]) -> dict[str, Any]:  # in a thread
        return {"created": item, "main": threading.current_thread().name == "asgi-poller"}

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            try:
                for number in range(1_000_000):
                    yield f"{number}\n"
                    await asyncio.sleep(0)
            finally:
                seen.add("stream over")

        return StreamingResponse(pieces(), media_type="text/plain")

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> Response:
        tasks.add_task(seen.add, "in the background")
        return PlainTextResponse("x" * 5_000_000, background=tasks)

    @app.get("/missing")
    async def missing() -> None:
        raise HTTPException(404, "there is none")

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    @app.post("/upload")
    async def upload(request: Request) -> int:
        received_bytes = 0
        async for piece in request.stream():
            received_bytes += len(piece)
        return received_bytes

    async def authorised(websocket: WebSocket) -> str:
        if "token" not in websocket.query_params:
            raise WebSocketException(1008, "no token")
        return websocket.query_params["token"]

    @app.websocket("/ws")
    async def talk(websocket: WebSocket, token: str = Depends(authorised)) -> None:
        await websocket.accept(subprotocol=None, headers=[(b"x-token", token.encode())])
        try:
            while True:
                message = await websocket.receive_json()
                await websocket.send_json({"got": message, "pool": websocket.state.pool})
        except WebSocketDisconnect as gone:
            seen.add(("gone", gone.code, gone.reason))

    @app.websocket("/close/{code}")
    async def close(websocket: WebSocket, code: int) -> None:
        await websocket.accept()
        await websocket.close(code, "closed by the application")

    @app.websocket("/push")
    async def push(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("tick")
                await asyncio.sleep(0.005)
        except WebSocketDisconnect:
            seen.add("push over")

    @app.websocket("/fails")
    async def fails(websocket: WebSocket) -> None:
        await websocket.accept()
        raise ZeroDivisionError

    @app.websocket("/denied")
    async def denied(websocket: WebSocket) -> None:
        await websocket.send_denial_response(JSONResponse({"why": "closed today"}, 503))

    return app


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def fastapi(loop: str, seen: Seen) -> Iterator[Site]:
    with serving(fastapi_app(seen), loop=loop, lifespan="on") as site:
        yield site


def test_fastapi_over_http(fastapi: Site, seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    with httpx.Client(base_url=fastapi.url()) as client:
        assert client.get("/items/5", params={"q": "a b"}).json() == {
            "number": 5,
            "q": "a b",
            "pool": "the pool",
        }
        assert client.get("/items/five").status_code == 422
        assert client.get("/missing").json() == {"detail": "there is none"}
        assert client.get("/nowhere").status_code == 404
        created = client.post("/items", json={"a": 1}).json()
        assert created == {"created": {"a": 1}, "main": False}
        assert client.get("/openapi.json").json()["openapi"].startswith("3.")
        assert errors_in(caplog) == []
        broken = client.get("/broken")
        assert (broken.status_code, broken.text) == (500, "Internal Server Error")
        wait_until(lambda: errors_in(caplog) == ["Exception in ASGI application"])
        assert client.get("/items/6").status_code == 200


def test_fastapi_streams_and_works_in_the_background(fastapi: Site, seen: Seen) -> None:
    with httpx.Client(base_url=fastapi.url()) as client:
        assert len(client.get("/background").content) == 5_000_000
        seen.wait_for("in the background")
        with client.stream("GET", "/stream") as response:
            lines = response.iter_lines()
            assert [next(lines) for _ in range(3)] == ["0", "1", "2"]
        seen.wait_for("stream over")  # nobody listens any longer
        pieces = (b"x" * 10_000 for _ in range(100))
        assert client.post("/upload", content=pieces).json() == 1_000_000


async def test_fastapi_websockets(
    fastapi: Site, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    url = fastapi.url("/ws?token=abc", scheme="ws")
    async with connect(url) as client:
        assert client.response is not None
        assert client.response.headers["x-token"] == "abc"
        for number in range(3):
            await client.send(f'{{"n": {number}}}')
            assert str(number) in str(await client.recv())
        await client.close(4000, "enough")
    with pytest.raises(InvalidStatus) as refused:
        await connect(fastapi.url("/ws", scheme="ws"))
    assert refused.value.response.status_code == 403
    async with connect(fastapi.url("/close/4005", scheme="ws")) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            4005,
            "closed by the application",
        )
    with pytest.raises(InvalidStatus) as denied:
        await connect(fastapi.url("/denied", scheme="ws"))
    assert denied.value.response.status_code == 503
    assert denied.value.response.body == b'{"why":"closed today"}'
    seen.wait_for(("gone", 4000, "enough"))
    assert errors_in(caplog) == []


def test_a_lost_peer_ends_an_endpoint_that_only_sends(fastapi: Site, seen: Seen) -> None:
    client = fastapi.websocket(path="/push")
    assert client.frame().payload == b"tick"
    client.reset()
    seen.wait_for("push over")


def test_an_endpoint_that_fails_closes_with_1011(
    fastapi: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with fastapi.websocket(path="/fails") as client:
        assert client.frame().close_code == 1011
    wait_until(lambda: errors_in(caplog) == ["Exception in ASGI application"])


def test_fastapi_lives_from_start_to_stop(loop: str, seen: Seen) -> None:
    with serving(fastapi_app(seen), loop=loop, lifespan="on"):
        assert seen.events == ["start"]
    assert seen.events == ["start", "stop"]


# Starlette, mounted and by class


class Echo(WebSocketEndpoint):
    encoding = "bytes"

    async def on_receive(self, websocket: WebSocket, data: bytes) -> None:
        await websocket.send_bytes(data)


def test_starlette() -> None:
    async def who(request: Request) -> Response:
        return JSONResponse({"path": request.url.path, "root": request.scope["root_path"]})

    inner = Starlette(routes=[Route("/who", who), WebSocketRoute("/echo", Echo)])
    app = Starlette(routes=[Mount("/inner", inner), Route("/who", who)])
    with serving(app, root_path="/api") as site:
        assert httpx.get(site.url("/who")).json()["path"].endswith("/who")
        assert httpx.get(site.url("/inner/who")).json()["root"] == "/api/inner"
        with site.websocket(path="/inner/echo") as client:
            client.sendall(b"\x82\x83\0\0\0\0abc")
            assert client.frame().payload == b"abc"


def test_a_consumer_of_channels_kind() -> None:
    """A task that waits for the peer beside one that waits for the group, as Channels does."""

    class Consumer:
        def __init__(self) -> None:
            self.group: asyncio.Queue[str] = asyncio.Queue()

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})
            incoming = asyncio.ensure_future(receive())
            outgoing = asyncio.ensure_future(self.group.get())
            while True:
                await asyncio.wait({incoming, outgoing}, return_when=asyncio.FIRST_COMPLETED)
                if outgoing.done():
                    await send({"type": "websocket.send", "text": outgoing.result()})
                    outgoing = asyncio.ensure_future(self.group.get())
                if incoming.done():
                    message = incoming.result()
                    if message["type"] == "websocket.disconnect":
                        outgoing.cancel()
                        return
                    await self.group.put(f"group: {message['text']}")
                    incoming = asyncio.ensure_future(receive())

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await Consumer()(scope, receive, send)

    async def main(site: Site) -> None:
        async with connect(site.url(scheme="ws")) as client:
            for number in range(50):
                await client.send(str(number))
            assert [await client.recv() for _ in range(50)] == [f"group: {n}" for n in range(50)]

    with serving(application) as site:
        run(main(site))


async def pieces(seen: Seen, kind: str) -> AsyncIterator[bytes]:
    try:
        while True:
            yield bytes(1000)
            if kind == "sleep0":
                await asyncio.sleep(0)
            elif kind == "sleep":
                await asyncio.sleep(0.001)
    finally:
        seen.add("closed")


@pytest.mark.parametrize("kind", ["plain", "sleep0", "sleep"])
def test_an_abandoned_stream_is_closed_at_once(loop: str, kind: str) -> None:
    """Not only by the garbage collector, which may take its time: a camera, a cursor, a lock."""
    seen = Seen()

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(pieces(seen, kind))

    gc.disable()
    try:
        with serving(Starlette(routes=[Route("/", stream)]), loop=loop) as site:
            client = site.connect()
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(100)
            client.close()
            seen.wait_for("closed")
    finally:
        gc.enable()


def test_a_close_after_the_client_closed_is_no_mistake(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()

    async def talk(websocket: Any) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.receive_text()
        finally:
            seen.add("finally")
            await websocket.send({"type": "websocket.close", "code": 1000})
            seen.add("closed")

    async def main(url: str) -> None:
        async with connect(url) as client:
            await client.send("hello")

    app = Starlette(routes=[WebSocketRoute("/", talk)])
    with serving(app, loop=loop) as site:
        run(main(site.url(scheme="ws")))
        seen.wait_for("finally")
    # the framework's own view of its states is its own business: none of it is ours to log
    assert not [one for one in errors_in(caplog) if "ClientDisconnected" in one]
