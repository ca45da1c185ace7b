"""ProcessLane by hand: claims, returns and losses, with a fake clock and no second process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from asgi_poller import platform
from asgi_poller.handoff.fd_passing import (
    DESCRIPTORS_PER_MESSAGE,
    Delivery,
    DescriptorReader,
    returned,
)
from asgi_poller.handoff.process_lane import Budget, ProcessLane
from asgi_poller.handoff.shared_counters import CLAIMED, RING_WANTED, SEEN, Counters
from asgi_poller.handoff.thread_lane import LATE_S, REMEMBER_TIMES
from asgi_poller.loops.accepted_socket import Accepted

pytestmark = pytest.mark.skipif(not platform.HAS_FD_PASSING, reason="no descriptor passing")


class Worker:
    """The other side of a lane, step by step."""

    def __init__(self, lane: ProcessLane, counters: Counters) -> None:
        self.cells = counters.row(lane.row)
        self.socket = lane.worker_end.dup()
        self.inbox = DescriptorReader(self.socket)

    def receive(self) -> Delivery:
        delivery = self.inbox.receive()
        assert delivery is not None
        self.cells[SEEN] = delivery.number
        return delivery

    def claim(self, delivery: Delivery, count: int | None = None) -> None:
        fds = delivery.fds[:count]
        self.cells[CLAIMED] = delivery.first + len(fds)
        for fd in delivery.fds:
            os.close(fd)

    def has_nothing(self) -> bool:
        try:
            self.inbox.receive()
        except BlockingIOError:
            return True
        return False


class TestProcessLane:
    @pytest.fixture(autouse=True)
    def _set_up(self) -> Iterator[None]:
        self.now = 1000.0
        self.counters = Counters.create(4)
        self.lane = self.make_lane()
        self.worker = Worker(self.lane, self.counters)
        self.writes: list[int] = []
        self.returned: list[Accepted] = []  # to us, and closed with the test
        yield
        for accepted in self.returned:
            os.close(accepted.fd)
        for accepted in self.lane.reclaim():
            os.close(accepted.fd)
        for write in self.writes:
            os.close(write)
        self.worker.socket.close()
        self.counters.close()

    def make_lane(self, capacity: int = 1000) -> ProcessLane:
        return ProcessLane(self.counters, capacity=capacity, clock=lambda: self.now)

    def connections(self, count: int, data: bytes = b"") -> list[Accepted]:
        """Pipes in the place of connections: their other ends tell who still has a copy."""
        made = []
        for _ in range(count):
            read, write = os.pipe()
            self.writes.append(write)
            made.append(Accepted(read, 0, ("127.0.0.1", 1), data))
        return made

    def held(self) -> list[bool]:
        """For each connection made, whether anyone has it open."""
        answer = []
        for write in self.writes:
            try:
                os.write(write, b"x")
                answer.append(True)
            except BrokenPipeError:
                answer.append(False)
        return answer

    def test_a_copy_is_kept_until_the_claim(self) -> None:
        assert self.lane.put(self.connections(3)) == 3
        delivery = self.worker.receive()
        assert self.lane.look() == []
        self.worker.claim(delivery, 2)
        assert self.held() == [True] * 3
        assert self.lane.look() == []
        assert self.held() == [False, False, True]
        assert self.lane.waiting == 1

    def test_large_batches_are_cut_by_descriptors_and_by_bytes(self) -> None:
        (one,) = self.connections(1)
        batch = [Accepted(os.dup(one.fd), 0) for _ in range(DESCRIPTORS_PER_MESSAGE + 10)]
        assert self.lane.put(batch) == len(batch)
        sizes = [len(self.worker.receive().fds) for _ in range(2)]
        assert sizes == [DESCRIPTORS_PER_MESSAGE, 10]
        heavy = self.connections(3, b"x" * 40_000)
        assert self.lane.put(heavy) == 3
        assert [len(self.worker.receive().entries) for _ in range(3)] == [1, 1, 1]
        os.close(one.fd)

    def test_beyond_its_capacity_it_takes_nothing(self) -> None:
        lane = self.make_lane(capacity=3)
        batch = self.connections(5)
        assert lane.put(batch) == 3
        assert lane.put(batch[3:]) == 0
        self.returned += [*lane.reclaim(), *batch[3:]]

    def test_lanes_share_what_the_process_may_hold(self) -> None:
        budget = Budget(10)
        lanes = [ProcessLane(self.counters, budget=budget) for _ in range(2)]
        workers = [Worker(lane, self.counters) for lane in lanes]
        batch = self.connections(12)
        assert lanes[0].put(batch[:7]) == 7
        assert lanes[1].put(batch[7:]) == 3
        assert lanes[0].put(batch[10:]) == 0
        workers[0].claim(workers[0].receive())
        lanes[0].look()
        assert lanes[1].put(batch[10:]) == 2
        for lane, worker in zip(lanes, workers, strict=True):
            self.returned += lane.reclaim()
            worker.socket.close()
        assert budget.room() == 10

    def test_a_full_socket_takes_what_fits_and_never_blocks(self) -> None:
        lane = self.make_lane(capacity=1_000_000)
        lane.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        (one,) = self.connections(1)
        taken = 0
        while lane.put([Accepted(os.dup(one.fd), 0)]):
            taken += 1
        assert 0 < taken < 1000
        assert lane.waiting == taken
        left = lane.reclaim()
        assert len(left) == taken
        self.returned += [*left, one]

    def test_a_ring_is_wanted_unless_something_was_claimed_meanwhile(self) -> None:
        self.lane.put(self.connections(1))
        assert self.lane.want_ring()
        assert self.worker.cells[RING_WANTED] == 1
        self.worker.claim(self.worker.receive())
        assert not self.lane.want_ring()
        self.lane.look()
        assert self.lane.want_ring()

    def test_what_a_dead_worker_had_not_claimed_comes_back(self) -> None:
        batch = self.connections(5)
        self.lane.put(batch[:3])
        self.lane.put(batch[3:])
        self.worker.claim(self.worker.receive(), 1)
        assert self.lane.reclaim() == batch[1:]
        assert self.held() == [False, True, True, True, True]
        assert self.lane.reclaim() == []
        assert self.lane.put(batch) == 0
        assert self.lane.look() == []
        assert not self.lane.available()
        self.returned += batch[1:]

    def test_taking_back_leaves_what_the_worker_has_received(self) -> None:
        batch = self.connections(4)
        for accepted in batch:
            self.lane.put([accepted])
        first = self.worker.receive()
        assert self.lane.take_back() == batch[1:]
        assert self.worker.receive().entries == []  # a probe in their place
        assert self.worker.has_nothing()
        self.lane.look()
        assert self.held() == [True] * 4
        self.worker.claim(first)
        self.lane.look()
        assert self.held() == [False, True, True, True]
        self.returned += batch[1:]

    def test_a_later_claim_does_not_cover_what_was_taken_back(self) -> None:
        batch = self.connections(3)
        self.lane.put(batch[:2])
        assert self.lane.take_back() == batch[:2]
        self.lane.put(batch[2:])
        assert self.worker.receive().entries == []
        self.worker.claim(self.worker.receive())  # a sequence number above theirs
        self.lane.look()
        assert self.held() == [True, True, False]
        self.returned += batch[:2]

    def test_what_the_worker_returns_is_not_taken_for_claimed(self) -> None:
        batch = self.connections(4)
        self.lane.put(batch[:3])
        self.lane.put(batch[3:])
        self.worker.claim(self.worker.receive(), 1)
        self.worker.socket.send(returned(1, 2))
        self.worker.claim(self.worker.receive())
        assert self.lane.look() == batch[1:3]
        assert self.held() == [False, True, True, False]
        assert self.lane.waiting == 0
        # its worker has no descriptors left: a pause, then it is tried again
        assert not self.lane.available()
        assert self.lane.put(batch[1:3]) == 0
        self.now += 1.0
        assert self.lane.available()
        assert self.lane.put(batch[1:3]) == 2

    def test_a_worker_that_does_not_move_is_late(self) -> None:
        self.now += 100.0
        self.lane.put(self.connections(1))
        self.now += LATE_S * 0.9
        assert not self.lane.is_late()
        self.now += LATE_S * 0.2
        assert self.lane.is_late()
        # still the last resort, if there is no other lane, and late all the same
        assert self.lane.put(self.connections(1)) == 1
        assert self.lane.is_late()

    def test_a_worker_that_moves_slowly_is_not_late(self) -> None:
        self.lane.put(self.connections(3))
        delivery = self.worker.receive()
        for count in range(1, 4):
            self.now += LATE_S * 0.9
            self.worker.cells[CLAIMED] = count
            self.lane.look()
            assert not self.lane.is_late()
        self.worker.claim(delivery)

    def test_a_worker_that_has_moved_is_not_late_before_anybody_has_looked(self) -> None:
        self.lane.put(self.connections(2))
        self.now += LATE_S * 2
        assert self.lane.is_late()
        self.worker.claim(self.worker.receive(), 1)
        assert not self.lane.is_late()

    def test_a_late_worker_shows_its_return_by_the_probe(self) -> None:
        batch = self.connections(1)
        self.lane.put(batch)
        self.now += LATE_S * 1.1
        assert self.lane.take_back() == batch
        assert self.lane.is_late()
        assert self.lane.take_back() == []  # and only one probe is ever under way
        assert self.lane.is_late()
        probe = self.worker.receive()
        assert probe.entries == []
        assert self.worker.has_nothing()
        assert not self.lane.is_late()
        self.lane.look()
        assert not self.lane.is_late()
        self.returned += batch

    def test_an_idle_worker_is_late_once_it_leaves_a_probe_unanswered(self) -> None:
        self.now += 100.0
        assert not self.lane.is_late()
        self.lane.probe()
        self.lane.probe()
        assert not self.lane.is_late()
        self.now += LATE_S * 1.1
        assert self.lane.is_late()
        assert self.worker.receive().entries == []
        assert self.worker.has_nothing()
        assert not self.lane.is_late()

    def test_its_pace_is_how_long_the_oldest_waits_though_it_moves(self) -> None:
        self.now += 100.0
        assert self.lane.pace_s() == 0.0
        batch = self.connections(3)
        self.lane.put(batch[:1])
        self.now += 0.1
        self.lane.put(batch[1:])
        self.now += 0.2
        self.worker.claim(self.worker.receive())
        assert self.lane.silent_s() == 0.0
        assert self.lane.pace_s() == pytest.approx(0.3), "before anybody has looked, too"
        self.lane.look()
        assert self.lane.pace_s() == pytest.approx(0.3)
        self.now += 0.2
        self.worker.claim(self.worker.receive())
        self.lane.look()
        assert self.lane.pace_s() == pytest.approx(0.4)
        self.now += REMEMBER_TIMES * 0.4 + 0.01
        assert self.lane.pace_s() == 0.0

    def test_a_worker_that_drains_is_not_late(self) -> None:
        batch = self.connections(1)
        self.lane.put(batch)
        assert self.lane.retire() == batch
        self.now += 100.0
        assert not self.lane.is_late()
        self.returned += batch

    def test_a_retired_lane_takes_nothing_and_is_still_adopted_from(self) -> None:
        batch = self.connections(2)
        self.lane.put(batch[:1])
        delivery = self.worker.receive()
        self.lane.put(batch[1:])
        assert self.lane.retire() == batch[1:]
        assert self.lane.put(batch[1:]) == 0
        assert not self.lane.available()
        self.worker.claim(delivery)
        self.lane.look()
        assert self.held() == [False, True]
        self.returned += batch[1:]

    def test_rows_are_given_back_with_the_lane(self) -> None:
        lanes = [self.make_lane() for _ in range(3)]
        with pytest.raises(IndexError):
            self.make_lane()
        lanes[0].reclaim()
        lanes[0] = self.make_lane()
        for lane in lanes:
            lane.reclaim()
