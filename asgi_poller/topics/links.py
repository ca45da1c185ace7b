"""What joins the topics of an event loop to those of all others.

A link brings publications to its loop in one order, and `missed` is answered at its place in that
order: what was published before is in the answer or has come already, what is published later
comes later. So a subscriber that joins when the answer comes has no gap and nothing twice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from asgi_poller.config import Config
from asgi_poller.topics.hub import HistoryRules, Hub
from asgi_poller.topics.publication import Missed, Publication

Answer = Missed | Exception
Answered = Callable[[Answer], None]


class Receiver(Protocol):
    """The loop's side of a link. Called on the loop's thread."""

    def on_publication(self, publication: Publication) -> None:
        """Something was published to a topic that the loop has joined."""

    def on_gap(self, topic: str, position: str) -> None:
        """Publications of a joined topic are lost; those that come next are behind `position`."""

    def positions(self) -> Iterable[tuple[str, str]]:
        """The topics that the loop has joined, and the id of the last publication of each."""

    def count(self, topic: str) -> int:
        """Subscribers of a topic on this loop. Any thread."""

    @property
    def is_congested(self) -> bool:
        """Whether so much is still to be written to subscribers that more should wait in the hub.
        When that is over, it says `resume` to the link.
        """


class Link(Protocol):
    """Owned by the loop's thread."""

    async def publish(self, topic: str, form: str, data: str | bytes) -> str:
        """Publish; the id. Returns when it is certain that it will be delivered. Raises
        TopicsUnavailable.
        """

    def join(self, topic: str, since: str | None, answered: Answered) -> None:
        """Get what is published to `topic` from now on. `answered` gets, on the loop's thread and
        in the order of publications, what was missed `since`, or why that is not known. A topic
        that is joined already may be joined again, to ask.
        """

    def leave(self, topic: str) -> None:
        """Get nothing more of `topic`."""

    async def subscribers(self, topic: str) -> tuple[int, int]:
        """Of this machine, and of all."""

    def resume(self) -> None:
        """The receiver is not congested any more."""

    def close(self) -> None:
        """The loop ends."""


class LocalHub:
    """The hub of a process that has no other beside it. Any thread makes links."""

    def __init__(self, rules: HistoryRules | None = None, *, is_shared: bool = False) -> None:
        """`is_shared`: threads without a loop publish, too."""
        self.lock = threading.RLock()  # an answer may leave again
        self.hub: Hub[LocalLink] = Hub(rules)
        self.links: tuple[LocalLink, ...] = ()
        # by several loops; or it was: what was posted to one of them may not have come yet
        self.is_shared = is_shared

    @classmethod
    def of(cls, config: Config) -> LocalHub:
        """With the settings' history."""
        return cls(HistoryRules.parsed(config.topics_history))

    def link(self, receiver: Receiver) -> LocalLink:
        """For the running loop."""
        link = LocalLink(self, receiver, asyncio.get_running_loop())
        with self.lock:
            self.links = (*self.links, link)
            self.is_shared |= len(self.links) > 1
        return link

    def publish(self, topic: str, form: str, data: str | bytes) -> str:
        """Publish; the id. Any thread if it is shared."""
        with self.lock:
            publication = self.hub.publish(topic, form, data)
            for link in self.hub.links(topic):
                link._post(link._receiver.on_publication, publication)
        return publication.id


class LocalLink:
    """See Link. Where there are several loops, all that comes to one of them comes by its
    `call_soon_threadsafe`, its own publications too: that is the one order.
    """

    def __init__(self, hub: LocalHub, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        self._receiver = receiver
        self._loop = loop

    async def publish(self, topic: str, form: str, data: str | bytes) -> str:
        return self._hub.publish(topic, form, data)

    def join(self, topic: str, since: str | None, answered: Answered) -> None:
        hub = self._hub
        with hub.lock:
            hub.hub.join(topic, self)
            self._post(answered, hub.hub.missed(topic, since))

    def leave(self, topic: str) -> None:
        with self._hub.lock:
            self._hub.hub.leave(topic, self)

    async def subscribers(self, topic: str) -> tuple[int, int]:
        count = sum(link._receiver.count(topic) for link in self._hub.links)
        return count, count

    def resume(self) -> None:
        """See Link."""

    def close(self) -> None:
        hub = self._hub
        with hub.lock:
            hub.links = tuple(link for link in hub.links if link is not self)
            hub.hub.forget(self)

    def _post(self, call: Callable[..., object], argument: object) -> None:
        if not self._hub.is_shared:
            call(argument)
            return
        try:
            self._loop.call_soon_threadsafe(call, argument)
        except RuntimeError:
            pass  # that loop has ended: it forgets what it wanted in a moment
