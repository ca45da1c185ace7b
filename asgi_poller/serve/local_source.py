"""Makes Snapshots of a server without workers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from asgi_poller.listeners.listeners import Listener
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.metrics.refusals import by_reason
from asgi_poller.metrics.snapshot import Snapshot, WorkerSnapshot
from asgi_poller.serve.overview import of_process
from asgi_poller.serve.serving import Serving
from asgi_poller.system.memory import quick_resident_bytes


class LocalSource:
    """A metrics.snapshot.Source. Any thread, at any time of the server's life."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._listeners: Sequence[Listener] = ()
        self._serving: Serving | None = None

    def look_at(self, serving: Serving, listeners: Sequence[Listener]) -> None:
        """The server is about to start."""
        self._listeners, self._serving = listeners, serving

    def __call__(self) -> Snapshot:
        """What is known now."""
        events, serving = self._events, self._serving
        poller_pool = None if serving is None else serving.poller_pool
        loops = () if serving is None else serving.loop_snapshots()
        refusals = [loop.values.refusals for loop in loops]
        if poller_pool is not None:
            refusals.append(tuple(poller_pool.refusals.counts))
        worker = WorkerSnapshot(
            number=0,
            pid=os.getpid(),
            state=events.state,
            age_s=time.time() - events.started_at,
            memory_bytes=quick_resident_bytes(os.getpid()),
            loops=loops,
        )
        return Snapshot(
            role="server",
            refused=by_reason(*refusals),
            workers=(worker,),
            **of_process(self._listeners, poller_pool, events),
        )
