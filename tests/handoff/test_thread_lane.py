"""ThreadLane: one wake-up for a burst, on the loop's own thread; nothing is lost or doubled."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from asgi_poller.handoff import thread_lane
from asgi_poller.handoff.thread_lane import LATE_S, REMEMBER_TIMES, ThreadLane, close_connection
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.loops.loop_factory import loop_factory
from tests.pollers.fakes import LoopCore, cores
from tests.support.fake_connection import Clock
from tests.support.waiting import DEADLINE_S, in_threads, wait_until


def fake_connections(start: int, count: int) -> list[Accepted]:
    """Numbers that are nobody's descriptor: for lanes whose core only records."""
    return [Accepted(1_000_000 + number, 0) for number in range(start, start + count)]


class HandLoop:
    """A loop that is turned by hand and counts how often it was woken."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], object]] = []
        self.closed = False
        self.wakes = 0
        self.refuse_next_wake = False

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> None:
        if self.closed or self.refuse_next_wake:
            self.closed = True
            raise RuntimeError("Event loop is closed")
        self.wakes += 1
        self.callbacks.append(callback)

    def is_closed(self) -> bool:
        return self.closed

    def turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class HandCore:
    """A core on a HandLoop."""

    def __init__(self) -> None:
        self.loop = HandLoop()
        self.closed = 0
        self.adopted: list[Accepted] = []
        self.during_adopt: Callable[[], object] = lambda: None

    def adopt(self, accepted: Accepted) -> None:
        self.adopted.append(accepted)
        self.during_adopt()


def test_one_wake_up_for_a_burst_and_another_after_delivery() -> None:
    core = HandCore()
    lane = ThreadLane(core)
    batch = fake_connections(0, 5)
    assert lane.put(batch[:2]) == 2
    assert lane.put(batch[2:]) == 3
    assert core.loop.wakes == 1
    core.loop.turn()
    assert core.adopted == batch
    assert lane.put(fake_connections(5, 1)) == 1
    assert core.loop.wakes == 2


def test_what_comes_during_delivery_gets_a_wake_up_of_its_own() -> None:
    core = HandCore()
    lane = ThreadLane(core)
    more = fake_connections(2, 1)

    def put_more() -> None:
        core.during_adopt = lambda: None
        lane.put(more)

    core.during_adopt = put_more
    lane.put(fake_connections(0, 2))
    core.loop.turn()
    assert len(core.adopted) == 2, "a stream of connections must not hold the loop"
    core.loop.turn()
    assert core.adopted[2:] == more


class LateLength(deque[Accepted]):
    """What another thread has put shows in its length only once something was popped: as for a
    processor that has not yet seen the store of another one.
    """

    popped = False

    def popleft(self) -> Accepted:
        self.popped = True
        return super().popleft()

    def __len__(self) -> int:
        return super().__len__() if self.popped else 0


def test_what_a_length_does_not_show_yet_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_lane, "deque", LateLength)
    core = HandCore()
    lane = ThreadLane(core)
    batch = fake_connections(0, 3)
    assert lane.put(batch) == 3
    while core.loop.callbacks:
        core.loop.turn()
    assert core.adopted == batch


def test_a_full_lane_takes_what_fits() -> None:
    core = HandCore()
    lane = ThreadLane(core, capacity=3)
    assert lane.put(fake_connections(0, 5)) == 3
    assert lane.put(fake_connections(5, 1)) == 0
    core.loop.turn()
    assert lane.put(fake_connections(5, 1)) == 1


def test_an_error_in_adopt_costs_that_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    with cores(1) as (core,):
        pairs = [socket.socketpair() for _ in range(3)]
        ours = [Accepted(pair[0].detach(), 0) for pair in pairs]
        core.refuse = lambda accepted: accepted is ours[1]
        lane = ThreadLane(core)
        lane.assigned = 3
        lane.put(ours)
        wait_until(lambda: len(core.adopted) == 2, "the others are adopted")
        pairs[1][1].settimeout(DEADLINE_S)
        assert pairs[1][1].recv(1) == b"", "the refused one is closed"
        assert lane.load() == 2
        for _, client in pairs:
            client.close()
    assert "could not be adopted" in caplog.text


def test_a_closed_loop_takes_nothing() -> None:
    core = HandCore()
    lane = ThreadLane(core)
    assert lane.available()
    core.loop.closed = True
    assert not lane.available()
    assert lane.put(fake_connections(0, 2)) == 0
    assert lane.reclaim() == []


def test_a_loop_that_closes_during_put_gives_everything_back() -> None:
    core = HandCore()
    lane = ThreadLane(core)
    core.loop.refuse_next_wake = True
    assert lane.put(fake_connections(0, 3)) == 0
    assert lane.reclaim() == []
    assert lane.put(fake_connections(0, 3)) == 0


def test_what_a_dead_core_never_adopted_can_be_reclaimed() -> None:
    core = HandCore()
    lane = ThreadLane(core)
    batch = fake_connections(0, 3)
    assert lane.put(batch) == 3
    core.loop.closed = True
    assert lane.reclaim() == batch
    assert lane.reclaim() == []


def test_each_poller_gets_back_its_own_from_a_loop_that_has_closed() -> None:
    core = HandCore()
    lane = ThreadLane(core)
    taken, refused = fake_connections(0, 2), fake_connections(2, 2)
    assert lane.put(taken) == 2
    core.loop.turn()
    lane._rung = True  # as if the first poller's wake-up were under way
    assert lane.put(taken) == 2
    lane._rung = False
    core.loop.refuse_next_wake = True
    assert lane.put(refused) == 0
    assert lane.reclaim() == taken


def test_a_loop_that_does_not_answer_is_late_and_gives_up_what_waits() -> None:
    core, clock = HandCore(), Clock()
    lane = ThreadLane(core, clock=clock)
    clock.now += 100.0
    batch = fake_connections(0, 3)
    lane.put(batch)
    clock.now += LATE_S * 0.9
    assert not lane.is_late()
    clock.now += LATE_S * 0.2
    assert lane.is_late()
    assert lane.take_back() == batch
    assert lane.is_late(), "nothing waits, but it has not answered"
    assert lane.put(fake_connections(3, 1)) == 1, "it is still the last resort"
    core.loop.turn()
    assert not lane.is_late()
    assert core.adopted == fake_connections(3, 1)


def test_an_idle_loop_is_called_to_see_whether_it_answers() -> None:
    core, clock = HandCore(), Clock()
    lane = ThreadLane(core, clock=clock)
    lane.probe()
    lane.probe()
    assert core.loop.wakes == 1
    clock.now += LATE_S * 1.1
    assert lane.silent_s() == pytest.approx(LATE_S * 1.1)
    assert lane.is_late()
    core.loop.turn()
    assert lane.silent_s() == 0.0
    assert not lane.is_late()


def test_a_long_turn_is_remembered_for_some_turns() -> None:
    core, clock = HandCore(), Clock()
    lane = ThreadLane(core, clock=clock)
    assert lane.pace_s() == 0.0
    lane.put(fake_connections(0, 1))
    clock.now += 0.3
    assert lane.pace_s() == pytest.approx(0.3), "it has not answered yet"
    core.loop.turn()
    lane.put(fake_connections(1, 1))
    clock.now += 0.01
    core.loop.turn()
    assert lane.silent_s() == 0.0
    assert lane.pace_s() == pytest.approx(0.3)
    clock.now += REMEMBER_TIMES * 0.3 + 0.01
    assert lane.pace_s() == 0.0


def test_a_loop_that_adopts_for_long_is_not_late() -> None:
    core, clock = HandCore(), Clock()
    lane = ThreadLane(core, clock=clock)
    seen: list[bool] = []

    def take_long() -> None:
        lane.put(fake_connections(len(core.adopted) + 10, 1))
        clock.now += LATE_S
        seen.append(lane.is_late())

    core.during_adopt = take_long
    lane.put(fake_connections(0, 3))
    core.loop.turn()
    assert seen == [False] * 3
    assert not lane.is_late(), "it has not had its turn yet"
    clock.now += LATE_S * 1.1
    assert lane.is_late()


@pytest.fixture
def real_core(loop: str) -> Iterator[LoopCore]:
    """A core on each kind of loop."""
    core = LoopCore(loop_factory(loop)())
    yield core
    core.adopted.clear()
    core.stop()


@pytest.mark.free_threaded
def test_many_pollers_lose_nothing_and_deliver_nothing_twice(real_core: LoopCore) -> None:
    lane = ThreadLane(real_core)
    start = threading.Barrier(6)

    def poller(number: int) -> None:
        start.wait()
        for turn in range(500):
            batch = fake_connections(number * 10_000 + turn * 3, turn % 3 + 1)
            assert lane.put(batch) == len(batch)

    with in_threads(poller, range(6)):
        pass
    total = 6 * sum(turn % 3 + 1 for turn in range(500))
    wait_until(lambda: len(real_core.adopted) == total, "all are delivered")
    assert len({accepted.fd for accepted in real_core.adopted}) == total


@pytest.mark.parametrize("attempt", range(20))
def test_pollers_that_race_with_the_end_of_a_loop_account_for_everything(attempt: int) -> None:
    core = LoopCore()
    lane = ThreadLane(core)
    taken: list[list[Accepted]] = [[] for _ in range(4)]
    start = threading.Barrier(5)

    def poller(number: int) -> None:
        start.wait()
        for turn in range(200):
            batch = fake_connections(number * 10_000 + turn * 2, 2)
            taken[number] += batch[: lane.put(batch)]

    with in_threads(poller, range(4)):
        start.wait()
        core.loop.call_soon_threadsafe(core.loop.stop)
    wait_until(core.loop.is_closed, "the loop has ended")
    accounted = [accepted.fd for accepted in core.adopted + lane.reclaim()]
    core.adopted.clear()
    core.stop()
    assert sorted(accounted) == sorted(accepted.fd for mine in taken for accepted in mine)


def test_closing_a_connection_twice_is_no_error() -> None:
    ours, peer = socket.socketpair()
    fd = ours.detach()
    close_connection(fd)
    close_connection(fd)
    assert peer.recv(1) == b""
    peer.close()
    with pytest.raises(OSError):
        os.fstat(fd)
