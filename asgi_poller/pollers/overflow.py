"""OverflowQueue: connections that no lane takes at the moment, in the order in which they came.

A supervisor keeps a descriptor for every connection until its worker has claimed it, and has only
so many. A burst may be larger: what is beyond that is *spilled* into the queue of a unix socket of
the poller's own. The kernel holds the connections there, descriptors and all, and none of them
counts in this process. So accepting goes on when workers are far behind, where the kernel's
queue of the listener would overflow and lose connects.
"""

from __future__ import annotations

from collections.abc import Callable

from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.handoff.fd_passing import (
    DESCRIPTORS_PER_MESSAGE,
    SOCKET_FULL,
    SocketQueue,
    fitting,
)
from asgi_poller.handoff.thread_lane import EndTicket
from asgi_poller.loops.accepted_socket import Accepted

#: Seconds between attempts to hand over what waits: doubles from the first to the last.
_RETRY_FIRST_S = 0.001
_RETRY_LAST_S = 0.032
#: Asked for as the socket's buffer; a connection in it takes about 50 bytes.
_QUEUE_BYTES = 64 * 1024 * 1024


class SocketSpill:
    """What overflows, in the queue of a unix socket. Owned by one poller's thread."""

    __slots__ = ("_end_ticket", "_exception_log", "_queue", "count")

    def __init__(self, end_ticket: EndTicket | None = None) -> None:
        self._end_ticket = end_ticket
        self._exception_log = ExceptionLog()
        self._queue = SocketQueue(_QUEUE_BYTES)
        self.count = 0  # connections that are in it

    def spill(self, batch: list[Accepted]) -> int:
        """Take connections from the front of `batch`; returns how many. Their descriptors are
        closed here. Fewer than all where the queue is full, or the system denies more.
        """
        spilled = 0
        while spilled < len(batch):
            part = fitting(batch, spilled, len(batch))
            try:
                self._queue.put(part)
            except Exception as error:  # the rest waits here, each with its descriptor
                if not isinstance(error, OSError) or error.errno not in SOCKET_FULL:
                    self._exception_log.exception("Waiting connections cannot be put into a socket")
                break
            spilled += len(part)
            self.count += len(part)
        return spilled

    def fetch(self) -> list[Accepted]:
        """Some of the connections that were spilled first; none if there are none."""
        if not self.count:
            return []
        batch, lost = self._queue.get()
        self.count -= len(batch) + len(lost)
        for ticket in lost:
            if ticket >= 0 and self._end_ticket is not None:
                self._end_ticket(ticket)
        return batch

    def close(self) -> None:
        """What is still in it is closed with it."""
        self._queue.close()


class OverflowQueue:
    """The connections that wait in one poller. Owned by its thread; `count` may be read anywhere.

    `hand_over` gives a batch to the lanes and returns what none of them took. `room` bounds what
    waits with a descriptor here; `spill` takes what goes beyond one message of it.
    """

    __slots__ = ("_hand_over", "_retry_s", "_room", "_spill", "_waiting")

    def __init__(
        self,
        hand_over: Callable[[list[Accepted]], list[Accepted]],
        *,
        room: int,
        spill: SocketSpill | None = None,
    ) -> None:
        self._hand_over = hand_over
        self._room = room
        self._spill = spill
        self._waiting: list[Accepted] = []  # came before what is spilled
        self._retry_s = _RETRY_FIRST_S

    @property
    def count(self) -> int:
        """Connections that wait."""
        return len(self._waiting) + (0 if self._spill is None else self._spill.count)

    @property
    def is_full(self) -> bool:
        """Whether accepting has to pause."""
        return len(self._waiting) >= self._room

    @property
    def retry_s(self) -> float:
        """Seconds until `retry` is worth it."""
        return self._retry_s

    def deliver(self, batch: list[Accepted]) -> None:
        """Hand `batch` over, behind those that wait already."""
        if self.count:
            self._queue(batch)
            self.retry()
        else:
            self._queue(self._hand_over(batch))

    def retry(self) -> None:
        """Hand over as many of those that wait as the lanes take."""
        before = self.count
        while True:
            if not self._waiting and self._spill is not None:
                self._waiting = self._spill.fetch()
            if not self._waiting:
                break
            self._waiting = self._hand_over(self._waiting)
            if self._waiting:
                break
        if self.count < before or not before:
            self._retry_s = _RETRY_FIRST_S
        else:
            self._retry_s = min(self._retry_s * 2, _RETRY_LAST_S)

    def finish(self) -> list[Accepted]:
        """One last attempt for all of them; the caller owns what is returned."""
        self.retry()
        left, self._waiting = self._waiting, []
        if self._spill is not None:
            while self._spill.count:
                left += self._hand_over(self._spill.fetch())
                if len(left) > DESCRIPTORS_PER_MESSAGE:
                    break  # the lanes take no more, and nor do our descriptors: closed with it
            self._spill.close()
        return left

    def _queue(self, batch: list[Accepted]) -> None:
        spill = self._spill
        if spill is not None and (
            spill.count or len(batch) + len(self._waiting) > DESCRIPTORS_PER_MESSAGE
        ):
            batch = batch[spill.spill(batch) :]
        self._waiting += batch
