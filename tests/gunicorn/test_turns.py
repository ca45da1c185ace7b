"""The workers of gunicorn take turns in accepting, by their loads, also when one dies or hangs."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

if sys.platform == "win32":
    pytest.skip("gunicorn is not for Windows", allow_module_level=True)

from asgi_poller.gunicorn.turns import HOLD_S, LATE_HOLD_S, SHARE_COUNT, Board, Turns
from asgi_poller.handoff.relay import Relay, RelayQueue
from asgi_poller.handoff.thread_lane import LATE_S
from asgi_poller.loops.accepted_socket import Accepted


class FakeLane:
    """A lane with a load that the test sets, and a loop that answers or does not."""

    def __init__(self, load: int = 0) -> None:
        self.connections = load
        self.is_blocked = False
        self.is_prompt = True
        self.probes = 0
        self.longest_s = 0.0

    def load(self) -> int:
        return self.connections

    def silent_s(self) -> float:
        return 1.0 if self.is_blocked else 0.0 if self.is_prompt else LATE_S / 2

    def pace_s(self) -> float:
        return max(self.longest_s, self.silent_s())

    def probe(self) -> None:
        self.probes += 1


class Party:
    """A worker's turns, its lane, and how long it has held back."""

    def __init__(self, board: Board | None, load: int = 0) -> None:
        self.waited: list[float] = []
        self.during_wait: Callable[[], object] = lambda: None
        self.turns = Turns(board, wait=self._wait)
        self.lane = FakeLane(load)
        self.turns.claim()
        self.turns.begin([self.lane])

    def _wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.during_wait()

    def take(self, at: Door) -> bool:
        """Whether it takes a connection that waits there."""
        try:
            fd, _ = self.turns.accept_from(at.listener)()
        except BlockingIOError:
            return False
        os.close(fd)
        return True


class Door:
    """A listener, and connections that wait to be accepted."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.opened: list[socket.socket] = []

    def arrive(self, count: int) -> None:
        for _ in range(count):
            self.opened.append(socket.create_connection(self.listener.getsockname()))


@pytest.fixture
def at() -> Iterator[Door]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.setblocking(False)
        made = Door(listener)
        yield made
        for each in made.opened:
            each.close()


def test_the_least_loaded_takes_at_once(at: Door) -> None:
    board = Board()
    few, _many = Party(board, 3), Party(board, 5)
    at.arrive(1)
    assert few.take(at)
    assert few.waited == []


def test_who_has_more_holds_back_and_then_takes_what_is_left(at: Door) -> None:
    board = Board()
    _few, many = Party(board, 3), Party(board, 4)
    assert not many.take(at), "nothing is there"
    at.arrive(1)
    assert many.take(at)
    assert many.waited == [HOLD_S, HOLD_S]


def test_a_burst_is_taken_in_shares(at: Door) -> None:
    board = Board()
    one, other = Party(board), Party(board)
    accept = one.turns.accept_from(at.listener)
    at.arrive(SHARE_COUNT + 1)
    for _ in range(SHARE_COUNT):
        os.close(accept()[0])
    with pytest.raises(BlockingIOError):
        accept()
    one.lane.connections = SHARE_COUNT  # handed over
    assert other.take(at)
    assert (one.waited, other.waited) == ([], [])


def test_who_has_ended_is_not_waited_for(at: Door) -> None:
    board = Board()
    ended, left = Party(board, 0), Party(board, 9)
    ended.turns.end()
    ended.turns.publish()  # its loop goes on while it drains
    at.arrive(1)
    assert left.take(at)
    assert left.waited == []


def test_closed_connections_bring_the_turn_back(at: Door) -> None:
    board = Board()
    _one, other = Party(board, 1), Party(board, 2)
    other.lane.connections = 0
    at.arrive(1)
    assert other.take(at)
    assert other.waited == []


def test_the_slots_of_dead_workers_are_given_out_again() -> None:
    board = Board()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for _ in range(2000):
        slot = board.join()
        assert slot is not None
        board._pids[slot] = dead.pid


def test_without_a_slot_nobody_takes_turns(at: Door) -> None:
    board = Board()
    while board.join() is not None:
        pass
    late = Party(board, 7)
    assert not late.turns.are_taken
    at.arrive(1)
    assert late.take(at)
    assert late.waited == []
    assert not Party(None).turns.are_taken


def test_who_is_blocked_leaves_connections_to_the_others_while_they_take_them(at: Door) -> None:
    board = Board()
    blocked, other = Party(board, 0), Party(board, 5)
    blocked.lane.is_blocked = True
    at.arrive(2)
    taken: list[bool] = []
    blocked.during_wait = lambda: taken.extend(other.take(at) for _ in range(3))
    assert not blocked.take(at)
    assert taken == [True, True, False]
    assert other.waited == [], "nobody waits for a worker that is blocked"


def test_who_is_blocked_takes_what_the_others_leave(at: Door) -> None:
    board = Board()
    blocked, _hangs = Party(board, 0), Party(board, 5)
    blocked.lane.is_blocked = True
    at.arrive(1)
    assert blocked.take(at)
    assert blocked.waited == [LATE_HOLD_S]


def test_when_all_are_blocked_they_take_turns_as_ever(at: Door) -> None:
    board = Board()
    parties = [Party(board, load) for load in (0, 5)]
    for party in (*parties, parties[0]):
        party.lane.is_blocked = True
        party.turns.publish()
    at.arrive(2)
    for party in parties:
        assert party.take(at)
    assert [party.waited for party in parties] == [[], [HOLD_S]]


def test_in_a_burst_nobody_is_late_beside_who_was_as_slow_just_now(at: Door) -> None:
    board = Board()
    busy, answers = Party(board, 0), Party(board, 5)
    busy.lane.is_blocked = True
    answers.lane.longest_s = 0.3  # it answers now, and took so long for it
    answers.turns.publish()
    at.arrive(1)
    assert busy.take(at)
    assert busy.waited == []


def test_what_is_passed_on_goes_to_a_worker_that_answers_now() -> None:
    board = Board()
    giver, blocked, good = Party(board), Party(board), Party(board, 3)
    giver.lane.is_blocked = blocked.lane.is_blocked = True
    with passed_on() as (accepted, peer):
        seat(giver).ask()
        assert seat(blocked).take() == []
        assert blocked.waited == [HOLD_S], "its pollers have connections to accept"
        assert seat(giver).pace_s() == math.inf
        assert seat(good).take() == []
        assert good.lane.probes == 1
        assert seat(giver).pace_s() == 0.0
        assert seat(giver).give([accepted._replace(ticket=7)]) == 1
        assert seat(blocked).take() == []
        (taken,) = seat(good).take()
        assert taken == Accepted(taken.fd, 2, ("127.0.0.1", 9), b"GET"), "but for the ticket"
        os.close(taken.fd)
        assert peer.recv(1) == b"", "nobody else has it"
        assert seat(good).take() == []


def test_what_is_passed_on_is_taken_by_who_is_slow_if_nobody_is_prompt() -> None:
    """Or it would wait for ever where all loops are blocked most of the time."""
    board = Board()
    giver, slow = Party(board), Party(board)
    slow.lane.is_prompt = False
    with passed_on() as (accepted, _):
        seat(giver).ask()
        seat(giver).give([accepted])
        (taken,) = seat(slow).take()
        assert slow.waited[-1] == LATE_HOLD_S
        assert seat(giver).pace_s() == math.inf
        os.close(taken.fd)


def test_where_all_are_blocked_the_question_is_for_the_first_that_is_back() -> None:
    board = Board()
    giver, back = Party(board), Party(board)
    giver.lane.is_blocked = back.lane.is_blocked = True
    seat(giver).ask()
    assert [seat(party).take() for party in (giver, back)] == [[], []]
    back.lane.is_blocked = False
    assert seat(back).take() == []
    assert seat(giver).pace_s() == 0.0


def test_one_question_is_asked_at_a_time() -> None:
    board = Board()
    one, other = Party(board), Party(board)
    for party in (one, other, one):
        seat(party).ask()
    assert board.relay.take(10) == ([], True)
    assert board.relay.take(10) == ([], False)


def test_what_is_passed_on_outlives_who_passed_it_on() -> None:
    queue = RelayQueue()
    with passed_on() as (accepted, peer):
        pid = os.fork()
        if not pid:
            os._exit(1 - queue.give([accepted]))
        assert os.waitpid(pid, 0)[1] == 0
        os.close(accepted.fd)
        ((taken,), _) = queue.take(5)
        os.write(taken.fd, b"x")
        assert peer.recv(1) == b"x"
        os.close(taken.fd)
    queue.close()


def test_a_full_queue_leaves_the_rest_with_who_has_it() -> None:
    queue = RelayQueue()
    queue._queue._back.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with passed_on() as (accepted, peer):
        batch = [accepted._replace(fd=os.dup(accepted.fd)) for _ in range(500)]
        os.close(accepted.fd)
        given = queue.give(batch)
        assert 0 < given < 500
        for left in batch[given:]:
            os.close(left.fd)
        queue.close()
        assert peer.recv(1) == b"", "what is in the queue is closed with it"


@contextmanager
def passed_on() -> Iterator[tuple[Accepted, socket.socket]]:
    """A connection that was accepted, and its peer."""
    ours, peer = socket.socketpair()
    with peer:
        yield Accepted(ours.detach(), 2, ("127.0.0.1", 9), b"GET"), peer


def seat(party: Party) -> Relay:
    relay = party.turns.relay
    assert relay is not None
    return relay
