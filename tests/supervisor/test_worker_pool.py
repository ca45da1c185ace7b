"""Waits between attempts: none at first, longer and longer, and never for good."""

from __future__ import annotations

from asgi_poller.supervisor.worker_pool import Backoff


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
