"""The workers of a supervisor as a Snapshot shows them, and what those that have ended had counted.

A worker's rows are read a last time when it has ended, however that came about, and before another
worker has them: so totals never shrink, and nothing is counted twice.
"""

from __future__ import annotations

import threading

from asgi_poller.handoff.metric_rows import MetricRows
from asgi_poller.metrics.loop_counts import NO_COUNTS, LoopValues
from asgi_poller.metrics.snapshot import WorkerSnapshot
from asgi_poller.serve.overview import loop_snapshot
from asgi_poller.supervisor.worker_handle import WorkerHandle
from asgi_poller.system.memory import quick_resident_bytes


class WorkerBook:
    """Any thread. `rows` are where the loops publish; None: nobody asks."""

    def __init__(self, rows: MetricRows | None) -> None:
        self._rows = rows
        self._workers: list[WorkerHandle] = []
        self._retired = NO_COUNTS
        self._lock = threading.Lock()

    def add(self, worker: WorkerHandle) -> None:
        """It is about to start."""
        with self._lock:
            self._workers.append(worker)

    def remove(self, worker: WorkerHandle) -> None:
        """It has ended, and its rows are still its own. Idempotent."""
        with self._lock:
            if worker not in self._workers:
                return
            self._workers.remove(worker)
            if self._rows is not None:
                for row in worker.rows:
                    self._retired += LoopValues.read(self._rows.row(row)).ended

    def snapshot(self) -> tuple[tuple[WorkerSnapshot, ...], LoopValues]:
        """Those that have not ended, by number, and what loops of the others had counted."""
        with self._lock:
            rows, workers = self._rows, sorted(self._workers, key=lambda worker: worker.number)
            if rows is None:
                return (), NO_COUNTS
            return tuple(_worker_snapshot(worker, rows) for worker in workers), self._retired


def _worker_snapshot(worker: WorkerHandle, rows: MetricRows) -> WorkerSnapshot:
    return WorkerSnapshot(
        number=worker.number,
        pid=worker.pid,
        state=worker.state.name.lower(),
        age_s=worker.age_s,
        memory_bytes=quick_resident_bytes(worker.pid),
        loops=tuple(
            loop_snapshot(index, lane, rows.row(row))
            for index, (lane, row) in enumerate(zip(worker.lanes, worker.rows, strict=True))
        ),
    )
