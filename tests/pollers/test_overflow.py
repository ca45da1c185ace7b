"""Connections that no loop takes wait in order, in a socket when they are many; none is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from asgi_poller import platform
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.overflow import OverflowQueue, SocketSpill
from tests.support.processes import open_descriptors

pytestmark = pytest.mark.skipif(not platform.HAS_FD_PASSING, reason="no descriptor passing")


class Lanes:
    """Takes connections from the front of a batch while there is room."""

    def __init__(self) -> None:
        self.room = 0
        self.taken: list[Accepted] = []

    def hand_over(self, batch: list[Accepted]) -> list[Accepted]:
        taken, left = batch[: self.room], batch[self.room :]
        self.room -= len(taken)
        self.taken += taken
        return left

    def names(self) -> list[int]:
        return [accepted.peer[1] for accepted in self.taken]


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes()
    yield made
    for accepted in made.taken:
        os.close(accepted.fd)


def connections(first: int, count: int) -> list[Accepted]:
    """Descriptors in the place of connections; the peer's port is their place in the order."""
    return [
        Accepted(
            os.open(os.devnull, os.O_RDONLY),
            0,
            ("127.0.0.2", first + index),
            b"x",
            index,
            first + index / 7,
        )
        for index in range(count)
    ]


def test_a_burst_far_beyond_the_room_is_kept_without_descriptors(lanes: Lanes) -> None:
    line = OverflowQueue(lanes.hand_over, room=1024, spill=SocketSpill())
    before = open_descriptors()
    for first in range(0, 10_000, 500):
        line.deliver(connections(first, 500))
    assert line.count == 10_000
    assert not line.is_full
    assert open_descriptors() - before < 600
    lanes.room = 1
    line.retry()
    assert lanes.names() == [0]
    while line.count:
        lanes.room = 700
        line.retry()
        for accepted in lanes.taken[1:]:
            os.close(accepted.fd)
        assert lanes.names()[1:] == sorted(lanes.names()[1:])
        del lanes.taken[1:]
    assert line.finish() == []


def test_what_was_known_of_a_connection_is_known_afterwards(lanes: Lanes) -> None:
    line = OverflowQueue(lanes.hand_over, room=1024, spill=SocketSpill())
    sent = connections(0, 600)
    line.deliver(sent)
    lanes.room = 600
    line.retry()
    assert [accepted[1:] for accepted in lanes.taken] == [accepted[1:] for accepted in sent]
    assert line.finish() == []


def test_who_comes_later_waits_behind(lanes: Lanes) -> None:
    line = OverflowQueue(lanes.hand_over, room=1024, spill=SocketSpill())
    line.deliver(connections(0, 300))
    lanes.room = 400
    line.deliver(connections(300, 300))
    lanes.room = 400
    line.deliver(connections(600, 10))
    assert lanes.names() == list(range(610))
    assert line.finish() == []


def test_the_end_closes_what_nobody_takes() -> None:
    lanes = Lanes()
    before = open_descriptors()
    line = OverflowQueue(lanes.hand_over, room=1024, spill=SocketSpill())
    line.deliver(connections(0, 2000))
    for accepted in line.finish():
        os.close(accepted.fd)
    assert open_descriptors() == before


def test_without_parking_the_line_is_full_at_its_room(lanes: Lanes) -> None:
    line = OverflowQueue(lanes.hand_over, room=10)
    line.deliver(connections(0, 9))
    assert not line.is_full
    line.deliver(connections(9, 1))
    assert line.is_full
    lanes.room = 10
    line.retry()
    assert not line.is_full
    assert lanes.names() == list(range(10))
