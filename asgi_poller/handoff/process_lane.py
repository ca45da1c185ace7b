"""ProcessLane: the lane to a loop in a worker process, as the supervisor sees it.

No connection is lost and none is adopted twice, whatever becomes of the worker:

1. The supervisor keeps its own copy of each descriptor until the worker has *claimed* it: the
   worker writes CLAIMED in shared memory just before it adopts. So a connection that was claimed is
   the worker's for good, also if it dies in that instant; one that was not is still ours.
2. Messages are taken out of the socket's queue by the kernel, one at a time and by one process
   only. The supervisor has kept the worker's end open: to take connections back from a worker that
   lives but does not move (SIGSTOP, a blocked loop), it *receives them itself*. What it gets the
   worker can never get, and what the worker got first the supervisor leaves to it.
3. Connections between 1 and 2, received but not claimed, belong to nobody but a living worker: they
   are given to another lane only once the worker is dead (`reclaim`).

A descriptor stays open in the supervisor until the lane monitor has seen the claim, because the
worker rings when it has claimed (see `lane_monitor`): a client would not see the end of a
connection before.
"""

from __future__ import annotations

import enum
import errno
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from asgi_poller import platform
from asgi_poller.handoff.fd_passing import (
    MESSAGE_BYTES,
    RING,
    SOCKET_FULL,
    fitting,
    parse_returned,
    send_connections,
    take_number,
    widen,
)
from asgi_poller.handoff.shared_counters import (
    CLAIMED,
    CLOSED,
    FAILED,
    RETURNS,
    RING_WANTED,
    SEEN,
    Counters,
)
from asgi_poller.handoff.thread_lane import LATE_S, Pace, close_connection
from asgi_poller.loops.accepted_socket import Accepted

#: Connections that may be on their way to one worker; each holds a descriptor here meanwhile.
PROCESS_LANE_CAPACITY_COUNT = 8192
#: Seconds that a worker without free descriptors gets nothing more.
_FULL_S = 0.1
#: Octets asked for as the socket's send buffer; the kernel caps it (net.core.wmem_max).
_SEND_BUFFER_BYTES = 4 * 1024 * 1024

#: The lane is at its end. (Not EBADF: under the lock the lane is open, and so it means a connection
#: whose descriptor is wrong.)
_GONE = frozenset((errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN))


class State(enum.Enum):
    """OPEN takes connections; RETIRED takes none, but what it has is still adopted; CLOSED is for a
    worker that is dead.
    """

    OPEN = enum.auto()
    RETIRED = enum.auto()
    CLOSED = enum.auto()


@dataclass(slots=True)
class _Sent:
    """A message that was sent: connections from `done` on are not known to be claimed yet."""

    number: int
    first: int
    batch: list[Accepted]
    at: float
    done: int = 0


class Budget:
    """How many connections may be on their way in all lanes together, each with a descriptor here.

    Beyond it lanes are full: pollers stop accepting and the kernel's queue holds the rest, where
    running out of descriptors would refuse them. For any thread; a little too much now and then is
    what the reserve is for.
    """

    __slots__ = ("_elsewhere", "_lanes", "_limit")

    def __init__(self, limit: int, elsewhere: Callable[[], int] = lambda: 0) -> None:
        self._limit = max(limit, 1)
        self._elsewhere = elsewhere  # connections that were taken back and have no lane yet
        self._lanes: list[ProcessLane] = []

    def add(self, lane: ProcessLane) -> None:
        """Count what `lane` holds, until it is closed."""
        self._lanes = [*(other for other in self._lanes if not other.is_closed), lane]

    def room(self) -> int:
        """Connections that may still be sent."""
        return self._limit - self._elsewhere() - sum(lane.waiting for lane in self._lanes)


class ProcessLane:
    """The supervisor's side. Any thread may call anything; a lock orders what is sent.

    `worker_end` is for the worker: by fork, or by its descriptor (pass_fds); this object keeps its
    own copy open. `row` is the lane's row in `counters`; both go to LaneReceiver there.
    `name` is for the log, `mark` what tickets of its connections are marked with (0: no limits),
    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        name: str = "a worker",
        mark: int = 0,
        capacity: int = PROCESS_LANE_CAPACITY_COUNT,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        platform.require_fd_passing("--workers")
        self.assigned = 0
        self.taken_back = 0
        self.name = name
        self.mark = mark
        self._capacity = capacity
        self._clock = clock
        self.channel, self.worker_end = socket.socketpair(socket.AF_UNIX, platform.FD_SOCKET_TYPE)
        for end in (self.channel, self.worker_end):
            end.setblocking(False)
            widen(end, _SEND_BUFFER_BYTES)
        self.row = counters.take_row()  # after what may fail: nobody would give it back
        self._counters = counters
        self._cells = counters.row(self.row)
        self._lock = threading.Lock()
        self._state = State.OPEN
        self._sent: deque[_Sent] = deque()
        self._held = 0
        self._budget = budget
        if budget is not None:
            budget.add(self)
        self._next_number = 1
        self._next_sequence = 0
        self._progress = (0, 0)  # what the worker had claimed and seen at the last look
        self._owed_at = clock()  # when it had moved last, or was called after a rest
        self._pace = Pace()
        self._behind_at = 0.0  # since when the oldest waits that it has not taken
        self._full_until = 0.0
        self._returns = 0

    def load(self) -> int:
        return self.assigned - self._cells[CLOSED] - self._cells[FAILED]

    def available(self) -> bool:
        return self._state is State.OPEN and not self._is_full()

    def is_late(self) -> bool:
        return self.silent_s() >= LATE_S

    def silent_s(self) -> float:
        # without the lock; it has answered, too, if it has moved since the last look
        if not self._owes() or self._progress != self._signs():
            return 0.0
        return self._clock() - self._owed_at

    def pace_s(self) -> float:
        # whether or not it moves: what waits behind much else waits all the same
        now = self._clock()
        return max(self._pace.longest_s(now), now - self._behind_at if self._owes() else 0.0)

    def probe(self) -> None:
        with self._lock:
            if self._state is State.OPEN and not self._owes():
                self._send([])

    def put(self, batch: list[Accepted]) -> int:
        with self._lock:
            if self._state in (State.RETIRED, State.CLOSED) or self._is_full():
                return 0
            taken = 0
            room = min(len(batch), self._capacity - self._held)
            if self._budget is not None:
                room = min(room, self._budget.room())
            while taken < room:
                part = fitting(batch, taken, room)
                try:
                    is_sent = self._send(part)
                except Exception:
                    if not taken:
                        raise
                    break  # what was sent before is the worker's; it raises again as the first
                if not is_sent:
                    break
                taken += len(part)
            return taken

    @property
    def waiting(self) -> int:
        """Connections that are not known to be claimed."""
        return self._held

    @property
    def is_closed(self) -> bool:
        """Whether its worker is gone: it holds nothing any more."""
        return self._state is State.CLOSED

    # The lane monitor's part

    def want_ring(self) -> bool:
        """Ask the worker to ring at its next claim. False: it has claimed since the last `look`."""
        self._cells[RING_WANTED] = 1
        return self._progress == self._signs()

    def look(self, *, has_message: bool = True) -> list[Accepted]:
        """See what the worker has done: let go of what it has claimed, notice that it moves.

        Returns connections that the worker could not take; the caller owns them. `has_message`:
        the channel is readable.
        """
        with self._lock:
            if self._state is State.CLOSED:
                return []
            # In this order: a worker returns connections before it claims later ones, so whatever
            # it returned before this claim is read here, and not taken for claimed.
            progress = self._signs()
            returned = []
            if has_message or self._cells[RETURNS] != self._returns:
                self._returns = self._cells[RETURNS]
                returned = self._read_returned()
            self._let_go(progress[0])
            if progress != self._progress:
                # in this order: who compares without the lock may find the worker prompt, not late
                now = self._clock()
                self._pace.note(now - self._behind_at, now)
                self._owed_at = now
                self._progress = progress
                self._behind_at = self._sent[0].at if self._sent else now
            return returned

    def take_back(self) -> list[Accepted]:
        """As for any lane. A probe takes their place, so that the worker's return shows."""
        with self._lock:
            if self._state is State.CLOSED:
                return []
            taken = self._take_back()
            self.taken_back += len(taken)
            if self._state is State.OPEN:
                self._send([])
            return taken

    def retire(self) -> list[Accepted]:
        """Take nothing more, for a worker that drains; returns what it has not received yet.

        What it has received it will still adopt. The caller owns the connections. Idempotent.
        """
        with self._lock:
            if self._state is State.CLOSED:
                return []
            self._state = State.RETIRED
            return self._take_back()

    def reclaim(self) -> list[Accepted]:
        """The worker is dead: end the lane and return every connection that it never claimed.

        Call it only when the process has been waited for: a living one might still adopt. The
        caller owns the connections. Idempotent.
        """
        with self._lock:
            if self._state is State.CLOSED:
                return []
            self._state = State.CLOSED
            left = self._read_returned()
            self._let_go(self._cells[CLAIMED])
            for sent in self._sent:
                left += sent.batch[sent.done :]
            self._sent.clear()
            self._held = 0
            self.channel.close()
            self.worker_end.close()
            # the row may be another lane's from now on: keep what it said
            self._cells = memoryview(bytearray(self._cells)).cast("q")
            self._counters.free_row(self.row)
            return left

    def _signs(self) -> tuple[int, int]:
        """What changes when the worker moves."""
        return self._cells[CLAIMED], self._cells[SEEN]

    def _owes(self) -> bool:
        """Whether it has been sent something and, as far as is known, has not taken all of it."""
        return self._state is State.OPEN and (
            self._held > 0 or self._cells[SEEN] < self._next_number - 1
        )

    # Under the lock

    def _is_full(self) -> bool:
        """Whether the worker had no descriptors left just now: more would only come back."""
        return bool(self._full_until) and self._clock() < self._full_until

    def _send(self, part: list[Accepted]) -> bool:
        """Send one message; False if the lane is full or at its end."""
        now = self._clock()
        sent = _Sent(self._next_number, self._next_sequence, part, now)
        if not self._owes():
            self._owed_at = self._behind_at = now
        try:
            send_connections(self.channel, sent.number, sent.first, part)
        except OSError as error:
            if error.errno in SOCKET_FULL or error.errno in _GONE:
                return False
            raise
        self._next_number += 1
        if part:
            self._next_sequence += len(part)
            self._held += len(part)
            self._sent.append(sent)
        return True

    def _let_go(self, claimed: int) -> None:
        """Close our copies of connections with a sequence number below `claimed`."""
        while self._sent:
            sent = self._sent[0]
            end = max(sent.done, min(len(sent.batch), claimed - sent.first))
            for accepted in sent.batch[sent.done : end]:
                close_connection(accepted.fd)
            self._held -= end - sent.done
            sent.done = end
            if end < len(sent.batch):
                return
            self._sent.popleft()

    def _read_returned(self) -> list[Accepted]:
        """Empty the worker's messages; what it could not take is no longer the lane's."""
        found: list[Accepted] = []
        while True:
            try:
                octets = self.channel.recv(MESSAGE_BYTES)
            except OSError:
                break  # nothing (more) there, or the worker's end is gone
            if not octets:
                break
            if octets == RING:
                continue
            returned = parse_returned(octets)
            if returned is not None:
                found += self._forget(*returned)
                self._full_until = self._clock() + _FULL_S
        return found

    def _forget(self, first: int, count: int) -> list[Accepted]:
        """The connections of a message from sequence `first` on to the message's end."""
        for sent in self._sent:
            if sent.first <= first < sent.first + len(sent.batch):
                start = first - sent.first
                found = sent.batch[start : start + count]
                del sent.batch[start : start + count]
                self._held -= len(found)
                return found
        return []

    def _take_back(self) -> list[Accepted]:
        numbers = set()
        while True:
            try:
                numbers.add(take_number(self.worker_end))
            except OSError:
                break  # the queue is empty
        taken: list[Accepted] = []
        kept: deque[_Sent] = deque()
        for sent in self._sent:
            if sent.number in numbers:
                taken += sent.batch
            else:
                kept.append(sent)
        self._sent = kept
        self._held -= len(taken)
        return taken
