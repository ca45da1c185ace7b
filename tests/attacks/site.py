"""The application that is attacked, what it has seen, and its server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.serve.server import Server
from tests.support.apps import answer
from tests.support.server import Site, serving


@dataclasses.dataclass(slots=True)
class Record:
    """What the application has seen. Written by the server's thread."""

    requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ends: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of WebSockets
    errors: list[BaseException] = dataclasses.field(default_factory=list)  # that send() raised
    audience: set[Send] = dataclasses.field(default_factory=set)  # of `/all`


def application(record: Record) -> Any:
    """HTTP: `/client` gives the client's address, `/tasks` how many tasks there are, others the
    bytes of the body that came. WebSocket: `/flood` sends for ever, `/deaf` receives nothing,
    `/all` sends what comes to everyone there, others echo.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            record.requests.append(dict(scope))
            await _answer(scope, receive, send)
        else:
            await _talk(record, scope, receive, send)

    return app


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    count, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        count += len(message["body"])
        more = message["more_body"]
    body = str(count) if scope["path"] != "/client" else f"{scope['client'][0]} {scope['scheme']}"
    if scope["path"] == "/tasks":
        body = str(len(asyncio.all_tasks()))
    if scope["path"] == "/large":
        body = "x" * (32 * 1024 * 1024)
    await answer(send, body.encode())


async def _talk(record: Record, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    try:
        if scope["path"] == "/flood":
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})
        if scope["path"] == "/all":
            await _tell_all(record.audience, receive, send)
            return
        while scope["path"] != "/deaf":
            message = await receive()
            if message["type"] == "websocket.disconnect":
                record.ends.append({**message, "path": scope["path"]})
                return
            await send({**message, "type": "websocket.send"})
    except OSError as error:
        record.errors.append(error)
        record.ends.append({**await receive(), "path": scope["path"]})
        return
    await record_end(record, receive)


async def record_end(record: Record, receive: Receive) -> None:
    """Wait without reading a message: the test says when that is over."""
    gate = threading.Event()
    record.requests.append({"gate": gate})
    while not gate.is_set():
        await asyncio.sleep(0.01)
    message: dict[str, Any] = {"type": ""}
    while message["type"] != "websocket.disconnect":
        message = dict(await receive())
    record.ends.append(message)


async def _tell_all(audience: set[Send], receive: Receive, send: Send) -> None:
    audience.add(send)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            for to in tuple(audience):
                with contextlib.suppress(OSError):  # one that has gone meanwhile
                    await to({**message, "type": "websocket.send"})
    finally:
        audience.discard(send)


class Target(Site):
    """A server under attack. `record` is what its application has seen."""

    def __init__(self, server: Server, record: Record) -> None:
        super().__init__(server)
        self.record = record


@contextlib.contextmanager
def under_attack(**options: Any) -> Iterator[Target]:
    """The application above, served in this process while the block runs."""
    record = Record()
    defaults = {
        "access_log": True,
        "lifespan": "off",
        "log_config": None,
        "timeout_graceful_shutdown": 2.0,
    }
    with serving(application(record), **(defaults | options)) as site:
        try:
            yield Target(site.server, record)
        finally:
            for request in record.requests:
                if "gate" in request:
                    request["gate"].set()
