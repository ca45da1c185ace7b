"""Publications for the application itself: a stream of server-sent events, a background task.

A reader is a subscriber as a WebSocket is. What it has not read yet stays in the loop's log of the
topic, which it shares with all who are behind; a short list of its own is for who keeps up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json as _json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from asgi_poller.errors import FellBehind
from asgi_poller.topics.current import here, on_loop
from asgi_poller.topics.framing import READER
from asgi_poller.topics.loop_topics import LoopTopics
from asgi_poller.topics.publication import Lost, Publication, checked_topic
from asgi_poller.topics.subscription import DROP, Subscribed, Subscription

#: Publications that a reader has not taken, beyond which it is slow.
READ_AHEAD_COUNT: Final = 64

#: `Message.lost`: some, and nobody knows how many.
UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Message:
    """What a reader gets. `data` is text for the forms "text" and "json", bytes for "bytes"; `id`
    is what `since` takes. `lost` is how many messages of the topic were lost before this one: 0,
    unless the reader was too slow; -1 if nobody knows, since workers or machines were cut off.
    """

    topic: str
    id: str
    form: str
    data: str | bytes
    lost: int = 0

    def json(self) -> Any:
        """`data`, parsed. Raises ValueError for what is no JSON."""
        return _json.loads(self.data)


class ReaderTarget:
    """A reader as a subscriber (see Target). Owned by the thread of the topics' loop."""

    framing = READER

    def __init__(self, topics: LoopTopics) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self._topics = topics
        self._items: deque[Publication | Lost] = deque()
        self._arrived: asyncio.Event = asyncio.Event()
        self._takes_all = False
        self.is_over = topics.is_ending
        self._error: Exception | None = None
        topics.endings.add(self.end)

    def deliver(self, items: Sequence[Publication | Lost], count: int) -> bool:
        if self.is_over or (len(self._items) >= READ_AHEAD_COUNT and not self._takes_all):
            return False
        self.greet(items, count)
        return True

    def greet(self, items: Sequence[Publication | Lost], count: int) -> None:
        self._items.extend(items)
        self._arrived.set()

    async def drain(self) -> None:
        """What is missed waits for the reader: it has not begun to read."""

    def close(self, code: int, reason: str) -> None:
        self._error = FellBehind(f"topics: {reason}")
        self.end()

    def abort(self) -> None:
        self.end()

    def end(self) -> None:
        """Nothing more comes; what has come can still be taken."""
        if not self.is_over:
            self.is_over = True
            self._topics.endings.discard(self.end)
            self._topics.leave(self)
            self._arrived.set()

    async def take(self) -> list[Publication | Lost]:
        """All that has come, something at least; nothing: it has ended. Raises FellBehind."""
        while not self._items and not self.is_over:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._items and self._error is not None:
            raise self._error
        taken = list(self._items)
        self._items.clear()
        self._takes_all = True  # one topic after the other
        try:
            self._topics.resume(self)
        finally:
            self._takes_all = False
        return taken


class Reading:
    """What `reading` returns: an async context manager, and in it an async iterator of Message.

    In the block, `subscribed` has for each topic what `subscribe` returns for a WebSocket.
    """

    def __init__(self, topics: Sequence[str], since: str | Mapping[str, str] | None, slow: str):
        if not topics:
            raise ValueError("reading wants a topic")
        if isinstance(since, str) and len(topics) > 1:
            raise ValueError("reading of several topics wants `since` as {topic: id}")
        self.subscribed: dict[str, Subscribed] = {}
        self._names = topics
        self._since = {topics[0]: since} if isinstance(since, str) else (since or {})
        self._slow = slow
        self._topics: LoopTopics | None = None
        self._target: ReaderTarget | None = None
        self._items: deque[Publication | Lost] = deque()
        self._lost: dict[str, int] = {}
        self._taking: concurrent.futures.Future[list[Publication | Lost]] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all that was missed comes; else the state is to be fetched again."""
        return all(each.is_complete for each in self.subscribed.values())

    async def __aenter__(self) -> Reading:
        if self._topics is not None:
            raise RuntimeError("what `reading` returns is for one `async with`")
        self._topics = here()
        await on_loop(self._topics, self._start(self._topics))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        topics, target = self._topics, self._target
        if topics is None or target is None:
            return
        if self._taking is not None:
            self._taking.cancel()
        if topics.loop is asyncio.get_running_loop():
            target.end()
        elif not topics.is_closed:
            topics.loop.call_soon_threadsafe(target.end)

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> Message:
        while True:
            while not self._items:
                taken = await self._take()
                if not taken:
                    raise StopAsyncIteration
                self._items.extend(taken)
            item = self._items.popleft()
            if isinstance(item, Publication):
                lost = self._lost.pop(item.topic, 0) if self._lost else 0
                return Message(item.topic, item.id, item.form, item.data, lost)
            before = self._lost.get(item.topic, 0)
            is_unknown = item.count is None or before == UNKNOWN
            self._lost[item.topic] = UNKNOWN if is_unknown else before + (item.count or 0)

    async def _start(self, topics: LoopTopics) -> None:
        target = self._target = ReaderTarget(topics)
        try:
            for name in self._names:
                since = self._since.get(name)
                if target.is_over:
                    self.subscribed[name] = Subscribed(checked_topic(name), since or "")
                else:
                    self.subscribed[name] = await topics.subscribe(
                        target, name, since=since, slow=self._slow
                    )
        except BaseException:  # raised again; nobody reads then
            target.end()
            raise

    async def _take(self) -> list[Publication | Lost]:
        topics, target = self._topics, self._target
        if topics is None or target is None:
            raise RuntimeError("read in `async with topics.reading(...) as messages:`")
        if topics.loop is asyncio.get_running_loop():
            return await target.take()
        if topics.is_closed and self._taking is None:
            return []
        # from another loop: who is cancelled while it waits has what was taken the next time
        if self._taking is None:
            self._taking = asyncio.run_coroutine_threadsafe(target.take(), topics.loop)
        taking = self._taking
        if not taking.done():
            await asyncio.shield(asyncio.wrap_future(taking))
        self._taking = None
        return taking.result()


def reading(
    *topics: str, since: str | Mapping[str, str] | None = None, slow: str = DROP
) -> Reading:
    """Read what is published to `topics`, from when the block begins to its end:

        async with topics.reading("room:1", since=last_id) as messages:
            async for message in messages:
                ...  # message.id, message.data, message.json()

    `since` is an id, or {topic: id}: what was published after it comes first. `slow` is what
    happens if so little is read that more than 1 MiB of a topic waits: "drop" (the oldest are
    lost: `message.lost`) or "close" (FellBehind is raised). Nobody waits for a reader. The iterator
    ends when the server begins to stop.

    Raises ValueError and TopicsUnavailable, when the block begins.
    """
    return Reading(topics, since, slow)
