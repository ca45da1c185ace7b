"""Loops that do not answer: what they were given and have not adopted goes to one that does."""

from __future__ import annotations

import time

from asgi_poller.loops.accepted import Accepted
from asgi_poller.pollers.front_end import FrontEnd
from asgi_poller.pollers.lanes import ThreadLane
from tests.pollers.fakes import DEADLINE_S, clients, cores, make_listener, serving, wait_until
from tests.pollers.test_front_end import FullLane, adopted


def test_what_a_blocked_core_has_not_adopted_goes_to_one_that_answers() -> None:
    listener = make_listener()
    with cores(3) as own, own[0].blocked(), own[1].blocked():
        front_end = FrontEnd([listener], [ThreadLane(core) for core in own])
        with serving(front_end, listener), clients(listener, 90):
            wait_until(lambda: adopted(own[2]) == 90, "the third core has them all")
            assert front_end.stats().loads == (0, 0, 90)
            with clients(listener, 5):
                wait_until(lambda: adopted(own[2]) == 95, "and further ones")


def test_who_is_back_first_gets_what_waits_for_the_others() -> None:
    listener = make_listener()
    with cores(2) as own, own[0].blocked():
        with own[1].blocked():
            front_end = FrontEnd([listener], [ThreadLane(core) for core in own])
            front_end.start()
            with clients(listener, 40):
                wait_until(lambda: front_end.stats().accepted == 40, "accepted")
                wait_until(
                    lambda: not any(lane.available() for lane in front_end._balancer.lanes), "late"
                )
        wait_until(lambda: adopted(own[1]) == 40, "the second core has them all")
        assert front_end.stop(DEADLINE_S)
        listener.close()


def test_a_core_that_is_alone_is_not_looked_after() -> None:
    with cores(1) as (core,), core.blocked():
        lane = ThreadLane(core)
        front_end = FrontEnd([], [lane])
        lane.put([Accepted(1_000_000, 0)])
        assert not front_end.is_owed
        lane.take_back()


def test_the_question_to_the_loops_is_never_of_the_future() -> None:
    """Pollers and the keeper ask at once: nothing would be taken back until that time has come."""

    class Late(FullLane):
        def is_late(self) -> bool:
            return True

    class Raced(FrontEnd):
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
    front_end = Raced([listener], [Late()])
    front_end.relieve()
    assert front_end.is_raced
    assert front_end.asked <= time.monotonic()
    listener.close()
