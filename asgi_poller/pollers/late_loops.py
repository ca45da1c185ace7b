"""LateLoops: looks after connections that have been handed over, until a loop has taken them.

A loop that is late (`thread_lane.LATE_S`) while another one answers loses what it has not taken.
Nobody reports a loop that does nothing, so the pollers look again: once LATE_S later, and
as long as something waits every PROMPT_S. Where loops answer that is one look in the calm, and none
that a busy poller would notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from asgi_poller.handoff.thread_lane import LATE_S, PROMPT_S
from asgi_poller.loops.accepted_socket import Accepted


class LatePool(Protocol):
    """The part of a poller pool that LateLoops needs."""

    @property
    def is_owed(self) -> bool:
        """Whether a loop has yet to take what it was given, where another one might take it."""

    def relieve(self) -> list[Accepted]:
        """Take back what waits for loops that are late, if another one is not."""


class LateLoops:
    """One poller's looks. Owned by its thread. `clock` gives monotonic seconds."""

    __slots__ = ("_at", "_clock", "_lanes")

    def __init__(self, lanes: LatePool, clock: Callable[[], float] = time.monotonic) -> None:
        self._lanes = lanes
        self._clock = clock
        self._at: float | None = None  # of the next look

    def next_s(self) -> float | None:
        """Seconds until the next look; None: nothing waits."""
        return None if self._at is None else max(0.0, self._at - self._clock())

    def look(self) -> list[Accepted]:
        """Look, if it is time. Returns what is to be handed over again; the caller owns it."""
        if self._at is None:
            if self._lanes.is_owed:
                self._at = self._clock() + LATE_S
            return []
        now = self._clock()
        if now < self._at:
            return []
        taken = self._lanes.relieve()
        self._at = now + PROMPT_S if taken or self._lanes.is_owed else None
        return taken
