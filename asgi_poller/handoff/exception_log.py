"""Unexpected exceptions of single connections: a flood of them is no flood of log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger("asgi_poller.error")

#: Seconds between two tracebacks with the same words.
_LOG_EVERY_S = 10.0


class ExceptionLog:
    """Logs exceptions, for the same words at most one in 10 seconds; the next line says how many
    there were meanwhile. Owned by one thread.
    """

    __slots__ = ("_clock", "_silent")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent: dict[str, tuple[float, int]] = {}  # until when, and how many since

    def exception(self, words: str) -> None:
        """The exception that is being handled, under `words`."""
        now = self._clock()
        until, count = self._silent.get(words, (0.0, 0))
        if count and now < until:
            self._silent[words] = until, count + 1
            return
        self._silent[words] = now + _LOG_EVERY_S, 1
        more = f" ({count - 1} more since the last such line)" if count > 1 else ""
        logger.exception("%s%s", words, more)
