"""LaneMonitor keeps going when what it watches fails; no worker process is needed."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from asgi_poller import platform
from asgi_poller.handoff.process_lane import Budget, ProcessLane
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.lane_monitor import LaneMonitor
from asgi_poller.pollers.pool import PollerPool
from tests.pollers.fakes import make_listener
from tests.support.processes import open_descriptors
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.skipif(not platform.HAS_FD_PASSING, reason="no descriptor passing")


class FailingLane(ProcessLane):
    """Its first look fails."""

    looks = 0

    def look(self, *, has_message: bool = True) -> list[Accepted]:
        self.looks += 1
        if self.looks == 1:
            raise ValueError("broken")
        return super().look(has_message=has_message)


def test_it_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters.create(1)
    monitor = LaneMonitor(PollerPool([]))
    monitor.start()
    lane = FailingLane(counters)
    monitor.add(lane)
    wait_until(lambda: lane.looks > 1, "it looks again")
    assert "the lane monitor goes on after an error" in caplog.text
    assert monitor.stop(DEADLINE_S)
    lane.reclaim()
    counters.close()


def test_stop_is_idempotent_and_possible_before_start() -> None:
    before = open_descriptors()
    monitor = LaneMonitor(PollerPool([]))
    assert monitor.stop()
    assert monitor.stop()
    monitor = LaneMonitor(PollerPool([]))
    monitor.start()
    assert monitor.stop(DEADLINE_S)
    assert monitor.stop()
    assert not [t for t in threading.enumerate() if t.name == "LaneMonitor"]
    assert open_descriptors() == before


def test_connections_without_a_lane_are_closed_at_the_stop() -> None:
    counters = Counters.create(1)
    listener = make_listener()
    monitor = LaneMonitor(PollerPool([listener]))
    monitor.start()
    lane = ProcessLane(counters)
    ours, peer = socket.socketpair()
    with peer:
        assert lane.put([Accepted(ours.detach(), 0)]) == 1
        monitor.worker_died(lane)  # a lane that the lane monitor never met may be buried too
        wait_until(lambda: monitor.unassigned == 1, "it has no lane")
        assert monitor.stop(DEADLINE_S)
        assert peer.recv(1) == b""
    listener.close()
    counters.close()


def test_connections_that_wait_too_long_for_a_lane_are_refused() -> None:
    counters = Counters.create(1)
    listener = make_listener(tls=True)
    now = 0.0
    monitor = LaneMonitor(PollerPool([listener]), give_up_s=10.0, clock=lambda: now)
    monitor.start()
    lane = ProcessLane(counters)
    ours, peer = socket.socketpair()
    with peer:
        peer.settimeout(DEADLINE_S)
        lane.put([Accepted(ours.detach(), 0)])
        monitor.worker_died(lane)
        wait_until(lambda: monitor.unassigned == 1, "it has no lane")
        now = 10.0
        assert peer.recv(1000) == b"", "a TLS peer is only closed"
        wait_until(lambda: monitor.unassigned == 0, "it is forgotten")
    assert monitor.stop(DEADLINE_S)
    listener.close()
    counters.close()


def test_a_descriptor_that_is_used_again_is_not_held_to_an_old_deadline() -> None:
    listener = make_listener()
    now = 0.0
    monitor = LaneMonitor(PollerPool([listener]), give_up_s=10.0, clock=lambda: now)
    read, write = os.pipe()
    monitor._unassigned = [Accepted(read, 0, ("127.0.0.2", 1))]
    monitor._find_homes()
    now = 11.0
    # it found a lane, was adopted and closed: the same number is another client's now
    monitor._unassigned = [Accepted(read, 0, ("127.0.0.2", 2))]
    monitor._find_homes()
    assert monitor.unassigned == 1
    # and where clients have no address, what is on record for long does not count
    now = 40.0
    monitor._unassigned = [Accepted(read, 0)]
    monitor._find_homes()
    assert monitor.unassigned == 1
    assert monitor._troubled == {(read, None): 40.0}
    assert monitor.stop()
    os.close(write)
    listener.close()


def test_more_connections_without_a_lane_than_the_budget_still_find_one() -> None:
    counters = Counters.create(1)
    poller_pool = PollerPool([])
    monitor = LaneMonitor(poller_pool)
    lane = ProcessLane(counters, budget=Budget(5, lambda: monitor.unassigned))
    poller_pool.add_lane(lane)
    ends = [os.pipe() for _ in range(8)]
    monitor._unassigned = [Accepted(read, 0) for read, _ in ends]
    monitor._find_homes()
    assert (lane.waiting, monitor.unassigned) == (5, 3)
    for accepted in [*lane.reclaim(), *monitor._unassigned]:
        os.close(accepted.fd)
    monitor._unassigned = []
    for _, write in ends:
        os.close(write)
    assert monitor.stop()
    counters.close()
