"""What joins the hubs of several machines: a service that they all reach."""

from __future__ import annotations

from typing import Any, Protocol

from asgi_poller.topics.publication import Missed, Publication


class UpstreamReceiver(Protocol):
    """The hub's side of an upstream. Called on the hub's loop."""

    def on_publication(self, publication: Publication) -> None:
        """Something was published to a joined topic: in the order of the topic, without a gap or a
        double, also across the upstream's own reconnects, as far as its history reaches.
        """

    def on_gap(self, topic: str, position: str) -> None:
        """Publications of a joined topic are lost; those that come next are behind `position`."""

    async def subscribers_here(self, topic: str) -> int:
        """How many this machine has, for another one that counts."""


class Upstream(Protocol):
    """With an upstream, ids and history are the upstream's. Owned by the hub's loop.

    The data of publications are bytes in both directions: UTF-8 for the forms text and JSON.
    """

    async def start(self, receiver: UpstreamReceiver) -> None:
        """Begin to connect. It need not be reachable yet."""

    async def close(self) -> None:
        """The hub ends."""

    async def publish(self, topic: str, form: str, data: bytes) -> str:
        """Publish; the id, of at most `wire.ID_BYTES`. Calls begin in the order in which things
        were published, and each runs in a task of its own: what a call has done before its first
        wait keeps that order. Raises TopicsUnavailable.
        """

    def join(self, topic: str) -> None:
        """Give the receiver what is published to `topic`."""

    def leave(self, topic: str) -> None:
        """Nothing more of `topic`."""

    async def missed(self, topic: str, since: str | None) -> Missed:
        """What was published to a joined topic after `since`, up to a place from which on
        publications come by `on_publication`, or have come; None: nothing, only such a place.
        Publications may be in both. Raises TopicsUnavailable.
        """

    def order(self, id: str) -> Any:
        """What ids of one topic are compared by (`<`, `==`); None: it is no id of this upstream, or
        its ids have no order.
        """

    async def reach(self) -> str:
        """Ask the service whether it answers, without `start`; what it is, in a word or two. Raises
        ServiceLost.
        """

    async def subscribers(self, topic: str, here: int) -> int:
        """Of all machines; `here` are those of this one. Raises TopicsUnavailable."""
