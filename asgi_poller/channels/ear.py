"""What a process hears on topics: a subscriber that hands everything on at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from asgi_poller.topics.framing import READER
from asgi_poller.topics.loop_topics import LoopTopics
from asgi_poller.topics.publication import Lost, Publication
from asgi_poller.topics.subscription import Subscription

_logger = logging.getLogger("asgi_poller.error")


class Ear:
    """See Target. Owned by the thread of the topics' loop. `heard` gets every publication; it is
    never slow.
    """

    framing = READER

    def __init__(self, topics: LoopTopics, heard: Callable[[Publication], None]) -> None:
        self.topics = topics
        self.subscriptions: dict[str, Subscription] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._heard = heard
        self._joined: set[str] = set()
        self._joining: dict[str, asyncio.Task[None]] = {}

    def deliver(self, items: Sequence[Publication | Lost], count: int) -> bool:
        for item in items:
            if isinstance(item, Lost):
                _logger.warning(
                    "Channels: messages of %s did not come to this process.", item.topic
                )
                continue
            try:
                self._heard(item)
            except Exception:  # the others are still to be heard
                _logger.exception("Channels: a message of %s could not be taken.", item.topic)
        return True

    def greet(self, items: Sequence[Publication | Lost], count: int) -> None:
        self.deliver(items, count)

    async def drain(self) -> None:
        """It is never slow."""

    def close(self, code: int, reason: str) -> None:
        """It is never slow."""

    def abort(self) -> None:
        """It does not fail."""

    async def join(self, topic: str) -> None:
        """Hear `topic`, from when this returns. Raises TopicsUnavailable."""
        if topic in self._joined:
            return
        joining = self._joining.get(topic)
        if joining is None:
            joining = self._joining[topic] = asyncio.ensure_future(self._join(topic))
        await asyncio.shield(joining)  # others wait for it too

    async def leave(self, topic: str, is_wanted: Callable[[], bool]) -> None:
        """Hear it no more, unless it is wanted again."""
        joining = self._joining.get(topic)
        if joining is not None:
            await asyncio.wait([joining])
        if topic in self._joined and not is_wanted():
            self._joined.discard(topic)
            self.topics.unsubscribe(self, topic)

    def soon(self, work: Callable[[], None]) -> None:
        """In the loop's next turn."""
        self.topics.loop.call_soon(work)

    async def _join(self, topic: str) -> None:
        try:
            await self.topics.subscribe(self, topic)
            self._joined.add(topic)
        finally:
            del self._joining[topic]
