"""A burst of connections while the application computes: all are accepted, and all are served.

What the product is about: accepting is the pollers' work, whatever the application is doing.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import accept, answer
from tests.support.client import Client, get
from tests.support.command import running
from tests.support.crowd import crowd

CONNECTIONS = 2000
BACKLOG = 128
BLOCKED_S = 0.2


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts; a request for /block makes the loop block, again and again, in the command's
    process.
    """
    if scope["type"] == "websocket":
        await accept(receive, send)
        await send({"type": "websocket.send", "text": str(os.getpid())})
        assert (await receive())["type"] == "websocket.disconnect"
    elif scope["type"] == "http":
        if scope["path"] == "/block":
            block()
        await answer(send, b"ok")


def block() -> None:
    """Compute, take a breath, compute again."""
    time.sleep(BLOCKED_S)
    asyncio.get_running_loop().call_soon(block)


@pytest.mark.usefixtures("descriptors")
def test_two_thousand_at_once_while_the_loop_is_blocked(loop: str) -> None:
    options = ["--backlog", str(BACKLOG), "--loop", loop, "--ws-ping-interval", "0"]
    with running(*options, workers=1, app="tests.test_burst:app") as command:
        with Client(command.address[1]) as blocker, crowd(command.address) as visitors:
            blocker.sendall(get("/block"))
            assert blocker.response().status == 200
            visitors.open(CONNECTIONS)
            assert visitors.problems() == {}
            assert visitors.by_worker() == {command.pid: CONNECTIONS}
