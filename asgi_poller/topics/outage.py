"""While the service that joins machines cannot be reached: what is said of it, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterator
from typing import Final

_logger = logging.getLogger("asgi_poller.error")

# Seconds between two attempts to reach the service: the first, and the most.
_FIRST_DELAY_S: Final = 0.05
_MOST_DELAY_S: Final = 5.0


def delays() -> Iterator[float]:
    """Seconds to wait before each attempt: they double, and no two servers have the same."""
    delay_s = _FIRST_DELAY_S
    while True:
        yield delay_s * random.uniform(0.5, 1.0)
        delay_s = min(delay_s * 2, _MOST_DELAY_S)


class Outage:
    """Owned by the hub's loop. `service` is the URL as it may be shown.

    The way to publish and the way to listen break and come back each by itself: the outage lasts
    while one of them (`begin`, `end`: the same `part`) is broken.
    """

    def __init__(self, service: str, buffer_count: int) -> None:
        self.outages = 0  # ever
        self.buffered = 0  # publications that waited for the end of an outage, ever
        self.refused = 0  # publications that could not, ever
        self.lost_topics = 0  # times that a topic may have lost something, ever
        self._service = service
        self._buffer_count = buffer_count
        self._parts: set[str] = set()
        self._began_s = 0.0
        self._before = (0, 0, 0)
        self._over = asyncio.Event()

    @property
    def is_on(self) -> bool:
        return bool(self._parts)

    @property
    def reason(self) -> str:
        """For who publishes or subscribes meanwhile."""
        return f"topics: {self._service} cannot be reached"

    def begin(self, part: str, error: BaseException) -> None:
        """`part` is broken."""
        if not self._parts:
            self.outages += 1
            self._began_s = time.monotonic()
            self._before = (self.buffered, self.refused, self.lost_topics)
            kept = f"waits, up to {self._buffer_count}" if self._buffer_count else "is refused"
            _logger.error(
                "Topics: %s cannot be reached: %s. It is tried again; what is published meanwhile"
                " %s.",
                self._service,
                plain(error),
                kept,
            )
        self._parts.add(part)
        self._over.clear()

    def end(self, part: str) -> None:
        """`part` works."""
        if part not in self._parts:
            return
        self._parts.discard(part)
        if self._parts:
            return
        self._over.set()
        now = (self.buffered, self.refused, self.lost_topics)
        buffered, refused, lost = (a - b for a, b in zip(now, self._before, strict=True))
        _logger.warning(
            "Topics: %s is back after %.1f s. Publications that waited: %d, that were refused: %d;"
            " topics that may have lost some: %d.",
            self._service,
            time.monotonic() - self._began_s,
            buffered,
            refused,
            lost,
        )

    async def wait_over(self, limit_s: float) -> None:
        """Until all parts work."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), limit_s)


def plain(error: BaseException) -> str:
    """An error of a library in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return text[:200] or type(error).__name__
