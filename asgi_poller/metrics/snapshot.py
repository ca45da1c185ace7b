"""All that is known of a running server at one moment, for those who show it.

The process that owns the metrics port makes a Snapshot on request: the supervisor of all its
workers, a server without workers of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from asgi_poller.metrics.histogram import HistogramValue
from asgi_poller.metrics.loop_counts import NO_COUNTS, LoopValues


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSnapshot:
    """A listening socket: `url` as in the log. `queue` connections wait for accept(), of at most
    `queue_limit`; None where the system does not say (Linux does, by TCP_INFO of a TCP listener).
    """

    url: str
    queue: int | None
    queue_limit: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerSnapshot:
    """One MasterPoller's counts since its start. `batches` counts rounds that accepted something,
    by size: up to 1, 2, 4, 8, ... 512 connections. `hand_over` is the time from accept() until a
    lane took the connection. `waiting` connections are in its queue now.
    """

    name: str
    accepted: int
    aborted: int
    failed: int
    shortages: int
    dropped: int
    waiting: int
    batches: tuple[int, ...]
    hand_over: HistogramValue


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSnapshot:
    """One event loop, and its lane: `taken_back` connections went to another loop because this one
    was late. `silent_s` is for how long it has left a call unanswered, now.
    """

    index: int
    values: LoopValues
    assigned: int
    taken_back: int
    silent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    """A process with loops. `state` is "starting", "serving" or "draining"; `number` is 0 where the
    server has no workers. `memory_bytes` is resident memory, None where the system does not say.
    """

    number: int
    pid: int
    state: str
    age_s: float
    memory_bytes: int | None
    loops: tuple[LoopSnapshot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the server or a worker. `time` is in seconds since the epoch.

    `kind` is one of EVENT_KINDS, `worker` its number (0: the server itself), `detail` a sentence.
    """

    time: float
    kind: str
    worker: int
    pid: int
    detail: str = ""


#: started: it serves. draining: it was asked to end. ended: in order. crashed: not in order (a
#: signal, an exit code). blocked, recovered, lost: its loop does not answer, does again, has not
#: for --timeout-worker-heartbeat. failed: it could not start. reload: all workers are replaced.
EVENT_KINDS = (
    "started", "draining", "ended", "crashed", "blocked", "recovered", "lost", "failed", "reload",
)  # fmt: skip

#: Why a worker was started in another one's place. crashed, lost: as above. recycled: it had
#: reached a limit. reload: all are replaced. asked: it alone was sent SIGTERM.
RESTART_REASONS = ("crashed", "lost", "recycled", "reload", "asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`time` and `started_at` are in seconds since the epoch. `state` of the server is "starting",
    "serving" or "draining". `refused` counts connections and requests that were turned away, by
    reason, in all processes. `listen_overflows` and `listen_drops` are the kernel's, of all
    listeners in this network namespace (proc_net_netstat: TcpExt); None where it does not say.
    `retired` is what loops of workers that have ended had counted, and log lines that the
    supervisor itself has dropped; `restarts` how many workers were started to replace one, by
    RESTART_REASONS. `events` are the latest ones, oldest first.
    """

    time: float
    started_at: float
    pid: int
    role: str
    version: str
    build: str
    state: str
    listeners: tuple[ListenerSnapshot, ...] = ()
    listen_overflows: int | None = None
    listen_drops: int | None = None
    pollers: tuple[PollerSnapshot, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    workers: tuple[WorkerSnapshot, ...] = ()
    retired: LoopValues = NO_COUNTS
    restarts: Mapping[str, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    @property
    def total(self) -> LoopValues:
        """All loops together, those that have ended too."""
        total = self.retired
        for worker in self.workers:
            for loop in worker.loops:
                total += loop.values
        return total


Source = Callable[[], Snapshot]
"""Makes a Snapshot. Any thread; takes a millisecond at most, so it never asks a worker."""
