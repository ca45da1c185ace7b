"""A burst of connections while the application computes: all are accepted, and all are served.

What the product is about: accepting is the pollers' work, whatever the application is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import selectors
import socket
import time
from collections.abc import Iterator

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.client import handshake
from tests.support.command import running
from tests.support.waiting import DEADLINE_S

CONNECTIONS = 2000
BACKLOG = 128
BLOCKED_S = 0.2


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts; a request for /block makes the loop block, again and again, in the command's
    process.
    """
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["type"] == "http":
        if scope["path"] == "/block":
            block()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def block() -> None:
    """Compute, take a breath, compute again."""
    time.sleep(BLOCKED_S)
    asyncio.get_running_loop().call_soon(block)


class Client:
    """A non-blocking socket on its way to an open WebSocket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.request = handshake()
        self.answer = b""
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(address)

    @property
    def is_open(self) -> bool:
        return self.answer.startswith(b"HTTP/1.1 101 ") and self.answer.endswith(b"\r\n\r\n")

    def go_on(self) -> bool:
        """Whether there is more to come. Raises OSError if the connection has failed."""
        if self.request:
            error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            self.request = self.request[self.socket.send(self.request) :]
            return True
        data = self.socket.recv(4096)
        if not data:
            raise ConnectionError(f"the server hung up after {self.answer!r}")
        self.answer += data
        return not self.is_open


def opened(address: tuple[str, int], count: int) -> list[Client]:
    """So many WebSockets, all at once; those that are open by the deadline."""
    clients = []
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            client = Client(address)
            clients.append(client)
            selector.register(client.socket, selectors.EVENT_WRITE, client)
        waiting = count
        deadline = time.monotonic() + DEADLINE_S
        while waiting and time.monotonic() < deadline:
            for key, _ in selector.select(1.0):
                client = key.data
                try:
                    if not client.go_on():
                        selector.unregister(client.socket)
                        waiting -= 1
                    elif not client.request:
                        selector.modify(client.socket, selectors.EVENT_READ, client)
                except OSError as error:
                    selector.unregister(client.socket)
                    client.answer = repr(error).encode()
                    waiting -= 1
    return clients


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them, for this process and those it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 500
    if before[1] != resource.RLIM_INFINITY and before[1] < wanted:
        pytest.skip(f"the hard limit of descriptors is {before[1]}, {wanted} are needed")
    if before[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.usefixtures("descriptors")
def test_two_thousand_at_once_while_the_loop_is_blocked(loop: str) -> None:
    options = ["--backlog", str(BACKLOG), "--loop", loop, "--ws-ping-interval", "0"]
    with running(*options, workers=1, app="tests.test_burst:app") as command:
        blocker = socket.create_connection(command.address)
        blocker.sendall(b"GET /block HTTP/1.1\r\nHost: test\r\n\r\n")
        blocker.settimeout(DEADLINE_S)
        assert blocker.recv(1000).startswith(b"HTTP/1.1 200 ")
        clients = opened(command.address, CONNECTIONS)
        failures = [client.answer for client in clients if not client.is_open]
        assert failures == []
        for client in clients:
            client.socket.close()
        blocker.close()
