"""A server of topics in this process, and a hand on its loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from asgi_poller import topics
from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.topics.loop_topics import LoopTopics
from asgi_poller.topics.publication import TEXT
from tests.support.apps import accept, answer
from tests.support.client import Client
from tests.support.frames import ServerFrame
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until

T = TypeVar("T")
NARROW_BYTES = 4096  # what a client has room for that is soon slow


class Stage:
    """WebSockets subscribe to the topic `a`, as their path says: `/drop`, `/close`, `/ids`, or
    `/ids?ID`. `sessions` are in the order in which they came.
    """

    def __init__(self) -> None:
        self.sessions: list[WebSocketSession] = []
        self.on_request: Callable[[Send], Coroutine[Any, Any, None]] | None = None
        self.on_message: Callable[[Send, str], Coroutine[Any, Any, None]] | None = None
        self.is_announced = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self.on_request is not None:
                await self.on_request(send)
            await answer(send, b"hello")
            return
        await accept(receive, send)
        self.sessions.append(scope["asgi_poller.websocket"])
        slow = "close" if scope["path"] == "/close" else "drop"
        since = scope["query_string"].decode() or None
        is_ids = scope["path"] == "/ids"
        try:
            await topics.subscribe(scope, "a", since=since, ids=is_ids, slow=slow)
            if self.is_announced:
                await send({"type": "websocket.send", "text": "subscribed"})
        except OSError:
            return
        while (message := await receive())["type"] == "websocket.receive":
            if self.on_message is not None:
                await self.on_message(send, message["text"])


class Served(Site):
    """The site, and what its first loop has."""

    @property
    def topics(self) -> LoopTopics:
        serving = self.server._serving
        assert serving is not None
        return serving.loop_servers[0].state.topics

    @property
    def counts(self) -> Any:
        return self.topics._counts

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.topics.loop).result(DEADLINE_S)

    def publish(self, text: str) -> str:
        return self.do(self.topics.publish("a", TEXT, text))

    def subscriber(self, *headers: str, path: str = "/drop", **more: Any) -> Client:
        """A client that has subscribed."""
        before = self.topics.count("a")
        client = self.websocket(*headers, path=path, **more)
        wait_until(lambda: self.topics.count("a") == before + 1, "it has subscribed")
        return client

    def audience(self, stack: contextlib.ExitStack, count: int) -> list[Client]:
        return [stack.enter_context(self.subscriber()) for _ in range(count)]

    def is_behind(self, index: int = 0) -> bool:
        """Whether the subscriber that came as number `index` is slow."""
        return not self.stage.sessions[index].is_ready

    stage: Stage


@contextlib.contextmanager
def staged(**options: Any) -> Iterator[Served]:
    stage = Stage()
    with serving(stage, lifespan="off", **options) as site:
        served = Served(site.server)
        served.stage = stage
        yield served


def make_slow(site: Served, reader: Client, size: int = 32_000) -> int:
    """Publish until the first subscriber, which does not read, is slow; `reader` reads. How many
    messages that took.
    """
    count = 0
    while not site.is_behind():
        site.publish(numbered(count, size))
        assert number_in(reader.frame()) == count
        count += 1
    return count


def numbered(number: int, size: int) -> str:
    return f"{number} ".ljust(size, ".")


def number_in(frame: ServerFrame) -> int:
    return int(frame.payload.split(b" ", 1)[0])


def told(frame: ServerFrame) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(frame.payload)
    return found
