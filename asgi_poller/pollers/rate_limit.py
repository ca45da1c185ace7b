"""RateLimiter: applies ConnectionLimits to each accepted connection, and --limit-accept-rate.

A poller calls it for every connection that it accepts. What is let in is returned at once. What is
over a limit is rejected (`rejector`). What exceeds the accept rate is held back, in order, until
it may go on: pollers ask for it in their rounds. `limit_pending` connections are held back at
most.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from asgi_poller.config import Config
from asgi_poller.handoff.thread_lane import drop
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.connection_limits import ConnectionLimits, Refusal, TokenBucket
from asgi_poller.pollers.rejector import RETRY_AFTER_S, over_limit

Admit = Callable[[Accepted], Accepted | None]
"""Decides on a connection before a loop sees it; on the poller's thread, must not wait.

Returns what to hand over, or None if it keeps the connection. Raises Rejected.
"""


class HeldBack(Protocol):
    """Connections that admission has kept until their turn comes. Any thread."""

    def due(self) -> list[Accepted]:
        """Those whose turn it is; the caller owns them."""

    def next_s(self) -> float | None:
        """Seconds until the next turn; None: nobody waits."""


class RateLimiter:
    """Any poller's thread may call it; one short lock.

    What it lets in has a ticket: the loop or poller that closes that connection calls
    `connection_limits.end(ticket)`. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        connection_limits: ConnectionLimits,
        config: Config,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connection_limits = connection_limits
        self._clock = clock
        rate = config.limit_accept_rate
        self._bucket = None if rate is None else TokenBucket(rate, clock())
        self._pending_limit = config.limit_pending
        # When the last of them would have been let in, a client may try again.
        wait_s = RETRY_AFTER_S if rate is None else math.ceil(config.limit_pending / rate)
        self._retry_after_s = max(1, min(wait_s, 60))
        self._pending: deque[Accepted] = deque()
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def pending(self) -> int:
        """Connections that are held back now."""
        return len(self._pending)

    def __call__(self, accepted: Accepted) -> Accepted | None:
        """What to hand over; None if the connection is held back. Raises Rejected; then its ticket
        has ended, and the descriptor is the caller's.
        """
        ticket = self.connection_limits.enter(accepted.peer)
        if isinstance(ticket, Refusal):
            raise over_limit(ticket)
        accepted = accepted._replace(ticket=ticket)
        if self._bucket is None:
            return accepted
        with self._lock:
            # Those who came before go first, whatever the bucket holds by now.
            if not self._pending and self._bucket.take(self._clock()):
                return accepted
            if len(self._pending) < self._pending_limit and not self._stopped:
                self._pending.append(accepted)
                return None
        self.connection_limits.end(ticket)
        raise over_limit(Refusal.ACCEPT_RATE, self._retry_after_s)

    def due(self) -> list[Accepted]:
        """Those that were held back and whose turn has come; the caller hands them over."""
        batch: list[Accepted] = []
        if self._pending and self._bucket is not None:
            with self._lock:
                now = self._clock()
                while self._pending and self._bucket.take(now):
                    batch.append(self._pending.popleft())
        return batch

    def next_s(self) -> float | None:
        """Seconds until the next turn; None: nobody waits for one."""
        if not self._pending or self._bucket is None:
            return None
        with self._lock:
            return self._bucket.wait_s(self._clock())

    def stop(self) -> None:
        """Close what is held back. After the pollers. Idempotent."""
        with self._lock:
            self._stopped = True
            left, self._pending = self._pending, deque()
        for accepted in left:
            drop(accepted, self.connection_limits.end)
