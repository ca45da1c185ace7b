"""Turns by themselves: several workers' parts in one process, with loads that the tests set."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

if sys.platform == "win32":
    pytest.skip("gunicorn is not for Windows", allow_module_level=True)

from asgi_poller.gunicorn.turns import HOLD_S, SHARE_COUNT, Board, Turns


class FakeLane:
    """A lane with a load that the test sets."""

    def __init__(self, load: int = 0) -> None:
        self.connections = load

    def load(self) -> int:
        return self.connections


class Party:
    """A worker's turns, its lane, and how long it has held back."""

    def __init__(self, board: Board | None, load: int = 0) -> None:
        self.waited: list[float] = []
        self.turns = Turns(board, wait=self.waited.append)
        self.lane = FakeLane(load)
        self.turns.claim()
        self.turns.begin([self.lane])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def dial(listener: socket.socket) -> Iterator[list[socket.socket]]:
    """Connections that wait to be accepted: append to have one more."""
    opened: list[socket.socket] = []
    yield opened
    for each in opened:
        each.close()


def arrive(listener: socket.socket, opened: list[socket.socket], count: int) -> None:
    for _ in range(count):
        opened.append(socket.create_connection(listener.getsockname()))


def test_the_least_loaded_takes_at_once(listener: socket.socket, dial: list[socket.socket]) -> None:
    board = Board()
    few, _many = Party(board, 3), Party(board, 5)
    arrive(listener, dial, 1)
    fd, _ = few.turns.accept_from(listener)()
    os.close(fd)
    assert few.waited == []


def test_who_has_more_holds_back_and_then_takes_what_is_left(
    listener: socket.socket, dial: list[socket.socket]
) -> None:
    board = Board()
    _few, many = Party(board, 3), Party(board, 4)
    accept = many.turns.accept_from(listener)
    with pytest.raises(BlockingIOError):
        accept()  # nothing is there
    arrive(listener, dial, 1)
    fd, _ = accept()
    os.close(fd)
    assert many.waited == [HOLD_S, HOLD_S]


def test_a_burst_is_taken_in_shares(listener: socket.socket, dial: list[socket.socket]) -> None:
    board = Board()
    one, other = Party(board), Party(board)
    accept = one.turns.accept_from(listener)
    arrive(listener, dial, SHARE_COUNT + 1)
    for _ in range(SHARE_COUNT):
        fd, _ = accept()
        os.close(fd)
    with pytest.raises(BlockingIOError):
        accept()
    one.lane.connections = SHARE_COUNT  # handed over
    fd, _ = other.turns.accept_from(listener)()
    os.close(fd)
    assert (one.waited, other.waited) == ([], [])


def test_who_has_ended_is_not_waited_for(
    listener: socket.socket, dial: list[socket.socket]
) -> None:
    board = Board()
    ended, left = Party(board, 0), Party(board, 9)
    ended.turns.end()
    arrive(listener, dial, 1)
    fd, _ = left.turns.accept_from(listener)()
    os.close(fd)
    assert left.waited == []


def test_closed_connections_bring_the_turn_back(
    listener: socket.socket, dial: list[socket.socket]
) -> None:
    board = Board()
    _one, other = Party(board, 1), Party(board, 2)
    other.lane.connections = 0
    arrive(listener, dial, 1)
    fd, _ = other.turns.accept_from(listener)()
    os.close(fd)
    assert other.waited == []


def test_the_slots_of_dead_workers_are_given_out_again() -> None:
    board = Board()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for _ in range(2000):
        slot = board.join()
        assert slot is not None
        board._pids[slot] = dead.pid


def test_without_a_slot_nobody_takes_turns(
    listener: socket.socket, dial: list[socket.socket]
) -> None:
    board = Board()
    while board.join() is not None:
        pass
    late = Party(board, 7)
    assert not late.turns.are_taken
    arrive(listener, dial, 1)
    fd, _ = late.turns.accept_from(listener)()
    os.close(fd)
    assert late.waited == []
    assert not Party(None).turns.are_taken
