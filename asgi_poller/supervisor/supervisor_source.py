"""Makes Snapshots of a supervisor and its workers, without asking a worker."""

from __future__ import annotations

from asgi_poller.logs import dropped_lines
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.metrics.loop_counts import LoopValues
from asgi_poller.metrics.refusals import by_reason
from asgi_poller.metrics.snapshot import Snapshot
from asgi_poller.serve.overview import of_process
from asgi_poller.supervisor.poller_host import PollerHost


class SupervisorSource:
    """A metrics.snapshot.Source. Any thread, at any time of the supervisor's life."""

    def __init__(self, events: EventLog, role: str = "supervisor") -> None:
        self._events = events
        self._role = role
        self._poller_host: PollerHost | None = None

    def look_at(self, poller_host: PollerHost) -> None:
        """The supervisor is about to start workers."""
        self._poller_host = poller_host

    def __call__(self) -> Snapshot:
        """What is known now."""
        host = self._poller_host
        if host is None:
            return Snapshot(role=self._role, **of_process((), None, self._events))
        workers, retired = host.worker_book.snapshot()
        loops = [loop.values.refusals for worker in workers for loop in worker.loops]
        return Snapshot(
            role=self._role,
            refused=by_reason(host.poller_pool.refusals.counts, retired.refusals, *loops),
            workers=workers,
            retired=retired + LoopValues(log_lines_dropped=dropped_lines()),
            **of_process(host.listeners, host.poller_pool, self._events),
        )
