"""What comes to one event loop from the other loops and threads of its process, in one order.

A loop that is congested takes no more, and who publishes to it waits while it goes on taking,
however slowly. One that stands still is not waited for. When more than OVERRUN_BYTES wait for it,
they are let go of: when it goes on it is given what is kept of them, or told that there is a gap.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from asgi_poller.topics.links import Answered, Receiver, recover
from asgi_poller.topics.publication import Missed, Publication

_logger = logging.getLogger("asgi_poller.error")

#: Waiting for a loop: it is full, and publishers wait.
FULL_BYTES: Final = 1024 * 1024
#: Waiting for a loop that stands still.
OVERRUN_BYTES: Final = 64 * 1024 * 1024
#: A full loop that has not taken anything for so long stands still.
STILL_S: Final = 1.0
#: What is taken before the loop's other work has a turn.
_HELPING_S: Final = 0.002
_HELPING_COUNT: Final = 64
_OVERHEAD_BYTES: Final = 100


@dataclass(slots=True)
class Asked:
    """Somebody joins; `missed` is what to answer at this place."""

    topic: str
    since: str | None
    answered: Answered
    missed: Missed


class Inbox:
    """`post` and `room` are for any thread; who posts holds `lock`, so that all loops see one
    order. The rest is the loop's. `missed` says what was missed, under the lock.
    """

    def __init__(
        self,
        receiver: Receiver,
        lock: threading.RLock,
        missed: Callable[[str, str | None], Missed],
    ) -> None:
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._lock = lock
        self._missed = missed
        self._items: deque[Publication | Asked] = deque()
        self._bytes = 0
        self._taken_count = 0
        self._is_armed = False  # `_work` is on its way, or `resume` will be
        self._is_still = False
        self._is_overrun = False
        self._is_closed = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_waited_for(self) -> bool:
        """Whether publishers should call `room`."""
        return self._bytes > FULL_BYTES and not self._is_still

    def post(self, item: Publication | Asked) -> None:
        """It comes to the loop, behind all that was posted before."""
        if self._is_closed or (self._is_overrun and isinstance(item, Publication)):
            return
        self._items.append(item)
        self._bytes += _cost(item)
        if self._bytes > OVERRUN_BYTES:
            self._is_overrun = True
            self._items = deque(each for each in self._items if isinstance(each, Asked))
            self._bytes = 0
        if not self._is_armed:
            self._is_armed = True
            self._call(self._loop, self._work)

    async def room(self) -> None:
        """Wait until there is room again, or the loop stands still."""
        event = asyncio.Event()
        while True:
            with self._lock:
                if not self.is_waited_for:
                    return
                count = self._taken_count
                self._waiting.append((asyncio.get_running_loop(), event))
            try:
                async with asyncio.timeout(STILL_S):
                    await event.wait()
                return
            except TimeoutError:
                with self._lock:
                    if self._taken_count == count:
                        self._is_still = True
                        self._make_room()

    def resume(self) -> None:
        """The receiver is not congested any more."""
        if self._items or self._is_overrun:
            self._loop.call_soon(self._work)

    def close(self) -> None:
        """Nothing more comes. The lock is held."""
        self._is_closed = True
        self._items.clear()
        self._bytes = 0
        self._make_room()

    def _work(self) -> None:
        """Take a helping, unless the loop is congested."""
        until_s = time.monotonic() + _HELPING_S
        while not self._receiver.is_congested:
            for item in self._take():
                self._give(item)
            with self._lock:
                if not self._items and not self._is_overrun:
                    self._is_armed = False
                    return
            if time.monotonic() > until_s:
                self._loop.call_soon(self._work)
                return

    def _take(self) -> list[Publication | Asked | tuple[str, Missed]]:
        """The next of what waits; after an overrun, what was missed of each topic and what is to be
        answered then.
        """
        with self._lock:
            self._is_still = False
            items: list[Publication | Asked | tuple[str, Missed]] = []
            if self._is_overrun:
                self._is_overrun = False
                for topic, position in self._receiver.positions():
                    items.append((topic, self._missed(topic, position)))
                for asked in self._items:
                    assert isinstance(asked, Asked)
                    asked.missed = self._missed(asked.topic, asked.since)
                    items.append(asked)
                self._items.clear()
                self._bytes = 0
            while self._items and len(items) < _HELPING_COUNT:
                item = self._items.popleft()
                self._bytes -= _cost(item)
                items.append(item)
            self._taken_count += len(items)
            if self._bytes <= FULL_BYTES // 4:
                self._make_room()
            return items

    def _give(self, item: Publication | Asked | tuple[str, Missed]) -> None:
        try:
            if isinstance(item, Publication):
                self._receiver.on_publication(item)
            elif isinstance(item, Asked):
                item.answered(item.missed)
            else:
                recover(self._receiver, *item)
        except Exception:
            _logger.exception("Topics: what came from another loop could not be taken.")

    def _make_room(self) -> None:
        waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            self._call(loop, event.set)

    def _call(self, loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # that loop has ended: it forgets what it wanted in a moment


def _cost(item: Publication | Asked) -> int:
    return _OVERHEAD_BYTES + (len(item.data) if isinstance(item, Publication) else 0)
