"""LaneMonitor: the supervisor's thread that looks after ProcessLanes.

It lets go of descriptors that workers have claimed, takes connections back from workers that do not
move or have died, and gives them to other lanes.

Workers ring when they have claimed something, but only if the lane monitor sleeps: it sets
RING_WANTED before it goes to sleep and looks once more; the worker takes the flag down and rings. A
worker that takes the flag down always rings, so a flag that is set again in between costs one ring
too many at worst, never one too few.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from asgi_poller import platform
from asgi_poller.handoff.process_lane import ProcessLane
from asgi_poller.handoff.thread_lane import LATE_S, drop
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.connection_limits import ConnectionLimits
from asgi_poller.pollers.pool import PollerPool

logger = logging.getLogger("asgi_poller.error")

#: Seconds between looks while a worker may be late, and while there are connections without a lane.
_TROUBLE_S = LATE_S / 2
#: Seconds between looks at workers that owe nothing, as far as is known.
_TICK_S = 1.0
#: Seconds for which a worker does not answer before the log says so.
STALL_S = 2.0
#: Seconds of rest after a look that let connections go: many claims are then seen at once, and the
#: end of a connection that was closed at once is seen that much later.
_GATHER_S = 0.002
#: Seconds that a connection without a lane waits for one before it gets 503: as long as a worker's
#: replacement may take to start, and longer than most clients wait.
GIVE_UP_S = 60.0


class LaneMonitor:
    """Looks after lanes in a thread named `LaneMonitor`. Methods are for any thread.

    What they ask for is done on the lane monitor's thread, in order, soon after they return. `nice`
    is the thread's nice value (None or 0: leave it), best effort: the pollers', or they would wait
    for the GIL while the system runs somebody else in place of the lane monitor that has it.
    """

    def __init__(
        self,
        poller_pool: PollerPool,
        *,
        connection_limits: ConnectionLimits | None = None,
        nice: int | None = None,
        give_up_s: float = GIVE_UP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poller_pool = poller_pool
        self._nice = nice
        self._connection_limits = connection_limits
        self._give_up_s = give_up_s
        self._clock = clock
        self._lanes: list[ProcessLane] = []
        self._stalled: set[ProcessLane] = set()
        self._unassigned: list[Accepted] = []
        # Since when a lane is sought for a connection. The address is part of its name, because
        # descriptors are used again.
        self._troubled: dict[tuple[int, Any], float] = {}
        self._orders: deque[Callable[[], None]] = deque()
        self._wakeup = platform.Wakeup()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup.fd, selectors.EVENT_READ)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="LaneMonitor", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, lane: ProcessLane) -> None:
        """The worker of `lane` is ready: look after it, and let the poller pool give it its
        share.
        """
        self._order(lambda: self._add(lane))

    def retire(self, lane: ProcessLane) -> None:
        """The worker of `lane` is to drain: nothing more for it, and what it has not received goes
        elsewhere.
        """
        self._poller_pool.remove_lane(lane)
        self._order(lambda: self._retire(lane))

    def worker_died(self, lane: ProcessLane) -> None:
        """The worker of `lane` is dead, and was waited for: what it never claimed goes elsewhere.

        The lane ends with it.
        """
        self._poller_pool.remove_lane(lane)
        self._order(lambda: self._worker_died(lane))

    def end_search(self) -> None:
        """No further worker will be ready: what no lane takes now gets 503."""
        self._order(self._end_search)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread; connections without a lane are closed. Lanes stay their owner's.

        Idempotent. False if the thread has not ended after `timeout_s` seconds.
        """
        self._stopping = True
        self._wakeup.set()
        if self._thread.ident is None:
            self._finish()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def unassigned(self) -> int:
        """Connections that wait for a lane here."""
        return len(self._unassigned)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._wakeup.set()

    def _run(self) -> None:
        platform.begin_service_thread()
        if self._nice:
            platform.set_thread_nice(self._nice)
        try:
            while not self._stopping:
                try:
                    self._round()
                except Exception:
                    logger.exception("the lane monitor goes on after an error")
                    self._wakeup.wait(_TROUBLE_S)
        finally:
            self._finish()

    def _round(self) -> None:
        events = self._selector.select(self._timeout())
        rang = {key.fileobj for key, _ in events}
        self._wakeup.clear()
        while self._orders:
            self._orders.popleft()()
        let_go = False
        for lane in self._lanes:
            waited = lane.waiting
            self._settle(lane, has_message=lane.channel in rang)
            let_go = let_go or lane.waiting < waited
        self._unassigned += self._poller_pool.relieve()
        self._find_homes()
        if let_go and events:
            time.sleep(_GATHER_S)

    def _timeout(self) -> float | None:
        """Seconds to sleep: until something may be wrong, or for ever."""
        if not self._lanes and not self._unassigned:
            return None
        timeout_s = _TROUBLE_S if self._unassigned else _TICK_S
        for lane in self._lanes:
            if not lane.want_ring():
                return 0.0  # it has claimed something meanwhile
            if lane.waiting:
                timeout_s = _TROUBLE_S
        return timeout_s

    def _settle(self, lane: ProcessLane, *, has_message: bool) -> None:
        self._take_in(lane, lane.look(has_message=has_message))
        self._note(lane)

    def _note(self, lane: ProcessLane) -> None:
        """Say that a worker has not answered for long, and that it does again."""
        if not lane.is_late():
            if lane in self._stalled:
                self._stalled.discard(lane)
                logger.warning("%s adopts connections again", lane.name)
        elif lane not in self._stalled and lane.silent_s() >= STALL_S:
            self._stalled.add(lane)
            logger.warning(
                "%s does not adopt connections (%d wait): others get them meanwhile",
                lane.name,
                lane.waiting,
            )

    def _add(self, lane: ProcessLane) -> None:
        self._lanes.append(lane)
        self._selector.register(lane.channel, selectors.EVENT_READ)
        self._poller_pool.add_lane(lane)

    def _retire(self, lane: ProcessLane) -> None:
        self._take_in(lane, lane.retire())

    def _worker_died(self, lane: ProcessLane) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
            self._stalled.discard(lane)
            # before the lane closes it: a copy in another process would keep it registered
            self._selector.unregister(lane.channel)
        left = lane.reclaim()
        if self._connection_limits is not None and lane.mark:
            # In this order: what the dead worker had marked and never claimed is still let in.
            for accepted in left:
                if accepted.ticket >= 0:
                    self._connection_limits.table.take_back(accepted.ticket)
            self._connection_limits.worker_died(lane.mark)
            lane.mark = 0
        self._take_in(lane, left)

    def _end_search(self) -> None:
        self._give_up_s = 0.0

    def _take_in(self, lane: ProcessLane, batch: list[Accepted]) -> None:
        """Connections that `lane` will not adopt need another lane."""
        if batch:
            self._poller_pool.give_back(lane, len(batch))
            self._unassigned += batch

    def _find_homes(self) -> None:
        """Try the lanes for connections that have none; 503 for those that waited too long."""
        if not self._unassigned:
            return
        # They hold their descriptors already: while they look for a lane, a budget that counts them
        # must not count them twice, or those that are many would never find one.
        batch, self._unassigned = self._unassigned, []
        now = self._clock()
        self._forget_old_trouble(now)
        patient: list[Accepted] = []
        for accepted in self._poller_pool.hand_over(batch):
            # the same connection may come back several times, from workers without descriptors
            name = accepted.fd, accepted.peer
            if now - self._troubled.setdefault(name, now) < self._give_up_s:
                patient.append(accepted)
            else:
                del self._troubled[name]
                self._poller_pool.refuse(accepted)
        self._unassigned = patient

    def _forget_old_trouble(self, now: float) -> None:
        """What is on record for long has found its lane, or is closed."""
        old = now - 2 * self._give_up_s
        for name in [name for name, since in self._troubled.items() if since < old]:
            del self._troubled[name]

    def _finish(self) -> None:
        for accepted in self._unassigned:
            drop(accepted, self._poller_pool.end_ticket)
        self._unassigned.clear()
        self._selector.close()
        self._wakeup.close()
