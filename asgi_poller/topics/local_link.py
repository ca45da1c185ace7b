"""What joins the loops of a process that has no other beside it."""

from __future__ import annotations

import threading

from asgi_poller.config import Config
from asgi_poller.topics.hub import HistoryRules, Hub
from asgi_poller.topics.inbox import Asked, Inbox
from asgi_poller.topics.links import Answered, Receiver
from asgi_poller.topics.publication import Publication


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
        link = LocalLink(self, receiver)
        with self.lock:
            self.links = (*self.links, link)
            self.is_shared |= len(self.links) > 1
        return link

    def publish(self, topic: str, form: str, data: str | bytes) -> str:
        """Publish; the id. Any thread if it is shared."""
        with self.lock:
            publication = self.hub.publish(topic, form, data)
            for link in self.hub.links(topic):
                link.post(publication)
        return publication.id


class LocalLink:
    """See Link. Where there are several loops, all that comes to one of them comes through its
    inbox, its own publications too: that is the one order.
    """

    def __init__(self, hub: LocalHub, receiver: Receiver) -> None:
        self._hub = hub
        self._receiver = receiver
        self.inbox = Inbox(receiver, hub.lock, hub.hub.missed)

    async def publish(self, topic: str, form: str, data: str | bytes) -> str:
        """See Link."""
        hub = self._hub
        with hub.lock:
            published = hub.publish(topic, form, data)
            links = hub.hub.links(topic) if hub.is_shared else ()
        for link in links:
            if link.inbox.is_waited_for:
                await link.inbox.room()
        return published

    def join(self, topic: str, since: str | None, answered: Answered) -> None:
        """See Link."""
        hub = self._hub
        with hub.lock:
            hub.hub.join(topic, self)
            missed = hub.hub.missed(topic, since)
            if hub.is_shared:
                self.inbox.post(Asked(topic, since, answered, missed))
            else:
                answered(missed)

    def leave(self, topic: str) -> None:
        """See Link."""
        with self._hub.lock:
            self._hub.hub.leave(topic, self)

    async def subscribers(self, topic: str) -> tuple[int, int]:
        """See Link."""
        count = sum(link._receiver.count(topic) for link in self._hub.links)
        return count, count

    def resume(self) -> None:
        """See Link."""
        self.inbox.resume()

    def close(self) -> None:
        """See Link."""
        hub = self._hub
        with hub.lock:
            hub.links = tuple(link for link in hub.links if link is not self)
            hub.hub.forget(self)
            self.inbox.close()

    def post(self, publication: Publication) -> None:
        """Something was published to a topic that the loop has joined. The lock is held."""
        if self._hub.is_shared:
            self.inbox.post(publication)
        else:
            self._receiver.on_publication(publication)
