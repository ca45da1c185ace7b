"""LaneKeeper: what it does when things around it fail, without worker processes."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from asgi_poller import platform
from asgi_poller.handoff.process_lane import Budget, ProcessLane
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.lane_monitor import LaneKeeper
from asgi_poller.pollers.pool import FrontEnd
from tests.pollers.fakes import DEADLINE_S, make_listener, open_descriptors, wait_until

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
    keeper = LaneKeeper(FrontEnd([]))
    keeper.start()
    lane = FailingLane(counters)
    keeper.add(lane)
    wait_until(lambda: lane.looks > 1, "it looks again")
    assert "the lane keeper goes on after an error" in caplog.text
    assert keeper.stop(DEADLINE_S)
    lane.reclaim()
    counters.close()


def test_stop_is_idempotent_and_possible_before_start() -> None:
    before = open_descriptors()
    keeper = LaneKeeper(FrontEnd([]))
    assert keeper.stop()
    assert keeper.stop()
    keeper = LaneKeeper(FrontEnd([]))
    keeper.start()
    assert keeper.stop(DEADLINE_S)
    assert keeper.stop()
    assert not [t for t in threading.enumerate() if t.name == "LaneKeeper"]
    assert open_descriptors() == before


def test_connections_without_a_lane_are_closed_at_the_stop() -> None:
    counters = Counters.create(1)
    listener = make_listener()
    keeper = LaneKeeper(FrontEnd([listener]))
    keeper.start()
    lane = ProcessLane(counters)
    ours, peer = socket.socketpair()
    with peer:
        assert lane.put([Accepted(ours.detach(), 0)]) == 1
        keeper.bury(lane)  # a lane that the keeper never met may be buried too
        wait_until(lambda: keeper.homeless == 1, "it has no lane")
        assert keeper.stop(DEADLINE_S)
        assert peer.recv(1) == b""
    listener.close()
    counters.close()


def test_connections_that_wait_too_long_for_a_lane_are_refused() -> None:
    counters = Counters.create(1)
    listener = make_listener(tls=True)
    now = 0.0
    keeper = LaneKeeper(FrontEnd([listener]), give_up_s=10.0, clock=lambda: now)
    keeper.start()
    lane = ProcessLane(counters)
    ours, peer = socket.socketpair()
    with peer:
        peer.settimeout(DEADLINE_S)
        lane.put([Accepted(ours.detach(), 0)])
        keeper.bury(lane)
        wait_until(lambda: keeper.homeless == 1, "it has no lane")
        now = 10.0
        assert peer.recv(1000) == b"", "a TLS peer is only closed"
        wait_until(lambda: keeper.homeless == 0, "it is forgotten")
    assert keeper.stop(DEADLINE_S)
    listener.close()
    counters.close()


def test_a_descriptor_that_is_used_again_is_not_held_to_an_old_deadline() -> None:
    listener = make_listener()
    now = 0.0
    keeper = LaneKeeper(FrontEnd([listener]), give_up_s=10.0, clock=lambda: now)
    read, write = os.pipe()
    keeper._homeless = [Accepted(read, 0, ("127.0.0.2", 1))]
    keeper._find_homes()
    now = 11.0
    # it found a lane, was adopted and closed: the same number is another client's now
    keeper._homeless = [Accepted(read, 0, ("127.0.0.2", 2))]
    keeper._find_homes()
    assert keeper.homeless == 1
    # and where clients have no address, what is on record for long does not count
    now = 40.0
    keeper._homeless = [Accepted(read, 0)]
    keeper._find_homes()
    assert keeper.homeless == 1
    assert keeper._troubled == {(read, None): 40.0}
    assert keeper.stop()
    os.close(write)
    listener.close()


def test_more_connections_without_a_lane_than_the_budget_still_find_one() -> None:
    counters = Counters.create(1)
    front_end = FrontEnd([])
    keeper = LaneKeeper(front_end)
    lane = ProcessLane(counters, budget=Budget(5, lambda: keeper.homeless))
    front_end.add_lane(lane)
    ends = [os.pipe() for _ in range(8)]
    keeper._homeless = [Accepted(read, 0) for read, _ in ends]
    keeper._find_homes()
    assert (lane.waiting, keeper.homeless) == (5, 3)
    for accepted in [*lane.reclaim(), *keeper._homeless]:
        os.close(accepted.fd)
    keeper._homeless = []
    for _, write in ends:
        os.close(write)
    assert keeper.stop()
    counters.close()
