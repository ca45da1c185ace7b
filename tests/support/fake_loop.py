"""An event loop with a clock that tests move."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Handle:
    """What call_at returns."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """Timers and call_soon; time stands still otherwise."""

    def __init__(self) -> None:
        self.now = 5000.0
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()

    def is_running(self) -> bool:
        """No: who looks for a loop to call takes another one."""
        return False

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle:
        handle = Handle(callback, args)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        return self.call_at(self.now + seconds, callback, *args)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        return self.call_at(self.now, callback, *args)

    @property
    def is_asleep(self) -> bool:
        """Whether there is nothing that would ever wake it."""
        return not any(not handle.is_cancelled for _, _, handle in self._timers)

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen when it is due."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if not handle.is_cancelled:
                handle.callback(*handle.args)
        self.now = end

    def block(self, seconds: float) -> None:
        """The loop does nothing for so long, and is then behind with its timers."""
        self.now += seconds
