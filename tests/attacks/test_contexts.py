"""Context variables: a request sees what was set around the server and in the lifespan, and nothing
that another request has set.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.config import Config
from asgi_poller.serve.server import Server
from tests.support.client import get, read_exactly, read_to_end
from tests.support.frames import text
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until

AROUND = contextvars.ContextVar("around", default="unset")
LIFESPAN = contextvars.ContextVar("lifespan", default="unset")
USER = contextvars.ContextVar("user", default="nobody")


class Sees:
    """Answers what it sees; then the request's user is set, as a middleware would."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        # also what is set before there is a coroutine
        seen = f"{AROUND.get()} {LIFESPAN.get()} {USER.get()}"
        if scope["type"] != "lifespan":
            USER.set("somebody else")
        return self.answer(seen, scope, receive, send)

    async def answer(self, seen: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            LIFESPAN.set("lifespan")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "text": seen})
            return
        while scope["method"] == "POST" and (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": seen.encode()})


def ask(site: Site) -> None:
    wanted = b"around lifespan nobody"
    one = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
    last = one[:-2] + b"connection: close\r\n\r\n"
    with site.connect() as client:
        client.sendall(one * 3 + post + one + post + last)
        assert read_to_end(client).count(wanted) == 7
    for _ in range(2):
        with site.websocket() as channel:
            channel.sendall(text("?"))
            assert read_exactly(channel, 2 + len(wanted))[2:] == wanted


def test_one_connection_many_users(loop: str) -> None:
    async def main() -> None:
        AROUND.set("around")
        server = Server(Config(Sees(), port=0, loop=loop, log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.to_thread(wait_until, lambda: bool(server.listeners), "it listens")
            await asyncio.to_thread(ask, Site(server))
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, DEADLINE_S)

    asyncio.run(main())


def test_what_is_logged_about_a_request_sees_its_variables(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in uvicorn, where the request's own task logs it: a filter can add the request's id."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        USER.set(scope["path"])
        raise ZeroDivisionError

    users: list[str] = []

    def note_user(record: logging.LogRecord) -> bool:
        users.append(USER.get())
        return True

    logger = logging.getLogger("asgi_poller.error")
    with serving(application, loop=loop, lifespan="off") as site:
        logger.addFilter(note_user)
        try:
            for path in ("/anna", "/bert"):
                with site.connect() as client:
                    client.sendall(get(path))
                    assert client.response().status == 500
        finally:
            logger.removeFilter(note_user)
    assert users == ["/anna", "/bert"]
