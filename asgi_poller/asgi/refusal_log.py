"""Lines about requests that we refuse, for operators: who, and why. An attack is a few lines.

    Refused 192.0.2.1:4321: 400 the Host header is not a host
    Refused: 431 the request head is too large: and 1,234 more in the last 10 s

Reasons are words of ours, so there are few of them; what a peer sends is never among them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("asgi_poller.error")

NO_PROXY_HEADER = "no valid PROXY header"

#: Lines for each reason, and the seconds for which they are all.
FIRST_COUNT = 5
WINDOW_S = 10.0


class RefusalLog:
    """Any thread: loops and pollers share one. It waits for nothing but the log's handlers, for few
    refusals; the others are counted.
    """

    __slots__ = ("_clock", "_lock", "_window_s", "_windows")

    def __init__(
        self, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, tuple[float, int]] = {}  # by reason: its end, refusals so far

    def note(self, reason: str, peer: Any) -> None:
        """`peer`, an address as accept() gives it, was refused for `reason`."""
        if not _log.isEnabledFor(logging.INFO):
            return
        now = self._clock()
        with self._lock:
            end, count = self._windows.get(reason, (0.0, 0))
            # where lines were left out, the end of the window is the summary's
            if now >= end and count <= FIRST_COUNT:
                end, count = now + self._window_s, 0
            count += 1
            self._windows[reason] = end, count
        if count <= FIRST_COUNT:
            _log.info("Refused %s: %s", _named(peer), reason)
        elif count == FIRST_COUNT + 1:
            summary = threading.Timer(max(0.0, end - now), self._sum_up, (reason,))
            summary.daemon = True
            try:
                summary.start()
            except RuntimeError:  # no thread to be had: the next refusal tries again
                with self._lock:
                    self._windows[reason] = end, FIRST_COUNT

    def _sum_up(self, reason: str) -> None:
        """On a thread of its own, once in a window that had too many."""
        with self._lock:
            _, count = self._windows.pop(reason)
        more = count - FIRST_COUNT
        _log.info("Refused: %s: and %s more in the last %g s", reason, f"{more:,}", self._window_s)


def _named(peer: Any) -> str:
    if isinstance(peer, tuple):
        host, port = peer[0], peer[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "a peer"  # of a unix socket, or one that has left


note_refusal = RefusalLog().note
