"""Who gets publications: a WebSocket, or a reader in the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from asgi_poller.asgi.websocket import WebSocketSession

#: What happens to a subscriber that falls further behind than is kept for it: it loses messages, or
#: its WebSocket.
DROP: Final = "drop"
CLOSE: Final = "close"
SLOW: Final = (DROP, CLOSE)

#: `next` of a subscription that is behind, and of one that has ended: passes have nothing for it.
BEHIND: Final = 1 << 60
ENDED: Final = 1 << 61


class Target(Protocol):
    """Where the publications of subscriptions go. Owned by the loop's thread."""

    @property
    def framing(self) -> int:
        """How its frames are made: one of `framing.py`'s."""

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        """By topic. The loop's topics keep it."""

    def deliver(self, frames: Any, count: int) -> bool:
        """Take `count` publications, as `Framer.joined` gives them for its kind; False, and nothing
        is taken: it is slow, or has ended. Who is slow calls `LoopTopics.resume` when it no longer
        is.
        """

    def greet(self, frames: Any, count: int) -> None:
        """The same for what comes before all publications, also if it is slow."""

    async def drain(self) -> None:
        """Wait while it is slow."""

    def close(self, code: int, reason: str) -> None:
        """It has fallen too far behind."""

    def abort(self) -> None:
        """It is of no use any more."""


class Subscription:
    """One target's part in one topic. `next` is the number, in the loop's backlog of the topic, of
    the first publication that it has not got; for one that is BEHIND that is `place`. `kind` says
    which frames it gets: `framing.py`. A WebSocket that takes frames as they are is its `session`:
    passes write to that without asking the target.
    """

    __slots__ = ("is_greeting", "kind", "lost", "next", "place", "session", "slow", "target")

    def __init__(
        self, target: Target, kind: int, slow: str, session: WebSocketSession | None = None
    ) -> None:
        self.target = target
        self.session = session
        self.kind = kind
        self.slow = slow
        self.next = ENDED
        self.place = 0
        self.lost = 0  # publications, since it was last told
        self.is_greeting = False  # what it missed comes first


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What `subscribe` returns. `id` is the place in the topic from which on publications come:
    `since`, after a reconnect without any. Not `is_complete`: more was missed than is kept, and
    nothing of it was delivered.
    """

    topic: str
    id: str
    is_complete: bool = True
