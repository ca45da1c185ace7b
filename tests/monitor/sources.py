"""Sources of snapshots for tests, and a monitor that shows one of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

from asgi_poller.config import Config
from asgi_poller.metrics.histogram import Histogram, value_of
from asgi_poller.metrics.loop_counts import LoopCounts, LoopValues, close_index
from asgi_poller.metrics.snapshot import (
    Event,
    ListenerSnapshot,
    LoopSnapshot,
    PollerSnapshot,
    Snapshot,
    Source,
    WorkerSnapshot,
)
from asgi_poller.monitor.monitor import monitored
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S, run


def counted(**counts: int) -> LoopValues:
    """What a loop has counted: these, a WebSocket that its client closed, and some durations."""
    counts_of_loop = LoopCounts()
    for name, value in counts.items():
        setattr(counts_of_loop, name, value)
    counts_of_loop.closes[close_index(1000, "peer")] = 7
    counts_of_loop.responses[0] = 11
    for histogram in (counts_of_loop.lag, counts_of_loop.request, counts_of_loop.handshake):
        histogram.observe(0.002)
        histogram.observe(100.0)
    row = memoryview(bytearray(8 * 512)).cast("q")
    counts_of_loop.publish(row)
    return LoopValues.read(row)


def loop(index: int = 0, silent_s: float = 0.0, **counts: int) -> LoopSnapshot:
    """A loop as a snapshot has it."""
    values = counted(**counts)
    return LoopSnapshot(index=index, values=values, assigned=9, taken_back=1, silent_s=silent_s)


def worker(number: int, *loops: LoopSnapshot, state: str = "serving") -> WorkerSnapshot:
    """A worker as a snapshot has it."""
    return WorkerSnapshot(
        number=number,
        pid=1000 + number,
        state=state,
        age_s=12.5,
        memory_bytes=64 * 1024 * 1024,
        loops=loops or (loop(connections_open=3, messages_received=100),),
    )


def snapshot(**changes: Any) -> Snapshot:
    """A server with two workers and something of everything."""
    hand_over = Histogram()
    hand_over.observe(0.0001)
    full = Snapshot(
        time=1_700_000_100.0,
        started_at=1_700_000_000.0,
        pid=999,
        role="supervisor",
        version="0.1.0",
        build="pure",
        state="serving",
        listeners=(
            ListenerSnapshot(url="http://127.0.0.1:8000", queue=5, queue_limit=4096),
            ListenerSnapshot(url="unix:/run/app.sock", queue=None, queue_limit=None),
        ),
        listen_overflows=2,
        listen_drops=3,
        pollers=(
            PollerSnapshot(
                name="MasterPoller-0",
                accepted=40,
                aborted=1,
                failed=2,
                shortages=3,
                dropped=4,
                waiting=5,
                batches=(8, 4, 2, 2, 0, 0, 0, 0, 0, 0),
                hand_over=value_of(hand_over),
            ),
        ),
        refused={"503": 6, "tls": 1},
        workers=(worker(1), worker(2)),
        retired=counted(messages_received=1000),
        restarts={"crashed": 1},
        events=(Event(time=1_700_000_050.0, kind="started", worker=1, pid=1001),),
    )
    return dataclasses.replace(full, **changes)


def answering(shown: Snapshot) -> Source:
    """A source that says the same each time."""
    return lambda: shown


@contextlib.contextmanager
def monitor(source: Source, **options: Any) -> Iterator[Served]:
    """A monitor on a free port, in a thread of this process, that shows what `source` says."""
    config = Config("main:app", **({"metrics": "0"} | options))
    ready, leave, ports = threading.Event(), threading.Event(), []

    async def main() -> None:
        async with monitored(config, source) as it:
            assert it is not None
            ports.append(it.listeners[0].socket.getsockname()[1])
            ready.set()
            await asyncio.to_thread(leave.wait, DEADLINE_S)

    thread = threading.Thread(target=lambda: run(main()), daemon=True)
    thread.start()
    assert ready.wait(DEADLINE_S)
    try:
        yield Served(ports[0])
    finally:
        leave.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
