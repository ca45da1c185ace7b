"""One coarse timer wheel for each loop, for every deadline that a connection has.

A hundred thousand idle WebSockets with a `call_later` each would keep a hundred thousand timers in
the loop's heap, and every request would add and cancel one. Here a connection is in at most one
slot, and deadlines that move away (keep-alive, after each request) cost nothing: the entry stays
where it is, comes due, and is then scheduled again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Protocol

_log = logging.getLogger("asgi_poller.error")

TICK_S = 0.1  # how coarse: deadlines are met up to one tick late
# a turn of the wheel is 102.4 s; what is further away comes round more than once
_SLOT_COUNT = 1024
_LATE_TICKS = 10  # how much of a time in which the loop was blocked counts

NEVER = 0  # a tick that is no deadline


class Timed(Protocol):
    """What is scheduled on the wheel. `timer_tick` is the wheel's own: set it to NEVER at first."""

    timer_tick: int

    def on_timer(self, tick: int) -> int:
        """It is `tick`, at or after a deadline asked for: returns the next one, or NEVER."""

    def abort(self) -> None:
        """End now: meeting a deadline has failed."""


class TimerWheel:
    """Owned by the loop's thread. Ticks only while something is scheduled, so that an idle server
    sleeps.

    Its time stands still while the loop is blocked, but for the first second: what a peer could
    not do meanwhile, or we did not see, is not its fault. And `tick`, which is only moved by turns,
    is never far behind: a keep-alive that starts after an application's ten seconds of computing
    lasts as long as any.
    """

    __slots__ = ("_count", "_handle", "_loop", "_slots", "_started_at", "tick")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: list[set[Timed]] = [set() for _ in range(_SLOT_COUNT)]
        self._count = 0
        self._started_at = loop.time()
        self._handle: asyncio.TimerHandle | None = None
        self.tick = 1  # now; never NEVER

    @staticmethod
    @functools.lru_cache(maxsize=64)  # settings: the same few, several times for each connection
    def ticks(seconds: float) -> int:
        """How many ticks `seconds` are, at least one."""
        return max(1, round(seconds / TICK_S))

    def now(self) -> int:
        """The tick that it is; `tick` is not, while nothing is scheduled."""
        if self._handle is None:
            self._catch_up()
        return self.tick

    def after(self, seconds: float) -> int:
        """The tick that is `seconds` from now, at least one tick away."""
        return self.now() + self.ticks(seconds)

    def schedule(self, timed: Timed, tick: int) -> None:
        """See that `timed.on_timer` is called at `tick`, or earlier: an earlier call that is
        scheduled already is enough.
        """
        scheduled_at = timed.timer_tick
        if scheduled_at:
            if scheduled_at <= tick:
                return
            self._slots[scheduled_at % _SLOT_COUNT].discard(timed)
            self._count -= 1
        timed.timer_tick = tick
        self._slots[tick % _SLOT_COUNT].add(timed)
        self._count += 1
        if self._handle is None:
            self._catch_up()
            self._start()

    def cancel(self, timed: Timed) -> None:
        """Forget `timed`; harmless if it does not hang."""
        scheduled_at = timed.timer_tick
        if scheduled_at:
            timed.timer_tick = NEVER
            self._slots[scheduled_at % _SLOT_COUNT].discard(timed)
            self._count -= 1

    def stop(self) -> None:
        """Turn no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _start(self) -> None:
        due = self._started_at + self.tick * TICK_S
        self._handle = self._loop.call_at(due, self._on_tick)

    def _catch_up(self) -> None:
        """After a rest: what is now, without visiting slots in which nothing is scheduled."""
        self.tick = max(self.tick, int((self._loop.time() - self._started_at) / TICK_S) + 1)

    def _on_tick(self) -> None:
        # a call may come a little early by the clock: that must not mean once more, at once
        now = int((self._loop.time() - self._started_at) / TICK_S + 0.01)
        if now > self.tick + _LATE_TICKS:
            self._started_at += (now - self.tick - _LATE_TICKS) * TICK_S
            now = self.tick + _LATE_TICKS
        try:
            while self.tick <= now:
                self._expire(self.tick)
                self.tick += 1
        finally:  # whatever happens here, every other connection's deadlines are to be met
            if self._count:
                self._start()
            else:
                self._handle = None

    def _expire(self, tick: int) -> None:
        place = tick % _SLOT_COUNT
        expired = self._slots[place]
        if not expired:
            return
        self._slots[place] = set()
        for timed in expired:
            next_tick = timed.timer_tick
            if not next_tick:
                continue  # dropped by one that was visited before it
            self._count -= 1
            timed.timer_tick = NEVER
            if next_tick <= tick:  # else: another turn of the wheel to go
                next_tick = self._call(timed, tick)
            if next_tick:
                self.schedule(timed, next_tick)

    def _call(self, timed: Timed, tick: int) -> int:
        """When `timed` wants to be called next. Its trouble is its own: it is logged, and `timed`
        ends.
        """
        try:
            next_tick = timed.on_timer(tick)
        except Exception:
            _log.exception("A connection failed at its deadline and is cut off.")
            try:
                timed.abort()
            except Exception:
                _log.exception("A connection could not be cut off.")
            return NEVER
        return max(next_tick, tick + 1) if next_tick else NEVER
