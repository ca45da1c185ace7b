"""Lanes to real processes that are killed, stopped, blocked or out of descriptors.

Each worker greets what it adopts, so each client knows: exactly one greeting, or the connection was
lost or adopted twice.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from asgi_poller import platform
from asgi_poller.handoff.process_lane import ProcessLane
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.pollers.lane_monitor import LaneMonitor
from asgi_poller.pollers.pool import PollerPool
from tests.pollers.fakes import clients, connect, make_listener
from tests.support.processes import open_descriptors, suspend
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.skipif(not platform.HAS_FD_PASSING, reason="no descriptor passing")


class Worker:
    """A worker process and the lane to it."""

    def __init__(self, name: str, counters: Counters, *, limit: int | None = None) -> None:
        self.name = name
        self.lane = ProcessLane(counters, name=name)
        numbers = [self.lane.worker_end.fileno(), counters.fd, self.lane.row]
        if limit is not None:
            numbers.append(limit)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.pollers.worker", name, *map(str, numbers)],
            pass_fds=numbers[:2],
            stdout=subprocess.PIPE,
        )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def suspend(self) -> None:
        suspend(self.process.pid)

    def is_noticed(self) -> bool:
        """Whether it is known to be stopped, or has nothing that waits."""
        return self.lane.is_late() or not self.lane.waiting

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Workers:
    """A poller pool with workers."""

    def __init__(self, *, pollers: int = 2, give_up_s: float = 10.0) -> None:
        self.listener = make_listener()
        self.counters = Counters.create()
        self.poller_pool = PollerPool([self.listener], pollers=pollers)
        self.monitor = LaneMonitor(self.poller_pool, give_up_s=give_up_s)
        self.workers: list[Worker] = []

    def start(self, *limits: int | None) -> list[Worker]:
        self.monitor.start()
        self.poller_pool.start()
        return self.add(*limits)

    def add(self, *limits: int | None) -> list[Worker]:
        made = [
            Worker(f"worker-{len(self.workers) + index}", self.counters, limit=limit)
            for index, limit in enumerate(limits)
        ]
        self.workers += made
        for worker in made:
            worker.wait_ready()
            self.monitor.add(worker.lane)
        wait_until(lambda: all(knows(self.poller_pool, worker) for worker in made), "lanes known")
        return made

    def worker_died(self, worker: Worker) -> None:
        worker.kill()
        self.monitor.worker_died(worker.lane)

    def stop(self) -> None:
        assert self.poller_pool.stop(DEADLINE_S)
        assert self.monitor.stop(DEADLINE_S)
        for worker in self.workers:
            worker.kill()
            for accepted in worker.lane.reclaim():
                os.close(accepted.fd)
        self.listener.close()
        self.counters.close()


def knows(poller_pool: PollerPool, worker: Worker) -> bool:
    return any(lane is worker.lane for lane in poller_pool._balancer.lanes)


@pytest.fixture
def site() -> Iterator[Workers]:
    before = open_descriptors()
    made = Workers()
    yield made
    made.stop()
    assert open_descriptors() == before


def greetings(connected: list[socket.socket]) -> Counter[str]:
    """Who greeted; every client must have exactly one greeting, or an end without one ("")."""
    found: Counter[str] = Counter()
    waiting = {client.fileno(): client for client in connected}
    deadline = time.monotonic() + DEADLINE_S
    poller = select.poll()
    for fd in waiting:
        poller.register(fd, select.POLLIN)
    while waiting:
        assert time.monotonic() < deadline, f"{len(waiting)} without a greeting, {found}"
        for fd, _ in poller.poll(1000):
            try:
                greeting = waiting.pop(fd).recv(4096)
            except ConnectionResetError:
                greeting = b""
            poller.unregister(fd)
            assert greeting.count(b"worker") <= 1, greeting
            found[greeting.decode().strip()] += 1
    return found


def nobody_was_greeted_twice(connected: list[socket.socket]) -> bool:
    poller = select.poll()
    for client in connected:
        poller.register(client, select.POLLIN)
    fds = {client.fileno(): client for client in connected}
    return all(fds[fd].recv(4096) == b"" for fd, _ in poller.poll(0))


def test_connections_are_spread_evenly_and_ends_are_seen_at_once(site: Workers) -> None:
    site.start(None, None, None)
    with clients(site.listener, 300) as connected:
        assert sorted(greetings(connected).values()) == [100, 100, 100]
        assert site.poller_pool.stats().loads == (100, 100, 100)
        wait_until(lambda: not any(w.lane.waiting for w in site.workers), "no copies are kept")
        for client in connected[:150]:
            client.shutdown(socket.SHUT_WR)
        # the worker closes, and no copy of ours keeps the connection up
        for client in connected[:150]:
            assert client.recv(1) == b""
        wait_until(lambda: sum(site.poller_pool.stats().loads) == 150, "the loads fall")
        with clients(site.listener, 150) as more:
            greetings(more)
            loads = site.poller_pool.stats().loads
            assert sum(loads) == 300
            assert max(loads) - min(loads) <= 3


def test_a_killed_worker_loses_only_what_it_had_adopted(site: Workers) -> None:
    first, second = site.start(None, None)
    first.suspend()  # it can adopt nothing more
    with clients(site.listener, 200) as connected:
        wait_until(lambda: site.poller_pool.stats().accepted == 200, "all are accepted")
        site.worker_died(first)
        assert greetings(connected) == {second.name: 200}
        assert site.poller_pool.stats().loads == (200,)


def test_a_worker_killed_in_the_middle_of_a_burst(site: Workers) -> None:
    first, second = site.start(None, None)
    for _ in range(5):
        with clients(site.listener, 400) as connected:
            site.worker_died(first)
            found = greetings(connected)
            # "" are those that it had adopted, and died with before or after it greeted them
            assert set(found) <= {first.name, second.name, ""}
            assert sum(found.values()) == 400
            assert found[second.name] >= 200
        wait_until(
            lambda: sum(site.poller_pool.stats().loads) == 0, "the worker that lives is idle"
        )
        (first,) = site.add(None)


def test_a_stopped_worker_gets_nothing_and_what_waits_goes_elsewhere(site: Workers) -> None:
    stopped, good = site.start(None, None)
    stopped.suspend()
    with clients(site.listener, 100) as connected:
        assert greetings(connected) == {good.name: 100}
        assert stopped.lane.is_late()
        with clients(site.listener, 20) as more:
            assert greetings(more) == {good.name: 20}
            stopped.signal(signal.SIGCONT)
            wait_until(lambda: not stopped.lane.is_late(), "it is back")
            with clients(site.listener, 60) as later:
                assert greetings(later)[stopped.name] == 60, "it has the smaller load"
            assert nobody_was_greeted_twice(connected)
            assert nobody_was_greeted_twice(more)
    wait_until(lambda: site.poller_pool.stats().loads == (0, 0), "no load is left over")


def test_workers_stopped_and_continued_at_random_neither_lose_nor_double(
    site: Workers,
) -> None:
    workers = site.start(None, None, None)
    total = 0
    everyone: list[socket.socket] = []
    for turn in range(12):
        victim = workers[turn % 3]
        victim.signal(signal.SIGSTOP)
        for _ in range(40):
            everyone.append(connect(site.listener))
            total += 1
        if turn % 2:
            wait_until(victim.is_noticed, "noticed")
        victim.signal(signal.SIGCONT)
    found = greetings(everyone)
    assert sum(found.values()) == total
    assert found[""] == 0
    assert nobody_was_greeted_twice(everyone)
    for client in everyone:
        client.close()
    wait_until(lambda: sum(site.poller_pool.stats().loads) == 0, "no load is left over")


def test_one_stopped_worker_after_another_is_passed_over(site: Workers) -> None:
    *stopped, good = site.start(*[None] * 5)
    for worker in stopped:
        worker.suspend()
    for _ in range(3):
        with clients(site.listener, 1) as connected:
            assert greetings(connected) == {good.name: 1}
    wait_until(lambda: all(worker.lane.is_late() for worker in stopped), "all are known")
    for worker in stopped:
        worker.signal(signal.SIGCONT)
    wait_until(lambda: not any(worker.lane.is_late() for worker in stopped), "all are back")


def test_the_only_worker_gets_everything_even_if_it_stalls(site: Workers) -> None:
    (only,) = site.start(None)
    only.suspend()
    with clients(site.listener, 50) as connected:
        wait_until(lambda: only.lane.is_late(), "noticed")
        with clients(site.listener, 50) as more:
            only.signal(signal.SIGCONT)
            assert greetings(connected + more) == {only.name: 100}


def test_connections_wait_for_the_replacement_of_the_only_worker(site: Workers) -> None:
    (only,) = site.start(None)
    only.suspend()
    with clients(site.listener, 50) as connected:
        wait_until(lambda: only.lane.waiting == 50, "handed over")
        site.worker_died(only)
        wait_until(lambda: site.monitor.unassigned == 50, "without a lane")
        with clients(site.listener, 10) as more:
            (new,) = site.add(None)
            assert greetings(connected + more) == {new.name: 60}


def test_a_retired_worker_keeps_what_it_has_and_gets_nothing_more(site: Workers) -> None:
    old, new = site.start(None, None)
    with clients(site.listener, 20) as connected:
        assert greetings(connected) == {old.name: 10, new.name: 10}
        site.monitor.retire(old.lane)
        with clients(site.listener, 20) as more:
            assert greetings(more) == {new.name: 20}
        assert nobody_was_greeted_twice(connected)


def test_what_a_worker_without_descriptors_cannot_take_goes_elsewhere(
    site: Workers,
) -> None:
    small, big = site.start(40, None)
    with clients(site.listener, 200) as connected:
        found = greetings(connected)
        assert found[small.name] + found[big.name] == 200
        assert 0 < found[small.name] < 40
        wait_until(lambda: sum(site.poller_pool.stats().loads) == 200, "the loads are true")


def test_without_any_room_clients_get_503_in_the_end() -> None:
    site = Workers(give_up_s=0.5)
    (small,) = site.start(40)
    with clients(site.listener, 60) as connected:
        found = greetings(connected)
        greeted = found.pop(small.name)
        assert 0 < greeted < 40
        assert all(answer.startswith("HTTP/1.1 503 ") for answer in found)
        assert sum(found.values()) == 60 - greeted
    site.stop()


def test_greetings_carry_what_pollers_have_read(site: Workers) -> None:
    (worker,) = site.start(None)
    poller_pool = PollerPool(
        [other := make_listener()],
        [worker.lane],
        admit=lambda accepted: accepted._replace(data=b"x" * 100_000),
    )
    poller_pool.start()
    with connect(other) as client:
        expected = len(worker.name) + 1 + 100_000
        received = 0
        while received < expected:
            received += len(client.recv(65536))
        assert received == expected
    poller_pool.stop(DEADLINE_S)
    other.close()


def test_an_orphaned_worker_ends() -> None:
    site = Workers()
    (worker,) = site.start(None)
    assert site.poller_pool.stop(DEADLINE_S)
    assert site.monitor.stop(DEADLINE_S)
    worker.lane.reclaim()  # closes the supervisor's ends, as its death would
    assert worker.process.wait(DEADLINE_S) == 0
    site.stop()
