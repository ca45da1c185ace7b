"""Applications that tests of connections are run against."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from tests.support.apps import answer, converse


class Application:
    """An application that does as its path says, and what it has seen. One for each test."""

    def __init__(self) -> None:
        self.started: list[str] = []  # paths, in the order in which requests began
        self.scopes: list[Any] = []
        self.messages: list[Message] = []  # what /watch received
        self.finished = threading.Event()  # /background is over, /watch was disconnected
        self.go_on = threading.Event()  # what /wait waits for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        self.started.append(scope["path"])
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await self.websocket(receive, send)
            return
        name, _, argument = scope["path"].strip("/").partition("/")
        handler = getattr(self, name, self.echo)
        await handler(argument, receive, send)

    async def websocket(self, receive: Receive, send: Send) -> None:
        self.messages.append(await converse(receive, send))
        self.finished.set()

    async def echo(self, argument: str, receive: Receive, send: Send) -> None:
        pieces, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            pieces.append(message["body"])
            more = message["more_body"]
        await answer(send, b"".join(pieces) or argument.encode())

    async def early(self, argument: str, receive: Receive, send: Send) -> None:
        """Answers without looking at the body."""
        await answer(send, b"early")

    async def turns(self, argument: str, receive: Receive, send: Send) -> None:
        """Answers after so many turns of the loop."""
        for _ in range(int(argument)):
            await asyncio.sleep(0)
        await answer(send, argument.encode())

    async def large(self, argument: str, receive: Receive, send: Send) -> None:
        """So many bytes at once."""
        await answer(send, bytes(int(argument)))

    async def stream(self, argument: str, receive: Receive, send: Send) -> None:
        """So many KiB, piece by piece."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(int(argument)):
            await send({"type": "http.response.body", "body": bytes(1024), "more_body": True})
            self.messages.append({"type": "sent"})
            await asyncio.sleep(0)  # to a reader that keeps up, send() never waits
        await send({"type": "http.response.body", "body": b""})

    async def background(self, argument: str, receive: Receive, send: Send) -> None:
        """A large response, and work behind it."""
        await answer(send, bytes(int(argument)))
        await asyncio.sleep(0)
        self.finished.set()

    async def wait(self, argument: str, receive: Receive, send: Send) -> None:
        """Reads nothing until it is told to."""
        while not self.go_on.is_set():
            await asyncio.sleep(0.005)  # another thread sets it
        await self.echo(argument, receive, send)

    async def watch(self, argument: str, receive: Receive, send: Send) -> None:
        """Receives to the end, and then on."""
        while True:
            self.messages.append(await receive())
            if self.messages[-1]["type"] == "http.disconnect":
                break
        self.finished.set()

    async def block(self, argument: str, receive: Receive, send: Send) -> None:
        """Streams a part of its answer and fails."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ZeroDivisionError
