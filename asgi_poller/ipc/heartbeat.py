"""The heartbeat of each event loop, and what its absence means.

A loop that turns counts a cell of its lane's row up, once a second: it costs no message, and the
supervisor reads it whether the worker can still talk or not. A thread beside the loop could not
tell that the loop is blocked, so the beat is on the loop itself.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from typing import Protocol

from asgi_poller.handoff.shared_counters import FIRST_FREE

#: Beats of the core's loop.
BEATS = FIRST_FREE
#: Requests and WebSockets that the core has begun, as of its last beat.
REQUESTS = FIRST_FREE + 1

_BEAT_S = 1.0
# Unit: seconds without a beat. A loop that is blocked so long is worth a line with its stack,
# although its worker is not replaced yet, or never.
NOTICE_S = 10.0
# Unit: seconds between looks. A longer gap means that we were stopped (SIGTSTP, a debugger), and
# then so was everybody.
_GAP_S = 5.0


def beat_interval_s(limit_s: float) -> float:
    """Seconds between beats, and between looks, where `limit_s` without one is too long."""
    return min(_BEAT_S, limit_s / 4) if limit_s else _BEAT_S


class BeatingCore(Protocol):
    """The part of a core that beats."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""

    @property
    def requests(self) -> int:
        """Requests and WebSockets that it has begun."""


class Heartbeat:
    """Beats, on the core's thread, until its loop ends. `cells` is the core's row of Counters."""

    __slots__ = ("_cells", "_core", "_interval_s")

    def __init__(self, core: BeatingCore, cells: memoryview[int], interval_s: float) -> None:
        self._core = core
        self._cells = cells
        self._interval_s = interval_s

    def beat(self) -> None:
        """Beat now, and from now on. Call it once, on the core's thread."""
        self._cells[REQUESTS] = self._core.requests
        self._cells[BEATS] += 1
        self._core.loop.call_later(self._interval_s, self.beat)


class Health(enum.Enum):
    """What a look at a pulse finds. BLOCKED and BACK are each told once."""

    OK = enum.auto()
    BLOCKED = enum.auto()
    RECOVERED = enum.auto()
    LOST = enum.auto()


class Pulse:
    """Feels the heartbeat of one worker's cores, in the supervisor. Owned by its main thread.

    `look` is to be called about once a second, with monotonic seconds. LOST is the answer after
    `limit_s` seconds without a beat (0: never), BLOCKED after NOTICE_S at the latest.
    """

    __slots__ = ("_beats", "_is_blocked", "_limit_s", "_looked_at", "_notice_s", "_rows", "_since")

    def __init__(self, rows: Sequence[memoryview[int]], limit_s: float, now: float) -> None:
        self._rows = rows
        self._limit_s = limit_s
        self._notice_s = min(NOTICE_S, limit_s) if limit_s else NOTICE_S
        self._beats = [row[BEATS] for row in rows]
        self._since = [now] * len(rows)
        self._looked_at = now
        self._is_blocked = False

    def look(self, now: float) -> Health:
        """How the worker is."""
        gap = now - self._looked_at
        self._looked_at = now
        for index, row in enumerate(self._rows):
            beats = row[BEATS]
            if beats != self._beats[index]:
                self._beats[index] = beats
                self._since[index] = now
            elif gap > _GAP_S:
                self._since[index] += gap
        silent_s = self.silent_s
        if self._limit_s and silent_s >= self._limit_s:
            return Health.LOST
        if (silent_s >= self._notice_s) is self._is_blocked:
            return Health.OK
        self._is_blocked = not self._is_blocked
        return Health.BLOCKED if self._is_blocked else Health.RECOVERED

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat of the core that has been silent for longest."""
        return self._looked_at - min(self._since)

    @property
    def silent_core(self) -> int:
        """Which core that is."""
        return self._since.index(min(self._since))

    @property
    def requests(self) -> int:
        """Requests and WebSockets that the worker has begun."""
        return sum(row[REQUESTS] for row in self._rows)
