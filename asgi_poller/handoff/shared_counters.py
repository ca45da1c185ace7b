"""Counters in memory that the supervisor and its workers share: a row of int64 cells per lane.

Every cell has one writer (RING_WANTED, a flag, has two: see `lane_monitor`), so no lock is needed:
an aligned eight-octet store is one store on every 64-bit processor, and readers see the old value
or the new one.

    supervisor                                   worker
    counters = Counters.create()                 by fork: uses `counters` as it is
    row = counters.take_row()                    spawned: Counters.attach(fd), where `counters.fd`
                                                 was passed on (pass_fds) and its number sent
    counters.row(row)[CLOSED]  # reads           counters.row(row)[CLOSED] += 1
"""

from __future__ import annotations

import threading

from asgi_poller.handoff.shared_memory import CELL_BYTES, SharedMemory

CELLS_PER_ROW = 8  # 64 octets: a cache line of its own for each worker's counting

#: One past the highest sequence number that the worker has claimed, just before it adopted it.
CLAIMED = 0
#: Connections that the worker's loop has finished with.
CLOSED = 1
#: Connections that could not be adopted and were closed.
FAILED = 2
#: Number of the last message that the worker has received.
SEEN = 3
#: 1 if the supervisor sleeps and wants to hear of the next claim.
RING_WANTED = 4
#: How many times the worker has said that it could not take connections.
RETURNS = 5
#: Cells from here on are not used by lanes: the supervisor and its worker may agree on them.
FIRST_FREE = 6

#: Rows to begin with: more lanes than a supervisor will ever have at a time, in 64 KiB.
ROWS = 1024


class Counters:
    """The shared block. `take_row` and `free_row` are the supervisor's, from any of its threads."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._cells = shared.cells
        rows = len(self._cells) // CELLS_PER_ROW
        self._free = list(range(rows - 1, -1, -1))
        self._lock = threading.Lock()

    @classmethod
    def create(cls, rows: int = ROWS) -> Counters:
        """A new block, all zero."""
        size_bytes = rows * CELLS_PER_ROW * CELL_BYTES
        return cls(SharedMemory(size_bytes, named="asgi-poller-counters"))

    @classmethod
    def attach(cls, fd: int) -> Counters:
        """The block that another process created, by an inherited descriptor of it."""
        return cls(SharedMemory.attach(fd))

    @property
    def fd(self) -> int:
        """The descriptor for `attach`; -1 once it is closed."""
        return self._shared.fd

    def row(self, index: int) -> memoryview[int]:
        """The cells of one row."""
        start = index * CELLS_PER_ROW
        return self._cells[start : start + CELLS_PER_ROW]

    def take_row(self) -> int:
        """A row that is nobody's, all zero. IndexError if there is none left."""
        with self._lock:
            index = self._free.pop()
        row = self.row(index)
        for cell in range(CELLS_PER_ROW):
            row[cell] = 0
        return index

    def free_row(self, index: int) -> None:
        """The worker that wrote into this row has ended."""
        with self._lock:
            self._free.append(index)

    def close(self) -> None:
        """Close the descriptor; rows that are still in use stay readable. Idempotent."""
        self._cells.release()
        self._shared.close()
