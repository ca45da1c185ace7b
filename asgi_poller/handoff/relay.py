"""Relay: the way of connections from one process to another that shares its listeners.

A process whose loops are all blocked gives what they have not adopted to one that has a loop that
answers. The kernel holds it meanwhile, in the queue of a unix socket that all of them inherited, so
that it outlives each of them, and hands each connection to exactly one of those who ask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from asgi_poller.handoff.connection_table import TICKET_NONE
from asgi_poller.handoff.fd_passing import SocketQueue
from asgi_poller.loops.accepted_socket import Accepted

#: Octets asked for as the socket's buffer; a connection takes about 700, most of it the kernel's.
_QUEUE_BYTES = 16 * 1024 * 1024


class Relay(Protocol):
    """What a poller pool knows of the other processes. Any thread."""

    @property
    def fd(self) -> int:
        """Readable while there are connections to take."""

    def ask(self) -> None:
        """Ask the other processes for a loop that answers. Never waits."""

    def pace_s(self) -> float:
        """Seconds that the quickest of the others has lately taken to answer; infinite: none has
        answered just now.
        """

    def give(self, batch: list[Accepted]) -> int:
        """Give away connections from the front of `batch`; returns how many. Never waits.

        Their descriptors are closed here; the tickets stay the caller's.
        """

    def take(self) -> list[Accepted]:
        """Some of those that were given away, without tickets; none if it is not our turn. Answers
        who asks.
        """


class RelayQueue:
    """The queue. Made before the processes that share it; any thread of theirs may use it."""

    __slots__ = ("_lock", "_queue", "fd")

    def __init__(self) -> None:
        self._queue = SocketQueue(_QUEUE_BYTES)
        self.fd = self._queue.fd
        self._lock = threading.Lock()  # one thread at a time may `get`

    def give(self, batch: list[Accepted]) -> int:
        """As Relay.give. One connection a message: a taker short of descriptors loses no more."""
        for given, accepted in enumerate(batch):
            try:
                self._queue.put([accepted._replace(ticket=TICKET_NONE)])
            except OSError:  # full, whatever of it is: the rest stays with who has it
                return given
        return len(batch)

    def ask(self) -> None:
        """Put a question into the queue: a message without a connection."""
        try:
            self._queue.put([])
        except OSError:
            pass  # full: it will be asked again

    def take(self, count: int) -> tuple[list[Accepted], bool]:
        """Up to `count` of those that were given away first, and whether somebody asks."""
        taken: list[Accepted] = []
        is_asked = False
        with self._lock:
            while len(taken) < count:
                try:
                    batch, lost = self._queue.get()
                except BlockingIOError:
                    break
                if lost:
                    break
                is_asked = is_asked or not batch
                taken += batch
        return taken, is_asked

    @property
    def descriptors(self) -> list[Callable[[], int]]:
        """What a process must not have that takes no part in it; negative numbers once closed."""
        return self._queue.descriptors

    def close(self) -> None:
        """What is still in the queue is closed with its last holder's ends."""
        self._queue.close()
