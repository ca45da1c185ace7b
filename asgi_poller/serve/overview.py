"""What every Snapshot says of its own process, whether that has workers or not."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from asgi_poller.config import Config
from asgi_poller.handoff.process_lane import ProcessLane
from asgi_poller.handoff.thread_lane import ThreadLane
from asgi_poller.listeners.listeners import Listener
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.metrics.kernel import accept_queue, listen_failures
from asgi_poller.metrics.loop_counts import PUBLISH_S, RAN_AT, LoopValues
from asgi_poller.metrics.snapshot import ListenerSnapshot, LoopSnapshot
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.system.build import build_kind, our_version


def is_metered(config: Config) -> bool:
    """Whether anybody will ask for a Snapshot: `--metrics`."""
    return config.metrics is not None


def loop_snapshot(index: int, lane: ThreadLane | ProcessLane, row: memoryview[int]) -> LoopSnapshot:
    """One loop, by its lane and its row."""
    return LoopSnapshot(
        index=index,
        values=LoopValues.read(row),
        assigned=lane.assigned,
        taken_back=lane.taken_back,
        silent_s=max(lane.silent_s(), _late_s(row)),
    )


def _late_s(row: memoryview[int]) -> float:
    """Seconds since the loop should have published; 0.0: it is on time, or has not begun."""
    ran_at_us = row[RAN_AT]
    if not ran_at_us:
        return 0.0
    late_s = time.monotonic() - ran_at_us / 1_000_000 - PUBLISH_S
    return late_s if late_s > PUBLISH_S else 0.0


def of_process(
    listeners: Sequence[Listener], poller_pool: PollerPool | None, events: EventLog
) -> dict[str, Any]:
    """The fields of a Snapshot that are the same wherever the loops are. Any thread."""
    version, build = _program()
    overflows, drops = listen_failures()
    return {
        "time": time.time(),
        "started_at": events.started_at,
        "pid": os.getpid(),
        "version": version,
        "build": build,
        "state": events.state,
        "listeners": tuple(map(_listener_snapshot, listeners)),
        "listen_overflows": overflows,
        "listen_drops": drops,
        "pollers": () if poller_pool is None else poller_pool.snapshots(),
        "restarts": events.restarts,
        "events": events.events,
    }


def _listener_snapshot(listener: Listener) -> ListenerSnapshot:
    queue, limit = accept_queue(listener.socket)
    return ListenerSnapshot(url=listener.url, queue=queue, queue_limit=limit)


@cache
def _program() -> tuple[str, str]:
    return our_version(), build_kind()
