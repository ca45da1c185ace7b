"""Connections handed to a loop that does not answer are given to another loop."""

from __future__ import annotations

import time

from asgi_poller.handoff.thread_lane import LATE_S, PROMPT_S, ThreadLane
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.pool import PollerPool
from tests.pollers.fakes import cores, make_listener
from tests.pollers.test_pool import FullLane
from tests.support.waiting import wait_until


def test_in_a_burst_nothing_moves_to_a_core_that_was_as_slow_just_now() -> None:
    """It has just answered, and its next long turn is near: loads would not be even again."""

    class Busy(FullLane):
        silence_s, longest_s = 0.0, 0.0
        left: tuple[Accepted, ...] = ()

        @property
        def waiting(self) -> int:  # type: ignore[override]  # that of a lane, too, is read only
            return len(self.left)

        def silent_s(self) -> float:
            return self.silence_s

        def pace_s(self) -> float:
            return max(self.silence_s, self.longest_s)

        def is_late(self) -> bool:
            return self.silence_s >= LATE_S

        def take_back(self) -> list[Accepted]:
            left, self.left = self.left, ()
            return list(left)

    late, answers = Busy(), Busy()
    late.silence_s, answers.longest_s = 0.5, 0.2
    late.left = (Accepted(1_000_000, 0),)
    looks: list[list[Accepted]] = []
    poller_pool = PollerPool([], [late, answers])

    def looked() -> bool:
        """Whether it has asked, and then looked before it would ask anew."""
        asked, before = poller_pool._asked_at, time.monotonic()
        looks.append(poller_pool.relieve())
        return asked == poller_pool._asked_at and before - asked >= PROMPT_S

    wait_until(looked, "it looks")
    assert not any(looks)
    answers.longest_s = 0.1
    wait_until(lambda: looked() and bool(looks[-1]), "it looks again")
    assert looks[-1] == [Accepted(1_000_000, 0)]


def test_a_core_that_is_alone_is_not_looked_after() -> None:
    with cores(1) as (core,), core.blocked():
        lane = ThreadLane(core)
        poller_pool = PollerPool([], [lane])
        lane.put([Accepted(1_000_000, 0)])
        assert not poller_pool.is_owed
        lane.take_back()


def test_the_question_to_the_loops_is_never_of_the_future() -> None:
    """Pollers and the lane monitor ask at once: nothing would be taken back until that time has
    come.
    """

    class Late(FullLane):
        def is_late(self) -> bool:
            return True

    class Raced(PollerPool):
        """Another thread asks between the look at the last question and the next one."""

        asked, is_raced = 0.0, False

        @property
        def _asked_at(self) -> float:
            asked = self.asked
            if not self.is_raced:
                self.is_raced = True
                self.relieve()
            return asked

        @_asked_at.setter
        def _asked_at(self, asked: float) -> None:
            self.asked = asked

    listener = make_listener()
    poller_pool = Raced([listener], [Late()])
    poller_pool.relieve()
    assert poller_pool.is_raced
    assert poller_pool.asked <= time.monotonic()
    listener.close()
