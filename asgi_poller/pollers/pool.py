"""The poller pool: listeners, the pollers that accept from them, and the lanes they feed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from asgi_poller import platform
from asgi_poller.errors import OperatorFault
from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.handoff.relay import Relay
from asgi_poller.handoff.thread_lane import LATE_S, PROMPT_S, EndTicket, Lane, drop, late_after_s
from asgi_poller.listeners.listeners import Listener
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.metrics.histogram import value_of
from asgi_poller.metrics.refusals import Refusals
from asgi_poller.metrics.snapshot import PollerSnapshot
from asgi_poller.pollers.balance import Balance, Balancer
from asgi_poller.pollers.epoll_waiter import Waiter
from asgi_poller.pollers.fd_exhaustion import Episodes, Refuser, answer_and_close
from asgi_poller.pollers.head_reader import HeadReader, HeadReaderSettings
from asgi_poller.pollers.late_loops import LateLoops
from asgi_poller.pollers.master_poller import ListeningSocket, MasterPoller, PollerSettings
from asgi_poller.pollers.rate_limit import Admit, HeldBack
from asgi_poller.pollers.rejector import Rejector

#: Seconds that a poller rests at most to gather connections, however many pollers there are.
REST_LIMIT_S = 0.005


@dataclass(frozen=True, slots=True)
class PollerPoolStats:
    """Counts since the start, all pollers together, in connections unless said otherwise.

    `aborted` ended before they were accepted, `refused` got 503 because there was no descriptor,
    `shortages` and `failed` are accept() calls that failed, `dropped` were closed at the stop
    because no lane took them. `waiting` is now in the pollers' queues. `loads` has each lane's
    load, `pending_heads` is how many head readers wait for; `nice` has each poller thread's real
    nice value (None: left alone, or unknown).
    """

    accepted: int
    aborted: int
    refused: int
    shortages: int
    failed: int
    dropped: int
    waiting: int
    loads: tuple[int, ...]
    nice: tuple[int | None, ...]
    pending_heads: int = 0


class PollerPool:
    """Accepts from `listeners` with `pollers` threads and hands each connection to a lane.
    `refusals` counts those that it turns away.

    It owns its threads and the descriptors they need, nothing else: listeners and lanes are closed
    by their makers. `admit` decides on each connection, and `end_ticket` is called when one that
    has a ticket is closed before a loop has it. The threads are daemons and named `MasterPoller-0`
    and so on. All methods are for any thread. `listeners` must be in the order of the ListenerInfo
    that loops were given.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        lanes: Sequence[Lane] = (),
        *,
        pollers: int = 2,
        balance: Balance = "least-connections",
        settings: PollerSettings | None = None,
        admit: Admit | None = None,
        held_back: HeldBack | None = None,
        end_ticket: EndTicket | None = None,
        head_reader: HeadReaderSettings | None = None,
    ) -> None:
        self._sockets = [
            ListeningSocket(listener.socket, index, listener.info.tls)
            for index, listener in enumerate(listeners)
        ]
        self._count = pollers
        self._settings = settings or PollerSettings()
        self._admit = admit
        self._held_back = held_back
        self.end_ticket = end_ticket
        self._infos = tuple(listener.info for listener in listeners)
        self._head_reader = head_reader
        self._balancer = Balancer(tuple(lanes), balance)
        self._exception_log = ExceptionLog()  # two threads at once: a line too many does no harm
        self._episodes = Episodes()
        self._refuser: Refuser | None = None
        self.refusals = Refusals()
        self._wakeup: platform.Wakeup | None = None
        self._pollers: list[MasterPoller] = []
        self._asked_at = 0.0  # when all loops were last asked for a sign of life
        self._lock = threading.Lock()
        self._stopped = False

    def start(self) -> None:
        """Start accepting. Once only. Raises OperatorFault if the system denies what it takes."""
        with self._lock:
            if self._wakeup is not None or self._stopped:
                raise RuntimeError("a poller pool starts once")
            try:
                self._wakeup = platform.Wakeup()
                self._refuser = Refuser()
                for number in range(self._count):
                    poller = MasterPoller(
                        number,
                        self._sockets,
                        self.hand_over,
                        infos=self._infos,
                        stop=self._wakeup,
                        episodes=self._episodes,
                        refuser=self._refuser,
                        refusals=self.refusals,
                        admit=self._admit,
                        held_back=self._held_back,
                        end_ticket=self.end_ticket,
                        make_head_reader=self._make_head_reader if self._head_reader else None,
                        late_loops=LateLoops(self),
                        settings=self._settings,
                        rest_s=min(self._settings.gather_s * self._count, REST_LIMIT_S),
                    )
                    self._pollers.append(poller)
                    poller.start()
            except (OSError, RuntimeError) as error:
                problem = OperatorFault(f"--pollers {self._count}: cannot start them: {error}")
                problem.__cause__ = error
            else:
                return
        self.stop(timeout_s=1.0)
        raise problem

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Stop accepting at once; wait up to `timeout_s` seconds for the pollers to end.

        What waits in their queues is handed over or closed. Idempotent. False if a poller has not
        ended in time (it will, as soon as the lane or admission it is in returns).
        """
        with self._lock:
            self._stopped = True
            wakeup = self._wakeup
        if wakeup is None:
            return True
        wakeup.set()
        deadline = time.monotonic() + timeout_s
        ended = [poller.join(max(0.0, deadline - time.monotonic())) for poller in self._pollers]
        self._episodes.settle(ended=True)
        if not all(ended):
            return False
        wakeup.close()
        if self._refuser is not None:
            self._refuser.close()
        return True

    def add_lane(self, lane: Lane) -> None:
        """Let `lane` have its share from now on."""
        self._balancer.add(lane)

    def remove_lane(self, lane: Lane) -> None:
        """Give `lane` nothing more. A put() that is under way may still come."""
        self._balancer.remove(lane)

    def _make_head_reader(self, waiter: Waiter, rejector: Rejector) -> HeadReader:
        assert self._head_reader is not None
        return HeadReader(
            self._head_reader, self._infos, waiter, rejector, end_ticket=self.end_ticket
        )

    def hand_over(self, batch: list[Accepted]) -> list[Accepted]:
        """Give connections to the lanes, least loaded first; returns what none of them took.

        Never waits. The caller owns what is returned.
        """
        refused: list[Lane] = []
        while batch:
            shares = self._balancer.reserve(len(batch), refused)
            if not shares:
                break
            left: list[Accepted] = []
            start = 0
            for lane, share in shares:
                part = batch[start : start + share]
                start += share
                taken = self._put(lane, part)
                if taken < share:
                    self._balancer.give_back(lane, share - taken)
                    refused.append(lane)
                    left += part[taken:]
            batch = left
        return batch

    def _put(self, lane: Lane, part: list[Accepted]) -> int:
        """As `Lane.put`, but it does not raise: the connection that makes the lane do so is closed,
        and the others have their turn.
        """
        try:
            return lane.put(part)
        except Exception:
            if len(part) == 1:
                self._exception_log.exception(
                    "A connection could not be handed over and is closed."
                )
                self._balancer.give_back(lane, 1)
                drop(part[0], self.end_ticket)
                return 1
        for taken, accepted in enumerate(part):
            if not self._put(lane, [accepted]):
                return taken
        return len(part)

    def give_back(self, lane: Lane, count: int) -> None:
        """`lane` took `count` connections but will not adopt them: they are not its load."""
        self._balancer.give_back(lane, count)

    @property
    def is_owed(self) -> bool:
        """Whether a loop has yet to take what it was given, where another one might take it."""
        lanes = self._balancer.lanes
        if len(lanes) < 2 and self._settings.relay is None:
            return False
        return any(lane.waiting for lane in lanes)

    def relieve(self) -> list[Accepted]:
        """Take back what waits for loops that are late, if another one is not.

        The caller owns it and hands it over again. Never waits: the first call asks all loops for a
        sign of life, since one that owes nothing may be blocked as well, and a call PROMPT_S later
        sees which have answered. So nothing moves where all are blocked, or busy with a burst:
        then those that answer have lately taken as long as the late ones.
        """
        lanes = self._balancer.lanes
        late = [lane for lane in lanes if lane.is_late()]
        if not late:
            return []
        relay = self._settings.relay
        now = time.monotonic()
        asked_s = now - self._asked_at
        if not PROMPT_S <= asked_s < LATE_S:
            if asked_s >= LATE_S:
                self._asked_at = now  # by several threads perhaps, and never beyond now
                for lane in lanes:
                    lane.probe()
                if relay is not None:
                    relay.ask()
            return []
        takers = [lane for lane in lanes if lane.available() and lane.silent_s() < PROMPT_S]
        if takers:
            quickest_s = min(lane.pace_s() for lane in takers)
        elif relay is not None:
            quickest_s = relay.pace_s()
        else:
            return []
        limit_s = late_after_s(quickest_s)
        taken: list[Accepted] = []
        for lane in late:
            if lane.waiting and lane.silent_s() >= limit_s:
                batch = lane.take_back()
                self._balancer.give_back(lane, len(batch))
                taken += batch
        if takers or relay is None:
            return taken
        return self._give_away(taken, relay)

    def _give_away(self, batch: list[Accepted], relay: Relay) -> list[Accepted]:
        """No loop of this process answers: another process is to have `batch`. Returns the rest."""
        given = relay.give(batch)
        if self.end_ticket is not None:
            for accepted in batch[:given]:
                if accepted.ticket >= 0:
                    self.end_ticket(accepted.ticket)
        return batch[given:]

    def refuse(self, accepted: Accepted) -> None:
        """Answer 503 (a TLS peer: nothing) and close: no lane took it for too long."""
        if accepted.ticket >= 0 and self.end_ticket is not None:
            self.end_ticket(accepted.ticket)
        self.refusals.count("no_lane")
        answer_and_close(accepted.fd, tls=self._sockets[accepted.listener].tls)

    def stats(self) -> PollerPoolStats:
        """What has happened so far; a snapshot that is not atomic."""
        counts = [poller.counts for poller in self._pollers]
        return PollerPoolStats(
            accepted=sum(count.accepted for count in counts),
            aborted=sum(count.aborted for count in counts),
            refused=sum(count.refused for count in counts),
            shortages=sum(count.shortages for count in counts),
            failed=sum(count.failed for count in counts),
            dropped=sum(count.dropped for count in counts),
            waiting=sum(poller.waiting for poller in self._pollers),
            loads=tuple(lane.load() for lane in self._balancer.lanes),
            nice=tuple(poller.nice for poller in self._pollers),
            pending_heads=sum(len(poller.head_reader or ()) for poller in self._pollers),
        )

    def snapshots(self) -> tuple[PollerSnapshot, ...]:
        """What each poller has counted. Not atomic."""
        return tuple(
            PollerSnapshot(
                name=poller.name,
                accepted=poller.counts.accepted,
                aborted=poller.counts.aborted,
                failed=poller.counts.failed,
                shortages=poller.counts.shortages,
                dropped=poller.counts.dropped,
                waiting=poller.waiting,
                batches=tuple(poller.counts.batches),
                hand_over=value_of(poller.counts.hand_over),
            )
            for poller in self._pollers
        )
