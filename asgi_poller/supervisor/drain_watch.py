"""What is said while workers drain: one line a second for all of them, and one at the end."""

from __future__ import annotations

import asyncio

from asgi_poller.loops.drain_counts import NOTHING, Drained, counted, seconds
from asgi_poller.loops.drain_progress import say_end, say_progress
from asgi_poller.supervisor.worker_handle import WorkerHandle


class DrainWatch:
    """The workers that drain now. Owned by the supervisor's main thread.

    How many connections are left is in shared memory, so a worker need not answer; what became of
    them each worker says before it ends.
    """

    def __init__(self) -> None:
        self._workers: set[WorkerHandle] = set()
        self._progress: asyncio.Task[None] | None = None
        self._begun_s = 0.0
        self._limit_s = 0.0
        self._drained = Drained(NOTHING, 0, NOTHING, 0.0)
        self._lost_count = 0  # connections of workers that were killed
        self._is_last = False
        self._is_forced = False

    def begin(self, workers: set[WorkerHandle], limit_s: float, *, is_last: bool = False) -> None:
        """These have `limit_s` seconds to drain. `is_last`: the server ends with them."""
        now_s = asyncio.get_running_loop().time()
        if not self._workers:
            self._begun_s = now_s
            self._drained, self._lost_count = Drained(NOTHING, 0, NOTHING, 0.0), 0
        self._limit_s = limit_s
        self._is_last = is_last
        self._workers |= workers
        self._stop()
        if limit_s and self._workers:
            work = say_progress(limit_s, self._line, is_last=is_last)
            self._progress = asyncio.ensure_future(work)

    def force(self) -> None:
        """They are about to be killed."""
        self._is_forced = True

    def ended(self, worker: WorkerHandle) -> None:
        """To be called for every worker that has ended, before its lanes are closed."""
        if worker not in self._workers:
            return
        self._workers.discard(worker)
        if worker.drained is None:
            self._lost_count += _open_count(worker)
        else:
            self._drained += worker.drained
        if not self._workers:
            self._stop()
            self._say_end()

    def _line(self, rest_s: float) -> tuple[int, str]:
        counts = [_open_count(worker) for worker in self._workers]
        count, busy = sum(counts), sum(map(bool, counts))
        rest = seconds(rest_s)
        if not count:
            workers = counted(len(counts), "worker")
            have = "has" if len(counts) == 1 else "have"
            return 1, f"Draining: no connection left, {workers} {have} yet to end, {rest} at most."
        they = "it is" if count == 1 else "they are"
        where = f" in {counted(busy, 'worker')}" if busy > 1 else ""
        left = counted(count, "connection")
        return count, f"Draining: {left} left{where}, {rest} until {they} cut off."

    def _say_end(self) -> None:
        if self._is_forced:
            took_s = asyncio.get_running_loop().time() - self._begun_s
            self._drained += Drained(NOTHING, 0, NOTHING, took_s)
        lost = counted(self._lost_count, "connection", "lost with a worker that was killed")
        say_end(self._drained, self._limit_s, is_forced=self._is_forced, lost=lost)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.cancel()
            self._progress = None


def _open_count(worker: WorkerHandle) -> int:
    return sum(max(0, lane.load()) for lane in worker.lanes)
