"""Who gets publications: a WebSocket, or a reader in the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

#: What happens to a subscriber that falls further behind than is kept for it: it loses messages, or
#: its WebSocket.
DROP: Final = "drop"
CLOSE: Final = "close"
SLOW: Final = (DROP, CLOSE)

#: `next` of a subscription that has ended: nothing is ever new to it.
ENDED: Final = 1 << 62


class Target(Protocol):
    """Where the publications of subscriptions go. Owned by the loop's thread."""

    @property
    def framing(self) -> int:
        """How its frames are made: one of `framing.py`'s."""

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        """By topic. The loop's topics keep it."""

    @property
    def deliver(self) -> Callable[[Any, int], bool]:
        """Take `count` publications, framed; False, and nothing is taken: it is slow, or ended."""

    def greet(self, frames: Any) -> None:
        """Take what comes before all publications, also if it is slow."""

    async def drain(self) -> None:
        """Wait while it is slow."""

    def frame(self, data: str | bytes) -> bytes:
        """One message, for a target whose frames cannot be shared."""

    def close(self, code: int, reason: str) -> None:
        """It has fallen too far behind."""

    def abort(self) -> None:
        """It is of no use any more."""


class Subscription:
    """One target's part in one topic. `next` is the number, in the loop's log of the topic, of the
    first publication that it has not got. `kind` says which frames it gets: `framing.py`.
    """

    __slots__ = ("deliver", "kind", "lost", "next", "slow", "target")

    def __init__(self, target: Target, kind: int, slow: str) -> None:
        self.target = target
        self.deliver = target.deliver
        self.kind = kind
        self.slow = slow
        self.next = ENDED
        self.lost = 0  # publications, since it was last told


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What `subscribe` returns. `id` is the place in the topic from which on publications come:
    `since`, after a reconnect without any. Not `is_complete`: more was missed than is kept, and
    nothing of it was delivered.
    """

    topic: str
    id: str
    is_complete: bool = True
