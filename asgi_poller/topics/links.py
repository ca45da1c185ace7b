"""What joins the topics of an event loop to those of all others.

A link brings publications to its loop in one order, and `missed` is answered at its place in that
order: what was published before is in the answer or has come already, what is published later
comes later. So a subscriber that joins when the answer comes has no gap and nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

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


def recover(receiver: Receiver, topic: str, missed: Missed) -> None:
    """Give a loop what it missed of a topic since its position, or tell it of a gap."""
    if not missed.is_complete:
        receiver.on_gap(topic, missed.position)
    for publication in missed.publications:
        receiver.on_publication(publication)
