"""Heartbeat of each event loop: a counter in shared memory, and what it means if it stands still.

Once a second each loop counts a cell of its lane's row up. That costs no message, and the
supervisor can read it although the worker is blocked. A thread beside the loop would not notice
that the loop is blocked, so the loop itself counts.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from typing import Protocol

from asgi_poller.handoff.shared_counters import FIRST_FREE

#: Beats of the loop.
BEATS = FIRST_FREE
#: Requests and WebSockets that the loop has begun, as of its last beat.
REQUESTS = FIRST_FREE + 1

_BEAT_S = 1.0
# Unit: seconds without a beat. A loop that is blocked so long is worth a line with its stack,
# although its worker is not replaced yet, or never.
NOTICE_S = 10.0
# Unit: seconds between looks. After a longer gap this process itself was stopped (SIGTSTP, a
# debugger), and the workers probably were too.
_GAP_S = 5.0


def beat_interval_s(limit_s: float) -> float:
    """Seconds between beats, and between looks, where `limit_s` without one is too long."""
    return min(_BEAT_S, limit_s / 4) if limit_s else _BEAT_S


class BeatingLoop(Protocol):
    """The part of a LoopServer that Heartbeat uses."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""

    @property
    def requests(self) -> int:
        """Requests and WebSockets that it has begun."""


class Heartbeat:
    """Beats, on the loop's thread, until the loop ends. `cells` is the loop's row of Counters."""

    __slots__ = ("_cells", "_interval_s", "_server")

    def __init__(self, server: BeatingLoop, cells: memoryview[int], interval_s: float) -> None:
        self._server = server
        self._cells = cells
        self._interval_s = interval_s

    def beat(self) -> None:
        """Beat now, and from now on. Call it once, on the loop's thread."""
        self._cells[REQUESTS] = self._server.requests
        self._cells[BEATS] += 1
        self._server.loop.call_later(self._interval_s, self.beat)


class Health(enum.Enum):
    """What `Pulse.look` finds. BLOCKED and RECOVERED are each returned once."""

    OK = enum.auto()
    BLOCKED = enum.auto()
    RECOVERED = enum.auto()
    LOST = enum.auto()


class Pulse:
    """Reads the heartbeats of one worker's loops, in the supervisor. Owned by its main thread.

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
        """Seconds since the last beat of the loop that has been silent for longest."""
        return self._looked_at - min(self._since)

    @property
    def silent_index(self) -> int:
        """Which of the loops that is."""
        return self._since.index(min(self._since))

    @property
    def requests(self) -> int:
        """Requests and WebSockets that the worker has begun."""
        return sum(row[REQUESTS] for row in self._rows)
