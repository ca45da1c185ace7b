"""Whose turn it is to accept: connections spread evenly over gunicorn's workers.

All workers accept from the same listeners. Left to the kernel, whoever wakes first takes a
connection, and with long-lived ones that adds up: one of two workers may hold them all. So every
worker tells the others how many connections it has, in memory that the arbiter made before it
forked, and one that has more than the least holds back for a moment. What is still there then it
takes: a worker that hangs or has died delays the others, it never stops them.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from asgi_poller.pollers.accepting import AcceptCall, accept_call

#: Seconds that a worker with more connections than another holds back.
HOLD_S = 0.002
#: Connections that a worker takes before it looks again whether it is still its turn. In a burst
#: workers differ by about so many, in a calm by one or two.
SHARE_COUNT = 32

_SLOTS = 512
_FREE, _TAKEN = 0, -1  # in place of a process id
_NOT_SERVING = sys.maxsize
_CELL_OCTETS = 8


class Loaded(Protocol):
    """The part of a lane that a turn needs."""

    def load(self) -> int:
        """Connections that it has now. Any thread."""


class Board:
    """The loads of all workers, in shared memory. Made in the arbiter; slots are given out there
    and written by the worker that has one.
    """

    __slots__ = ("_loads", "_memory", "_pids", "_used")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (2 * _SLOTS + 1) * _CELL_OCTETS)
        cells = memoryview(self._memory).cast("q")
        self._pids, self._loads = cells[:_SLOTS], cells[_SLOTS : 2 * _SLOTS]
        self._used = cells[2 * _SLOTS :]  # one cell: slots up to here have been given out

    def join(self) -> int | None:
        """A slot for a worker that is about to be forked; None if all are taken."""
        for slot, pid in enumerate(self._pids):
            if pid == _FREE or (pid > 0 and not _is_alive(pid)):
                self._loads[slot] = _NOT_SERVING
                self._pids[slot] = _TAKEN
                self._used[0] = max(self._used[0], slot + 1)
                return slot
        return None

    def claim(self, slot: int) -> None:
        """In the worker: the slot is free again when this process has ended."""
        self._pids[slot] = os.getpid()

    def publish(self, slot: int, load: int | None) -> None:
        """Tell the others; None: no connections are accepted (any more)."""
        self._loads[slot] = _NOT_SERVING if load is None else load

    def least(self) -> int:
        """The least load of any worker that accepts."""
        return min(self._loads[: self._used[0]])


class Turns:
    """One worker's part in it: made in the arbiter, before the fork. `accept_from` and what it
    returns are for any thread.

    `board` is None where workers share no listener.
    """

    def __init__(
        self, board: Board | None, *, wait: Callable[[float], object] = time.sleep
    ) -> None:
        self._board = board
        self._slot = None if board is None else board.join()
        self._wait = wait
        self._lanes: Sequence[Loaded] = ()

    @property
    def are_taken(self) -> bool:
        """Whether other workers are asked at all."""
        return self._slot is not None

    def claim(self) -> None:
        """In the worker, first of all."""
        if self._board is not None and self._slot is not None:
            self._board.claim(self._slot)

    def begin(self, lanes: Sequence[Loaded]) -> None:
        """The worker accepts: `lanes` know how many connections it has."""
        self._lanes = lanes
        self.publish()

    def publish(self) -> None:
        """Tell the others how many connections there are now."""
        if self._board is not None and self._slot is not None:
            self._board.publish(self._slot, self._load())

    def end(self) -> None:
        """The pollers have ended: the others need not wait for this worker."""
        if self._board is not None and self._slot is not None:
            self._board.publish(self._slot, None)

    def accept_from(self, listener: socket.socket) -> AcceptCall:
        """An accept call that holds back when it is another worker's turn, and then says that there
        is nothing to accept (BlockingIOError): the poller comes again.
        """
        accept = accept_call(listener)
        board = self._board
        if board is None or self._slot is None:
            return accept
        slot = self._slot
        taken = 0  # since the poller last handed over

        def in_turn() -> tuple[int, Any]:
            nonlocal taken
            if taken % SHARE_COUNT == 0:
                load = self._load() + taken
                board.publish(slot, load)
                if load > board.least():
                    if taken:
                        taken = 0
                        raise BlockingIOError
                    self._wait(HOLD_S)
            try:
                connection = accept()
            except OSError:
                taken = 0
                raise
            taken += 1
            return connection

        return in_turn

    def _load(self) -> int:
        return sum(lane.load() for lane in self._lanes)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it runs as somebody else
    return True
