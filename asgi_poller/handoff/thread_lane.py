"""Lanes: the way of accepted connections from the pollers to one loop.

This is the one place where connections cross threads. A lane takes what it can and never waits;
what it does not take stays with the poller.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.loops.accepted_socket import Accepted

#: Connections that may wait for one loop. Far above what a loop that is blocked for seconds gathers
#: (20,000 connects a second); the descriptor limit is normally met first. Past it, pollers keep
#: connections in their own bounded queues, then in the kernel's.
LANE_CAPACITY_COUNT = 65536
#: Seconds that a loop may leave a call unanswered before it is late: it gets nothing then while
#: another loop answers. Far above a turn of a loop that serves, and twice this, the time within
#: which a connection finds another loop, far below what a user notices.
LATE_S = 0.05
#: Seconds within which a loop that serves answers a call: then it may have what others left.
PROMPT_S = LATE_S / 5
#: And how many times as long as the quickest loop takes for its answers: where all are busy, as in
#: a burst, none is late, and loads stay even.
LATE_TIMES = 4
#: For how many times as long as it took an answer is remembered: over a few turns of the loop.
REMEMBER_TIMES = 4


EndTicket = Callable[[int], object]
"""Called when a connection with a ticket has been closed, but not by a loop. Any thread."""


class Lane(Protocol):
    """What the poller pool knows about a loop's server.

    `assigned` counts the connections that were ever meant for this lane; the Balancer writes it.
    """

    assigned: int

    def load(self) -> int:
        """Connections that are assigned and not closed yet. Any thread."""

    def available(self) -> bool:
        """False while it takes nothing: it has ended or is full. Any thread."""

    def silent_s(self) -> float:
        """Seconds for which its loop has been called and does not answer; 0.0: it owes no answer.
        Any thread.
        """

    def pace_s(self) -> float:
        """Seconds that its loop has lately taken to answer, at the longest. Any thread."""

    def is_late(self) -> bool:
        """Whether that is LATE_S or more."""

    @property
    def waiting(self) -> int:
        """Connections that the loop is not known to have. Any thread."""

    def take_back(self) -> list[Accepted]:
        """Take what waits and the loop has not received, first come first. Any thread.

        The caller owns it: hand it to another lane.
        """

    def probe(self) -> None:
        """Call the loop, so that it is late soon if it does not answer. Any thread."""

    def put(self, batch: list[Accepted]) -> int:
        """Take connections from the front of `batch`; returns how many. Any thread; never waits.

        Those are the lane's from now on, the others stay the caller's. If it raises, it has taken
        none.
        """


def late_after_s(quickest_s: float) -> float:
    """How long a loop may be silent beside one that lately took `quickest_s` seconds to answer."""
    return max(LATE_S, LATE_TIMES * quickest_s)


class Pace:
    """How long a loop has lately taken to answer. Written by one thread at a time, read by any."""

    __slots__ = ("_at", "_longest_s")

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._at = 0.0

    def note(self, took_s: float, now: float) -> None:
        """It has answered at `now`, after `took_s` seconds."""
        if took_s >= self.longest_s(now):
            self._longest_s, self._at = took_s, now

    def longest_s(self, now: float) -> float:
        """The longest of its answers until `now` that count still; 0.0: none."""
        longest_s = self._longest_s
        return longest_s if now - self._at < REMEMBER_TIMES * longest_s else 0.0


class CoreLoop(Protocol):
    """The part of an event loop that a lane needs. `call_soon_threadsafe` is for any thread."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> Any:
        """Run `callback` on the loop's thread."""

    def is_closed(self) -> bool:
        """Whether the loop has ended for good."""


class LaneServer(Protocol):
    """The part of a loop's server that a lane needs.

    `adopt()` runs on the loop's own thread and takes the descriptor over. If it raises, it has
    *not* taken it: the lane closes the descriptor, so adopt() must not leave an object behind that
    closes it once more. `closed` counts connections that were adopted and are finished with; the
    loop's thread writes it.
    """

    @property
    def loop(self) -> CoreLoop:
        """The server's event loop."""

    @property
    def closed(self) -> int:
        """Connections that this loop has finished with."""

    def adopt(self, accepted: Accepted, /) -> object:
        """Take a connection over."""


class ThreadLane:
    """The lane to a loop in this process. Any thread may put; the loop's thread delivers.

    However many connections arrive while the loop is busy, it is woken once for all of them.
    """

    __slots__ = (
        "_capacity",
        "_clock",
        "_delivering",
        "_end_ticket",
        "_ended",
        "_exception_log",
        "_failed",
        "_lock",
        "_pace",
        "_rung",
        "_rung_at",
        "_server",
        "_waiting",
        "assigned",
        "taken_back",
    )

    def __init__(
        self,
        server: LaneServer,
        *,
        capacity: int = LANE_CAPACITY_COUNT,
        end_ticket: EndTicket | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.assigned = 0
        self.taken_back = 0
        self._server = server
        self._capacity = capacity
        self._end_ticket = end_ticket
        self._waiting: deque[Accepted] = deque()
        self._clock = clock
        self._rung = False
        self._rung_at = 0.0  # or when the last delivery ended: since then the loop owes an answer
        self._delivering = False
        self._pace = Pace()
        self._exception_log = ExceptionLog()
        self._failed = 0  # adopt() raised; written by the loop's thread
        self._ended = False
        self._lock = threading.Lock()  # taken only when the loop has ended, or is late

    def load(self) -> int:
        return self.assigned - self._server.closed - self._failed

    def available(self) -> bool:
        return not (self._ended or self._server.loop.is_closed())

    def silent_s(self) -> float:
        # who adopts a long queue is busy with those who wait, and does not keep them waiting
        if not self._rung or self._delivering:
            return 0.0
        return self._clock() - self._rung_at

    def pace_s(self) -> float:
        return max(self._pace.longest_s(self._clock()), self.silent_s())

    def is_late(self) -> bool:
        return self.silent_s() >= LATE_S

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take_back(self) -> list[Accepted]:
        taken = self._drain()
        with self._lock:
            self.taken_back += len(taken)
        return taken

    def probe(self) -> None:
        self._ring()

    def put(self, batch: list[Accepted]) -> int:
        if self._ended or self._server.loop.is_closed():
            return 0
        room = self._capacity - len(self._waiting)
        if room < len(batch):
            if room <= 0:
                return 0
            batch = batch[:room]
        self._waiting.extend(batch)
        # Order matters: the deque's lock makes it certain that either _deliver() sees the batch, or
        # this thread sees the flag that _deliver() took down before it looked.
        return len(batch) if self._ring() else self._unput(batch)

    def reclaim(self) -> list[Accepted]:
        """End the lane and return what was never adopted. For the owner, once the loop has ended.

        The caller owns the descriptors: hand them to another lane or close them. Idempotent.
        """
        with self._lock:
            self._ended = True
            return self._drain()

    def _ring(self) -> bool:
        """Call the loop, unless it is called already; False if it was closed just now."""
        if not self._rung:
            self._rung_at = self._clock()
            self._rung = True
            try:
                self._server.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                return False
        return True

    def _deliver(self) -> None:
        """On the loop's thread: adopt all that waits. What comes meanwhile rings again, so that a
        stream of connections cannot keep the loop from those it has.
        """
        self._delivering = True
        now = self._clock()
        self._pace.note(now - self._rung_at, now)
        self._rung = False
        waiting = self._waiting
        adopt = self._server.adopt
        # Without the GIL len() takes no lock, and may not show yet what a poller has just put and
        # found the loop called for. popleft() takes it: so once at least, and look again after it.
        for _ in range(len(waiting) or 1):
            try:
                accepted = waiting.popleft()
            except IndexError:
                break  # taken back or reclaimed meanwhile
            try:
                adopt(accepted)
            except Exception:
                self._exception_log.exception("a connection could not be adopted and was closed")
                self._failed += 1
                drop(accepted, self._end_ticket)
        self._rung_at = self._clock()
        self._delivering = False
        if waiting:
            self._ring()

    def _unput(self, batch: list[Accepted]) -> int:
        """The loop has ended: returns how many of `batch` it had still adopted."""
        with self._lock:
            self._ended = True
            left = self._drain()
            mine = {accepted.fd for accepted in batch}
            returned = [accepted for accepted in left if accepted.fd in mine]
            # for other pollers these are taken: they wait for reclaim()
            self._waiting.extend(accepted for accepted in left if accepted.fd not in mine)
            return len(batch) - len(returned)

    def _drain(self) -> list[Accepted]:
        left = []
        while True:
            try:
                left.append(self._waiting.popleft())
            except IndexError:
                return left


def drop(accepted: Accepted, end_ticket: EndTicket | None) -> None:
    """Close a connection that was let in and that no loop adopted."""
    try:
        if accepted.ticket >= 0 and end_ticket is not None:
            end_ticket(accepted.ticket)
    finally:
        close_connection(accepted.fd)


def say_last(fd: int, answer: bytes) -> None:
    """Answer, if that is possible at once, before a close."""
    try:
        os.write(fd, answer)
    except OSError:
        pass  # it has closed, or never reads


def close_connection(fd: int) -> None:
    """Close an accepted descriptor that nobody adopted."""
    try:
        socket.close(fd)
    except OSError:
        pass  # the peer reset it: it is closed all the same (close(2))
