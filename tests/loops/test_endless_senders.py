"""Applications that never stop sending to a peer that is gone are stopped all the same."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer
from tests.support.client import get, handshake
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S

ENOUGH = 10_000_000  # sends, seconds of them, which none that gives the loop its turn comes to


class Talker:
    """Says one thing, blocks its loop until its peer has been reset, then talks on."""

    def __init__(self) -> None:
        self.said = threading.Event()
        self.reset = threading.Event()
        self.stop = threading.Event()
        self.over = threading.Event()
        self.count = 0
        self.told: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            await answer(send, b"%d" % self.count)
            return
        message: dict[str, Any]
        if scope["path"] == "/denied":
            message = {"type": "websocket.http.response.body", "body": b"x", "more_body": True}
            await receive()
            await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        elif scope["type"] == "http":
            message = {"type": "http.response.body", "body": b"x", "more_body": True}
            await send({"type": "http.response.start", "status": 200, "headers": []})
        else:
            message = {"type": "websocket.send", "bytes": b"x"}
            await receive()
            await send({"type": "websocket.accept"})
        await send(message)
        self.said.set()
        self.reset.wait(DEADLINE_S)
        try:
            while self.count < ENOUGH and not self.stop.is_set():
                await send(message)
                self.count += 1
        except OSError as error:
            self.told = error
        self.over.set()


@pytest.mark.parametrize("path", ["/", "/denied"])
def test_a_websocket_is_told_soon(loop: str, path: str) -> None:
    app = Talker()
    with serving(app, loop=loop, lifespan="off") as site:
        client = site.connect()
        client.sendall(handshake(path=path))
        assert app.said.wait(DEADLINE_S)
        client.reset()
        app.reset.set()
        assert app.over.wait(DEADLINE_S)
        assert isinstance(app.told, OSError)
        assert app.count < 1000


def test_a_response_leaves_the_loop_to_others(loop: str) -> None:
    """What is sent to a peer that has gone is ignored (ASGI: HTTP, spec version 2.3); it must not
    be all that happens.
    """
    app = Talker()
    with serving(app, loop=loop, lifespan="off") as site:
        client = site.connect()
        client.sendall(get())
        assert app.said.wait(DEADLINE_S)
        client.reset()
        with site.connect() as other:
            other.sendall(get("/other"))
            app.reset.set()
            assert int(other.response().body) < ENOUGH
        app.stop.set()
        assert app.over.wait(DEADLINE_S)
        assert app.count < ENOUGH
