"""Rows of cells in which loops publish what they count (`metrics/loop_counts.py`): in memory that
the supervisor and its workers share, or in that of one process.
"""

from __future__ import annotations

from asgi_poller.handoff.shared_counters import ROWS
from asgi_poller.handoff.shared_memory import CELL_BYTES, SharedMemory
from asgi_poller.metrics.loop_counts import CELLS


class MetricRows:
    """As many rows as Counters has, which says whose a row is: a lane has the same one in both."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._cells = shared.cells

    @classmethod
    def create(cls) -> MetricRows:
        """New ones, all zero; memory is taken as rows are used."""
        return cls(SharedMemory(ROWS * CELLS * CELL_BYTES, named="asgi-poller-metrics"))

    @classmethod
    def attach(cls, fd: int) -> MetricRows:
        """Those that another process created, by an inherited descriptor."""
        return cls(SharedMemory.attach(fd))

    @property
    def fd(self) -> int:
        """The descriptor for `attach`; -1 once it is closed."""
        return self._shared.fd

    def row(self, index: int) -> memoryview[int]:
        """The cells of one row."""
        return self._cells[index * CELLS : (index + 1) * CELLS]

    def clear(self, index: int) -> None:
        """A row is about to be somebody else's."""
        self.row(index)[:] = local_row()

    def close(self) -> None:
        """Close the descriptor; rows that are still in use stay readable. Idempotent."""
        self._cells.release()
        self._shared.close()


def local_row() -> memoryview[int]:
    """A row for a loop of this process alone, all zero."""
    return memoryview(bytearray(CELLS * CELL_BYTES)).cast("q")
