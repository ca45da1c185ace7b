"""Waits between attempts: none at first, longer and longer, and never for good. What is noted of a
worker's end, and when.
"""

from __future__ import annotations

from unittest.mock import Mock

from asgi_poller.config import Config
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.supervisor.backoff import Backoff
from asgi_poller.supervisor.worker_pool import WorkerPool


def test_the_first_replacement_comes_at_once_and_later_ones_later() -> None:
    backoff = Backoff()
    waits = []
    for now in range(12):
        waits.append(backoff.delay_s)
        backoff.failed(float(now))
    assert waits == [0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    for _ in range(2000):
        backoff.failed(20.0)
    assert backoff.delay_s == 30


def test_workers_that_served_for_long_do_not_count() -> None:
    backoff = Backoff()
    for now in range(4):
        backoff.failed(float(now), age_s=3600.0)
    assert backoff.delay_s == 0
    assert backoff.count == 0


def test_old_failures_are_forgotten() -> None:
    backoff = Backoff()
    for now in (0.0, 1.0, 2.0):
        backoff.failed(now)
    assert backoff.count == 3
    backoff.failed(1000.0)
    assert backoff.count == 1
    assert backoff.delay_s == 0


def test_a_worker_that_is_not_shown_any_more_has_its_event() -> None:
    """A snapshot may be taken at any moment, and reads the workers first."""
    events = EventLog()
    known: list[str] = []
    host = Mock()
    host.worker_died = lambda _: known.extend(event.kind for event in events.events)
    pool = WorkerPool(Config("a:b", workers=2), host, Mock(), events)
    pool._on_ended(Mock(number=1, pid=5), 0)
    pool._on_ended(Mock(number=2, pid=6), -9)
    assert known == ["ended", "ended", "crashed"]
