"""Which lane gets the next connections.

A lane's load is `assigned - closed`. `assigned` belongs to the pollers' side and is written here
alone, under one lock that is held for the arithmetic only: no system call, no lane's own work. So
two pollers never give the same vacancy away twice, and lanes that start level stay level to one
connection.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

from asgi_poller.handoff.thread_lane import Lane, late_after_s

Balance = Literal["least-connections", "round-robin"]


class Balancer:
    """Shares connections out over lanes. Any thread; lanes may come and go while it works."""

    __slots__ = ("_by_load", "_lanes", "_lock", "_turn")

    def __init__(self, lanes: tuple[Lane, ...] = (), balance: Balance = "least-connections"):
        self._lanes = lanes
        self._by_load = balance == "least-connections"
        self._lock = threading.Lock()
        self._turn = 0

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes that take part now."""
        return self._lanes

    def add(self, lane: Lane) -> None:
        """Let `lane` take part. Idempotent."""
        with self._lock:
            if not any(other is lane for other in self._lanes):
                self._lanes = (*self._lanes, lane)

    def remove(self, lane: Lane) -> None:
        """Give `lane` no more connections. Unknown lanes are ignored."""
        with self._lock:
            self._lanes = tuple(other for other in self._lanes if other is not lane)

    def reserve(self, count: int, without: Sequence[Lane] = ()) -> list[tuple[Lane, int]]:
        """Share `count` connections out: (lane, how many) pairs that add up to `count`.

        They count as assigned from now on; what a lane does not take must be given back. Lanes in
        `without` get none; lanes that are not `available()`, or are late, get some only if there is
        no other. Empty if there is no lane at all.
        """
        with self._lock:
            lanes: Sequence[Lane] = self._lanes
            if without:
                lanes = [lane for lane in lanes if lane not in without]
            if len(lanes) == 1:
                lanes[0].assigned += count
                return [(lanes[0], count)]
            lanes = _in_time([lane for lane in lanes if lane.available()]) or lanes
            if not lanes:
                return []
            if len(lanes) == 1:
                shares = [(lanes[0], count)]
            elif self._by_load:
                shares = self._level(lanes, count)
            else:
                shares = self._deal(lanes, count)
            for lane, share in shares:
                lane.assigned += share
        return shares

    def give_back(self, lane: Lane, count: int) -> None:
        """`lane` did not get `count` of the connections that were reserved for it."""
        with self._lock:
            lane.assigned -= count

    def _level(self, lanes: Sequence[Lane], count: int) -> list[tuple[Lane, int]]:
        """Pour `count` into the emptiest lanes, as water finds its level. Ties rotate."""
        size = len(lanes)
        turn = self._turn % size
        loads = [lane.load() for lane in lanes]
        order = sorted(range(size), key=lambda index: (loads[index], (index - turn) % size))
        total = count
        width = 0
        for width, index in enumerate(order, 1):
            total += loads[index]
            if width == size or total <= width * loads[order[width]]:
                break  # the level does not reach the next lane
        base, extra = divmod(total, width)
        self._turn = order[extra % width]
        shares = []
        for place, index in enumerate(order[:width]):
            share = base + (place < extra) - loads[index]
            if share:
                shares.append((lanes[index], share))
        return shares

    def _deal(self, lanes: Sequence[Lane], count: int) -> list[tuple[Lane, int]]:
        """Round robin, whatever the loads."""
        size = len(lanes)
        turn = self._turn % size
        base, extra = divmod(count, size)
        self._turn = turn + extra
        shares = []
        for place in range(size):
            share = base + (place < extra)
            if share:
                shares.append((lanes[(turn + place) % size], share))
        return shares


def _in_time(lanes: list[Lane]) -> list[Lane]:
    """Those of `lanes` that are not late, by the pace of the quickest of them."""
    if not any(lane.is_late() for lane in lanes):
        return lanes
    limit_s = late_after_s(min(lane.pace_s() for lane in lanes))
    return [lane for lane in lanes if lane.silent_s() < limit_s]
