"""The Balancer: levels loads exactly, rotates ties, and is atomic among threads."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.handoff.thread_lane import LATE_S, LATE_TIMES
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.balance import Balancer
from tests.pollers.fakes import PromptLane
from tests.support.waiting import in_threads


class CountingLane(PromptLane):
    """A lane that is only its numbers."""

    def __init__(self, load: int = 0, *, available: bool = True) -> None:
        self.assigned = load
        self.closed = 0
        self.usable = available
        self.silence_s = 0.0
        self.longest_s = 0.0

    def load(self) -> int:
        return self.assigned - self.closed

    def available(self) -> bool:
        return self.usable

    def silent_s(self) -> float:
        return self.silence_s

    def pace_s(self) -> float:
        return max(self.silence_s, self.longest_s)

    def is_late(self) -> bool:
        return self.silence_s >= LATE_S

    def put(self, batch: list[Accepted]) -> int:
        raise AssertionError("the Balancer never puts")


def one_by_one(loads: list[int], count: int) -> list[int]:
    """The definition: each connection goes to a least-loaded lane."""
    result = list(loads)
    for _ in range(count):
        result[result.index(min(result))] += 1
    return sorted(result)


@given(loads=st.lists(st.integers(-3, 40), min_size=1, max_size=9), count=st.integers(1, 200))
def test_sharing_a_batch_equals_giving_one_at_a_time(loads: list[int], count: int) -> None:
    lanes = [CountingLane(load) for load in loads]
    shares = Balancer(tuple(lanes)).reserve(count)
    assert all(share > 0 for _, share in shares)
    assert sum(share for _, share in shares) == count
    assert sorted(lane.load() for lane in lanes) == one_by_one(loads, count)


def test_ties_rotate() -> None:
    lanes = [CountingLane() for _ in range(3)]
    balancer = Balancer(tuple(lanes))
    order = []
    for _ in range(6):
        ((lane, share),) = balancer.reserve(1)
        assert share == 1
        assert isinstance(lane, CountingLane)
        lane.closed += 1  # as idle servers do: the connection is over before the next comes
        order.append(lanes.index(lane))
    assert order == [0, 1, 2, 0, 1, 2]


def test_round_robin_deals_in_turn_whatever_the_loads() -> None:
    lanes = [CountingLane(100), CountingLane(), CountingLane()]
    balancer = Balancer(tuple(lanes), "round-robin")
    for count in (1, 1, 4, 3):
        balancer.reserve(count)
    assert [lane.load() for lane in lanes] == [103, 3, 3]


def test_lanes_that_are_not_available_come_last() -> None:
    busy, stalled = CountingLane(50), CountingLane(available=False)
    balancer = Balancer((busy, stalled))
    assert balancer.reserve(10) == [(busy, 10)]
    assert balancer.reserve(10, without=[busy]) == [(stalled, 10)]
    assert balancer.reserve(10, without=[busy, stalled]) == []


def test_without_lanes_there_is_nothing_to_reserve() -> None:
    balancer = Balancer()
    assert balancer.reserve(1) == []
    lane = CountingLane()
    balancer.add(lane)
    assert balancer.lanes == (lane,)
    assert balancer.reserve(2) == [(lane, 2)]
    balancer.give_back(lane, 2)
    assert lane.load() == 0
    balancer.remove(lane)
    balancer.remove(lane)
    assert balancer.reserve(1) == []


@pytest.mark.free_threaded
def test_many_threads_keep_the_spread_at_one() -> None:
    lanes = [CountingLane() for _ in range(5)]
    balancer = Balancer(tuple(lanes))
    start = threading.Barrier(8)

    def poller(seed: int) -> None:
        start.wait()
        for turn in range(400):
            wanted = (seed * 7 + turn) % 11 + 1
            for lane, share in balancer.reserve(wanted):
                if turn % 5 == 0:  # and some of it does not fit
                    balancer.give_back(lane, share)
                    balancer.reserve(share)

    with in_threads(poller, range(8)):
        pass
    loads = [lane.load() for lane in lanes]
    assert sum(loads) == sum((seed * 7 + turn) % 11 + 1 for seed in range(8) for turn in range(400))
    # giving back unlevels by what one thread held; a last share levels it again
    balancer.reserve(1000)
    loads = [lane.load() for lane in lanes]
    assert max(loads) - min(loads) <= 1


def test_who_is_late_beside_one_that_answers_gets_nothing() -> None:
    late, prompt = CountingLane(), CountingLane(50)
    late.silence_s = LATE_S
    assert Balancer((late, prompt)).reserve(10) == [(prompt, 10)]


def test_in_a_burst_nobody_is_late_beside_who_was_as_slow_just_now() -> None:
    """One loop has just come back from a long turn, and the other one is in one."""
    busy, back = CountingLane(), CountingLane()
    balancer = Balancer((busy, back))
    back.longest_s = 2 * LATE_S
    busy.silence_s = LATE_TIMES * back.longest_s * 0.9
    assert sorted(share for _, share in balancer.reserve(10)) == [5, 5]
    busy.silence_s = LATE_TIMES * back.longest_s
    assert balancer.reserve(10) == [(back, 10)]


def test_where_all_are_silent_all_get_their_share() -> None:
    lanes = [CountingLane(), CountingLane()]
    for lane in lanes:
        lane.silence_s = 10.0
    assert sorted(share for _, share in Balancer(tuple(lanes)).reserve(10)) == [5, 5]
