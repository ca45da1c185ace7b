"""MasterPoller: a thread that accepts connections and hands them to lanes, and does nothing else.

A round: sleep until a listener is readable, accept until there is nothing left (or the round's
share is used up), hand over. What no lane takes waits in the poller's own bounded queue while
accepting goes on; when that is full the poller stops accepting, and the kernel's queue holds the
rest. Nothing that happens to one connection, lane or accept() ends the thread.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asgi_poller import platform
from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.handoff.relay import Relay
from asgi_poller.handoff.thread_lane import EndTicket, drop
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.metrics.histogram import Histogram
from asgi_poller.metrics.refusals import Refusals
from asgi_poller.pollers.accept4 import (
    ACCEPT_ABORTED,
    ACCEPT_NO_DESCRIPTOR,
    ACCEPT_NO_MEMORY,
    NOT_A_LISTENER,
    AcceptCall,
    accept_call,
)
from asgi_poller.pollers.epoll_waiter import Waiter, make_waiter, sooner
from asgi_poller.pollers.fd_exhaustion import PATIENT_REST_S, Episodes, Patience, Refuser
from asgi_poller.pollers.head_reader import HeadReader
from asgi_poller.pollers.late_loops import LateLoops
from asgi_poller.pollers.overflow import OverflowQueue, SocketSpill
from asgi_poller.pollers.rate_limit import Admit, HeldBack
from asgi_poller.pollers.rejector import Rejected, Rejector

logger = logging.getLogger("asgi_poller.error")

MakeHeadReader = Callable[[Waiter, Rejector], HeadReader]
"""Makes what reads request heads on one poller's waiter (`--direct-handshake`)."""

#: Connections that a poller accepts in one go. While it does, it holds the GIL for about 3 µs each:
#: this bounds what a burst costs the connections that a loop already has, to 1.5 ms.
BATCH_COUNT = 512
_LARGEST = (BATCH_COUNT - 1).bit_length()  # of the sizes by which batches are counted
#: Connections that one poller may hold because no lane takes them.
QUEUE_COUNT = 1024

#: Seconds between rounds, all pollers together, once they follow each other closely: a wake-up
#: costs more than a connection, so from about 1,000 connections a second several share one. The
#: delay is what a connection pays for it at most.
GATHER_S = 0.0005

#: Seconds of rest where accept() fails for a reason that only time mends.
_REST_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerSettings:
    """Settings of every poller of a poller pool.

    `nice` is the nice value of the threads (None or 0: leave it), best effort. `batch_count` bounds
    one round on one listener, `queue_count` what waits because no lane takes it; both in
    connections. `gather_s` is how long, in seconds, connections are gathered under load; 0 takes
    each at once. `spills`: what no lane takes is kept without descriptors here, where the system
    can do that. `wakes_one`: a connection wakes one poller and not all, where the system can do
    that; not for pollers that take turns with those of other processes. `make_accept` gives the
    call that takes connections from a listener: a seam for such turns and for injected faults.
    `relay` leads to other processes with the same listeners, for what no loop of this one takes.
    `is_timed`: somebody wants to know how long hand-over takes, and the loops when they accepted.
    """

    nice: int | None = None
    batch_count: int = BATCH_COUNT
    queue_count: int = QUEUE_COUNT
    spills: bool = False
    gather_s: float = GATHER_S
    wakes_one: bool = True
    make_accept: Callable[[socket.socket], AcceptCall] = accept_call
    relay: Relay | None = None
    is_timed: bool = False


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A listening socket as pollers see it: `listener` is its place among the listeners."""

    socket: socket.socket
    listener: int
    tls: bool


@dataclass(slots=True)
class PollerCounts:
    """What one poller has done since it started. Written by its thread, read from anywhere."""

    accepted: int = 0
    aborted: int = 0  # gone before they were accepted
    refused: int = 0  # answered 503 because there was no descriptor
    shortages: int = 0  # accept() calls that failed because there was no descriptor or memory
    failed: int = 0  # accept() calls that failed for another reason
    dropped: int = 0  # closed because the poller pool stopped before a lane took them
    #: Rounds that accepted something, by size: up to 1, 2, 4, ... BATCH_COUNT, or more.
    batches: list[int] = field(default_factory=lambda: [0] * (_LARGEST + 1))
    hand_over: Histogram = field(default_factory=Histogram)  # from accept(); if that is timed


class MasterPoller:
    """One accept thread. `start()` and `join()` are for the poller pool; the rest is the thread's
    own.

    `hand_over` gives a batch to the lanes and returns what none of them took. `rest_s` is this
    poller's own part in gathering: seconds between its rounds under load.
    """

    def __init__(
        self,
        number: int,
        sockets: Sequence[ListeningSocket],
        hand_over: Callable[[list[Accepted]], list[Accepted]],
        *,
        infos: Sequence[ListenerInfo],
        stop: platform.Wakeup,
        episodes: Episodes,
        refuser: Refuser,
        refusals: Refusals,
        admit: Admit | None = None,
        held_back: HeldBack | None = None,
        end_ticket: EndTicket | None = None,
        make_head_reader: MakeHeadReader | None = None,
        late_loops: LateLoops,
        settings: PollerSettings | None = None,
        rest_s: float = 0.0,
    ) -> None:
        self.counts = PollerCounts()
        self.nice: int | None = None  # what the thread really has, once it runs
        self._stop = stop
        self._episodes = episodes
        self._admit = admit
        self._held_back = held_back
        self._end_ticket = end_ticket
        self._settings = settings or PollerSettings()
        self._patience = Patience()
        self._refuser = refuser
        self._waiter = make_waiter()
        self._waiter.watch(stop.fd, shared=False)
        self._refusals = refusals
        self._rejector = rejector = Rejector(infos, self._waiter, refusals=refusals)
        self.head_reader = None
        if make_head_reader is not None:
            self.head_reader = make_head_reader(self._waiter, rejector)
        self._late_loops = late_loops
        self._relay = self._settings.relay
        if self._relay is not None:
            self._waiter.watch(self._relay.fd, shared=False)
        self._sockets: dict[int, tuple[ListeningSocket, AcceptCall]] = {}
        for listening in sockets:
            fd = listening.socket.fileno()
            self._sockets[fd] = (listening, self._settings.make_accept(listening.socket))
            self._waiter.watch(fd, shared=self._settings.wakes_one)
        self._give = hand_over
        self._hand_over = self._timed_hand_over if self._settings.is_timed else hand_over
        self._overflow = OverflowQueue(
            self._hand_over,
            room=self._settings.queue_count,
            spill=SocketSpill(end_ticket) if self._settings.spills else None,
        )
        self._rest_s = rest_s
        self._rested_at = 0.0
        self._logged: set[int | None] = set()
        self._exception_log = ExceptionLog()
        self._thread = threading.Thread(
            target=self._run, name=f"MasterPoller-{number}", daemon=True
        )

    @property
    def name(self) -> str:
        """Its thread's."""
        return self._thread.name

    @property
    def waiting(self) -> int:
        """Connections that this poller holds because no lane takes them."""
        return self._overflow.count

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False if it has not ended by then."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        platform.begin_service_thread()
        if self._settings.nice:
            self.nice = platform.set_thread_nice(self._settings.nice)
        try:
            while not self._stop.is_set():
                try:
                    self._round()
                except Exception:
                    # a lane or an admission that breaks its promise must not end accepting
                    logger.exception("%s goes on after an error", self._thread.name)
                    self._stop.wait(_REST_S)
            self._finish()
        finally:
            self._waiter.close()

    def _round(self) -> None:
        line = self._overflow
        timeout_s: float | None = None
        if line.count:
            line.retry()
            if line.is_full:
                self._stop.wait(line.retry_s)
                return
            if line.count:
                timeout_s = line.retry_s
        head_reader = self.head_reader
        emptied = True
        ready: list[Accepted] = []
        for fd in self._waiter.wait(sooner(timeout_s, self._next_s())):
            entry = self._sockets.get(fd)
            if entry is not None:
                emptied = self._accept_from(*entry) and emptied
            elif self._relay is not None and fd == self._relay.fd:
                self._take_over(self._relay)
            elif not self._rejector.on_readable(fd) and head_reader is not None:
                client = head_reader.on_readable(fd)
                if client is not None:
                    ready.append(client)
        if self._held_back is not None:
            self._receive(self._held_back.due())
        if head_reader is not None:
            if ready:
                self._deliver(ready)
            if head_reader:
                head_reader.tend()
        if self._rejector:
            self._rejector.tend()
        overdue = self._late_loops.look()
        if overdue:
            self._deliver(overdue)
        if self._episodes:
            self._episodes.settle()
        if emptied and self._rest_s:
            self._gather()

    def _next_s(self) -> float | None:
        """Seconds until something is due although nothing is readable; None: nothing is."""
        next_s = self._late_loops.next_s()
        if self._rejector:
            next_s = sooner(next_s, self._rejector.next_s())
        if self.head_reader:
            next_s = sooner(next_s, self.head_reader.next_s())
        if self._held_back is not None:
            next_s = sooner(next_s, self._held_back.next_s())
        return sooner(next_s, 1.0) if self._episodes else next_s

    def _take_over(self, relay: Relay) -> None:
        """What another process could not serve is served by this one, if it is our turn."""
        batch = relay.take()
        if batch and self._admit is not None:
            batch = self._admit_each(batch, self._admit)
        self._receive(batch)

    def _receive(self, batch: list[Accepted]) -> None:
        """Hand over, through the head reader if there is one."""
        if self.head_reader is not None:
            # another process's head reader may have read the head already
            read = [accepted for accepted in batch if accepted.data]
            batch = read + self.head_reader.take([each for each in batch if not each.data])
        if batch:
            self._deliver(batch)

    def _deliver(self, batch: list[Accepted]) -> None:
        """Give `batch` to the lanes, behind those that wait already."""
        if not self._overflow.count:
            batch = self._hand_over(batch)
        if batch:
            self._overflow.deliver(batch)

    def _timed_hand_over(self, batch: list[Accepted]) -> list[Accepted]:
        """As `hand_over`, and note how long those have waited that a lane took."""
        left = self._give(batch)
        now, histogram = time.monotonic(), self.counts.hand_over
        first_at = batch[0].accepted_at if batch else 0.0
        if not left and first_at and first_at == batch[-1].accepted_at:
            histogram.observe(now - first_at, len(batch))
            return left
        kept = {accepted.fd for accepted in left}
        for accepted in batch:
            if accepted.accepted_at and accepted.fd not in kept:
                histogram.observe(now - accepted.accepted_at)
        return left

    def _gather(self) -> None:
        """Let connections gather, if the last time was only just now."""
        now = time.monotonic()
        if now - self._rested_at < 2 * self._rest_s:
            time.sleep(self._rest_s)
            now += self._rest_s
        self._rested_at = now

    def _accept_from(self, listening: ListeningSocket, accept: AcceptCall) -> bool:
        """Accept until there is nothing left (True) or the round's share is used up; hand over."""
        batch: list[Accepted] = []
        listener = listening.listener
        failure: OSError | None = None
        try:
            for _ in range(self._settings.batch_count):
                fd, peer = accept()
                batch.append(Accepted(fd, listener, peer))
        except BlockingIOError:
            pass  # EAGAIN: the queue is empty, or another poller emptied it
        except OSError as error:
            failure = error
        except Exception:  # those before it are here, and theirs alone is its trouble
            self._exception_log.exception("A connection could not be accepted and is closed.")
        accepted = len(batch)
        if batch:
            self.counts.batches[min((accepted - 1).bit_length(), _LARGEST)] += 1
            if self._settings.is_timed:
                now = time.monotonic()
                batch = [each._replace(accepted_at=now) for each in batch]
        if batch and not self._refuser.is_whole:
            self._mend(batch, tls=listening.tls)
        if batch:
            self.counts.accepted += len(batch)
            if self._admit is not None:
                batch = self._admit_each(batch, self._admit)
            self._receive(batch)
        if failure is not None:  # last, because it may rest
            self._accept_failed(failure, listening, accept)
        return accepted < self._settings.batch_count

    def _mend(self, batch: list[Accepted], *, tls: bool) -> None:
        """The last of these may have been accepted with the reserve: then it is refused."""
        if self._refuser.mend(batch[-1].fd, tls=tls):
            batch.pop()
            self._note_refused(errno.EMFILE)

    def _admit_each(self, batch: list[Accepted], admit: Admit) -> list[Accepted]:
        admitted = []
        for accepted in batch:
            try:
                try:
                    answer = admit(accepted)
                except Rejected as rejected:
                    self._rejector.reject(accepted, rejected)
                    continue
            except Exception:
                self._exception_log.exception("Admission failed: the connection is closed.")
                drop(accepted, self._end_ticket)
                continue
            if answer is not None:
                admitted.append(answer)
        return admitted

    def _accept_failed(
        self, error: OSError, listening: ListeningSocket, accept: AcceptCall
    ) -> None:
        number = error.errno or 0
        if number in ACCEPT_ABORTED:
            self.counts.aborted += 1
        elif number in ACCEPT_NO_DESCRIPTOR:
            self._refuse(number, listening, accept)
        elif number in ACCEPT_NO_MEMORY:
            self.counts.shortages += 1
            self._episodes.note(number, refused=False)
            self._stop.wait(_REST_S)
        else:
            self.counts.failed += 1
            self._unexpected(error, listening)

    def _unexpected(self, error: OSError, listening: ListeningSocket) -> None:
        if self._stop.is_set():
            return  # the listener was closed before this thread had ended
        if error.errno in NOT_A_LISTENER:
            logger.error("%s has lost a listener: %s", self._thread.name, error)
            self._forget(listening)  # asking again would spin
            return
        if error.errno not in self._logged:
            self._logged.add(error.errno)
            logger.error("accept failed, trying again: %s (logged once)", error)
        self._stop.wait(_REST_S)

    def _forget(self, listening: ListeningSocket) -> None:
        for fd, entry in list(self._sockets.items()):
            if entry[0] is listening:
                del self._sockets[fd]
                self._waiter.forget(fd)

    def _refuse(self, number: int, listening: ListeningSocket, accept: AcceptCall) -> None:
        """No descriptor: turn one connection away if there will be none soon. The next round tries
        a normal accept first.
        """
        self.counts.shortages += 1
        if self._patience.lasts(self.counts.accepted):
            self._stop.wait(PATIENT_REST_S)
            return
        try:
            refused = self._refuser.refuse_one(accept, tls=listening.tls)
        except BlockingIOError:
            return  # the connection went to another poller, or went away
        if refused:
            self._note_refused(number)
        else:
            self._episodes.note(number, refused=False)
            self._stop.wait(_REST_S)

    def _note_refused(self, number: int) -> None:
        self.counts.refused += 1
        self._refusals.count("no_descriptor")
        self._episodes.note(number, refused=True)

    def _finish(self) -> None:
        """The poller pool stops: one last attempt, then what waits is closed."""
        held = [] if self.head_reader is None else self.head_reader.finish()
        self._rejector.close()
        self._deliver(held)
        for accepted in self._overflow.finish():
            self.counts.dropped += 1
            drop(accepted, self._end_ticket)
