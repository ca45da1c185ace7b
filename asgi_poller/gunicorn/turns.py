"""Whose turn it is to accept: connections spread evenly over gunicorn's workers.

All workers accept from the same listeners. Left to the kernel, the one that wakes first takes a
connection, and with long-lived ones that adds up: one of two workers may hold them all. So every
worker tells the others how many connections it has, in memory that the arbiter made before it
forked, and one that has more than the least holds back for a moment. What is still there then it
takes: a worker that hangs or has died delays the others, it never stops them.

A worker whose loops are all late beside another's leaves connections to the others as long as they
take them, and gives them what it had accepted and its loops had not adopted, through a queue that
the arbiter made (`relay`). It asks first whether a loop answers, in the same queue. What is late is
measured by the quickest worker: where no loop answers anywhere, or all are busy, all accept and
keep what they have; the first loop that answers again serves it.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from asgi_poller.handoff.relay import Relay, RelayQueue
from asgi_poller.handoff.shared_memory import CELL_BYTES, SharedMemory
from asgi_poller.handoff.thread_lane import LATE_S, PROMPT_S, REMEMBER_TIMES, late_after_s
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.platform import process_is_alive
from asgi_poller.pollers.accept4 import AcceptCall, accept_call

#: Seconds that a worker with more connections than another holds back.
HOLD_S = 0.002
#: Seconds that a worker whose loops are late leaves a connection to the others.
LATE_HOLD_S = LATE_S / 2
#: Connections that a worker takes before it looks again whether it still has the least load. In a
#: burst workers differ by about so many, in a calm by one or two.
SHARE_COUNT = 32

_SLOTS = 512
_FREE, _TAKEN = 0, -1  # in place of a process id
_NOT_SERVING = sys.maxsize
_QUESTION_NS = 1_000_000_000  # after so long it may have got lost with who took it


class Loaded(Protocol):
    """The part of a lane that a turn needs. Any thread."""

    def load(self) -> int:
        """Connections that it has now."""

    def silent_s(self) -> float:
        """Seconds for which its loop has been called and does not answer."""

    def pace_s(self) -> float:
        """Seconds that its loop has lately taken to answer, at the longest."""

    def probe(self) -> None:
        """Call its loop."""


class Board:
    """The loads of all workers, in shared memory, and the queue for what some cannot serve. Made in
    the arbiter; slots are given out there and written by the worker that has one.
    """

    __slots__ = (
        "_loads",
        "_paced_at",
        "_paces",
        "_pids",
        "_question",
        "_shared",
        "_taken",
        "_used",
        "relay",
    )

    def __init__(self) -> None:
        self._shared = SharedMemory((5 * _SLOTS + 3) * CELL_BYTES)
        cells = self._shared.cells
        self._pids, self._loads = cells[:_SLOTS], cells[_SLOTS : 2 * _SLOTS]
        self._taken = cells[2 * _SLOTS : 3 * _SLOTS]  # batches that it accepted
        self._paces = cells[3 * _SLOTS : 4 * _SLOTS]  # in ns
        self._paced_at = cells[4 * _SLOTS : 5 * _SLOTS]  # when that was written, in ns
        self._used = cells[5 * _SLOTS :][:1]  # slots up to here have been given out
        self._question = cells[5 * _SLOTS + 1 :]  # when one was asked and answered, in ns
        self.relay = RelayQueue()

    def join(self) -> int | None:
        """A slot for a worker that is about to be forked; None if all are taken."""
        for slot, pid in enumerate(self._pids):
            if pid == _FREE or (pid > 0 and not process_is_alive(pid)):
                self._loads[slot] = _NOT_SERVING
                self._pids[slot] = _TAKEN
                self._used[0] = max(self._used[0], slot + 1)
                return slot
        return None

    def claim(self, slot: int) -> None:
        """In the worker: the slot is free again when this process has ended."""
        self._pids[slot] = os.getpid()

    def publish(self, slot: int, load: int | None) -> None:
        """Tell the others; None: no connections are accepted (any more), or all loops are late."""
        self._loads[slot] = _NOT_SERVING if load is None else load

    def keep_pace(self, slot: int, pace_s: float) -> None:
        """Tell the others how long the worker's quickest loop has lately taken to answer."""
        self._paces[slot] = int(pace_s * 1e9)
        self._paced_at[slot] = time.monotonic_ns()

    def quickest_s(self, slot: int) -> float:
        """The least pace of the workers besides this one that serve; infinite: there is none."""
        now = time.monotonic_ns()
        quickest = math.inf
        for other in range(self._used[0]):
            if other != slot and self._loads[other] != _NOT_SERVING:
                pace = self._paces[other]
                is_old = now - self._paced_at[other] >= REMEMBER_TIMES * pace
                quickest = min(quickest, 0 if is_old else pace)
        return quickest / 1e9

    def least(self) -> int:
        """The least load of any worker that accepts and whose loops are not late."""
        return min(self._loads[: self._used[0]])

    def take(self, slot: int) -> None:
        """A batch of connections has been accepted."""
        self._taken[slot] += 1

    def ask(self) -> None:
        """Ask the workers whether a loop answers, unless that question is open."""
        asked, answered = self._question
        now = time.monotonic_ns()
        if answered >= asked or now - asked >= _QUESTION_NS:
            self._question[0] = now
            self.relay.ask()

    def answer(self) -> None:
        """One does."""
        self._question[1] = time.monotonic_ns()

    def is_answered(self) -> bool:
        """Whether one has answered just now."""
        asked, answered = self._question
        return answered >= asked and time.monotonic_ns() - answered < LATE_S * 1e9

    def batches(self) -> int:
        """How many batches all workers together have accepted so far."""
        return sum(self._taken[: self._used[0]])


class Turns:
    """One worker's part in it: made in the arbiter, before the fork. `accept_from` and what it
    returns are for any thread, `relay` is too.

    `board` is None where there are no others. Where each worker has listeners of its own
    (`shares_listeners` is false) nobody else can accept what one leaves: they take no turns, and
    pass on what they cannot serve all the same.
    """

    def __init__(
        self,
        board: Board | None,
        *,
        shares_listeners: bool = True,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        slot = None if board is None else board.join()
        self._seat = None if board is None or slot is None else _Seat(board, slot, wait)
        self._shares_listeners = shares_listeners

    @property
    def are_taken(self) -> bool:
        """Whether other workers are asked at all before one accepts."""
        return self._seat is not None and self._shares_listeners

    @property
    def relay(self) -> Relay | None:
        """The way to the other workers."""
        return self._seat

    @property
    def descriptors(self) -> list[Callable[[], int]]:
        """Those of the way to the other workers; they give a negative number once it is closed."""
        return [] if self._seat is None else self._seat.board.relay.descriptors

    def claim(self) -> None:
        """In the worker, first of all."""
        if self._seat is not None:
            self._seat.board.claim(self._seat.slot)

    def begin(self, lanes: Sequence[Loaded]) -> None:
        """The worker accepts: `lanes` know how many connections it has."""
        if self._seat is not None:
            self._seat.lanes = lanes
            self._seat.publish()

    def publish(self) -> None:
        """Tell the others how many connections there are now."""
        if self._seat is not None:
            self._seat.publish()

    def end(self) -> None:
        """The pollers have ended: the others need not wait for this worker."""
        if self._seat is not None:
            self._seat.lanes = ()
            self._seat.publish()

    def accept_from(self, listener: socket.socket) -> AcceptCall:
        """An accept call that holds back when it is another worker's turn, and then says that there
        is nothing to accept (BlockingIOError): the poller comes again.
        """
        accept = accept_call(listener)
        if self._seat is None or not self._shares_listeners:
            return accept
        return self._seat.in_turn(accept)


class _Seat:
    """A worker's place at the board, and what follows from it. Any thread."""

    def __init__(self, board: Board, slot: int, wait: Callable[[float], object]) -> None:
        self.board = board
        self.slot = slot
        self.lanes: Sequence[Loaded] = ()  # while the worker accepts
        self._wait = wait
        self.fd = board.relay.fd

    def publish(self, more: int = 0) -> int | None:
        """Tell the others how many connections there are, and `more`; None: all loops are late
        beside another worker's, or the worker does not accept.
        """
        load = None
        lanes = self.lanes
        if lanes:
            board = self.board
            board.keep_pace(self.slot, min(lane.pace_s() for lane in lanes))
            silent_s = min(lane.silent_s() for lane in lanes)
            if silent_s < LATE_S or silent_s < late_after_s(board.quickest_s(self.slot)):
                load = sum(lane.load() for lane in lanes) + more
        self.board.publish(self.slot, load)
        return load

    def in_turn(self, accept: AcceptCall) -> AcceptCall:
        """`accept`, where it is this worker's turn."""
        taken = 0  # since the poller last handed over

        def call() -> tuple[int, Any]:
            nonlocal taken
            if taken % SHARE_COUNT == 0:
                load = self.publish(taken)
                if self._has_better(load):
                    if taken:
                        self.board.take(self.slot)
                        taken = 0
                        raise BlockingIOError
                    self._hold_back(load)
            try:
                connection = accept()
            except OSError:
                if taken:
                    self.board.take(self.slot)
                taken = 0
                raise
            taken += 1
            return connection

        return call

    def _has_better(self, load: int | None) -> bool:
        """Whether another worker should take a connection rather than this one."""
        least = self.board.least()
        return least < (_NOT_SERVING if load is None else load)

    def _hold_back(self, load: int | None) -> None:
        """Give the others time to take what is there. BlockingIOError if they are at it."""
        if load is not None:
            self._wait(HOLD_S)
            return
        batches = self.board.batches()
        self._wait(LATE_HOLD_S)
        if self.board.batches() != batches:
            raise BlockingIOError

    # As a Relay

    def ask(self) -> None:
        self.publish()  # late: nobody waits for this worker
        self.board.ask()

    def pace_s(self) -> float:
        return self.board.quickest_s(self.slot) if self.board.is_answered() else math.inf

    def give(self, batch: list[Accepted]) -> int:
        return self.board.relay.give(batch)

    def take(self) -> list[Accepted]:
        """At once where a loop answers now, and not just lately: what is there has waited already.
        Where none does, the others go first; where all are late, also a question is for the first
        that is back.
        """
        if self._are_all_late():
            self._wait(HOLD_S)  # no longer: the poller has connections to accept meanwhile
            return []
        is_prompt = self._is_prompt()
        if not is_prompt:
            self._wait(LATE_HOLD_S)
            if self._are_all_late():
                return []
        batch, is_asked = self.board.relay.take(SHARE_COUNT)
        if is_asked and is_prompt:
            self.board.answer()
        return batch

    def _are_all_late(self) -> bool:
        return all(lane.silent_s() >= LATE_S for lane in self.lanes)

    def _is_prompt(self) -> bool:
        """Call the loops, and wait a moment for one to answer; the least loaded waits least."""
        for lane in self.lanes:
            lane.probe()
        load = self.publish()
        pause_s = HOLD_S if load is None or self._has_better(load) else HOLD_S / 2
        for _ in range(int(PROMPT_S / pause_s)):
            self._wait(pause_s)
            if any(lane.silent_s() < pause_s for lane in self.lanes):
                return True
        return False
