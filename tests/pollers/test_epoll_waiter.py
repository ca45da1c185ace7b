"""Waiters: the same answers with epoll and with selectors, and a poller pool on either."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from asgi_poller import platform
from asgi_poller.handoff.thread_lane import ThreadLane
from asgi_poller.pollers.epoll_waiter import EpollWaiter, SelectorWaiter, Waiter, make_waiter
from asgi_poller.pollers.pool import PollerPool
from tests.pollers.fakes import clients, cores, make_listener, running_pool
from tests.support.waiting import wait_until

KINDS: list[Callable[[], Waiter]] = [SelectorWaiter]
if platform.EPOLL_EXCLUSIVE:
    KINDS.append(EpollWaiter)


@pytest.fixture(params=KINDS)
def waiter(request: pytest.FixtureRequest) -> Iterator[Waiter]:
    """Each kind of waiter that this system has."""
    made: Waiter = request.param()
    yield made
    made.close()


def test_it_reports_what_is_readable_until_it_is_read(waiter: Waiter) -> None:
    read, write = os.pipe()
    other, other_write = os.pipe()
    waiter.watch(read, shared=True)
    waiter.watch(other, shared=False)
    assert waiter.wait(0) == []
    os.write(write, b"x")
    assert waiter.wait(None) == [read]
    assert waiter.wait(0) == [read]
    os.write(other_write, b"x")
    assert sorted(waiter.wait(0)) == sorted([read, other])
    waiter.forget(read)
    assert waiter.wait(0) == [other]
    for fd in (read, write, other, other_write):
        os.close(fd)


def test_forgetting_what_is_not_watched_is_no_error(waiter: Waiter) -> None:
    read, write = os.pipe()
    waiter.forget(read)
    waiter.watch(read, shared=True)
    os.close(read)
    waiter.forget(read)
    os.close(write)


def test_a_system_without_exclusive_wake_ups_is_served_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "EPOLL_EXCLUSIVE", 0)
    assert isinstance(make_waiter(), SelectorWaiter)
    listener = make_listener()
    with cores(2) as own:
        poller_pool = PollerPool([listener], [ThreadLane(core) for core in own], pollers=4)
        with running_pool(poller_pool, listener), clients(listener, 100):
            wait_until(lambda: sum(len(core.adopted) for core in own) == 100, "all are adopted")
            assert poller_pool.stats().loads == (50, 50)
