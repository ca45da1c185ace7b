"""What has happened to a server and its workers: its state, the latest events, restarts by why."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque

from asgi_poller.metrics.snapshot import Event

STARTING, SERVING, DRAINING = "starting", "serving", "draining"
_LATEST = 200


class EventLog:
    """Any thread. `state` is that of the server, as in Snapshot."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.state = STARTING
        self._events: deque[Event] = deque(maxlen=_LATEST)
        self._restarts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, kind: str, *, worker: int = 0, pid: int = 0, detail: str = "") -> None:
        """Something has happened, to the server unless a worker is named; as in Event. Not for
        signal handlers.
        """
        pid = pid or os.getpid()
        event = Event(time=time.time(), kind=kind, worker=worker, pid=pid, detail=detail)
        with self._lock:
            self._events.append(event)

    def started(self) -> None:
        """The server serves, if it has not been asked to end meanwhile."""
        if self.state != DRAINING:
            self.state = SERVING
        self.note("started")

    def count_restart(self, why: str) -> None:
        """A worker is replaced; `why` as in Snapshot.restarts."""
        with self._lock:
            self._restarts[why] += 1

    @property
    def events(self) -> tuple[Event, ...]:
        """The latest, oldest first."""
        with self._lock:
            return tuple(self._events)

    @property
    def restarts(self) -> dict[str, int]:
        """How many workers were replaced, by why."""
        with self._lock:
            return dict(self._restarts)
