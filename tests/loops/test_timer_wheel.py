"""The timer wheel: never late, early by little, and asleep when nothing is scheduled."""

from __future__ import annotations

from typing import Any, cast

import pytest

from asgi_poller.loops.timer_wheel import NEVER, TICK_S, TimerWheel
from tests.support.fake_loop import FakeLoop


class Deadline:
    """Hangs on the wheel and notes when it was called."""

    def __init__(self, loop: FakeLoop, *again: float) -> None:
        self.timer_tick = NEVER
        self.loop = loop
        self.wheel: TimerWheel | None = None
        self.again = list(again)
        self.made_at = loop.now
        self.waits: list[float] = []  # from then on to each call
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def on_timer(self, tick: int) -> int:
        self.waits.append(self.loop.now - self.made_at)
        if self.again and self.wheel is not None:
            return self.wheel.after(self.again.pop(0))
        return NEVER


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def wheel(loop: FakeLoop) -> TimerWheel:
    return TimerWheel(cast("Any", loop))


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.25, 1.0, 20.0, 102.4, 150.0, 1000.0])
@pytest.mark.parametrize("offset", [0.0, 0.03, 0.0999, 7.77])
def test_deadlines_are_met_within_a_tick(
    seconds: float, offset: float, loop: FakeLoop, wheel: TimerWheel
) -> None:
    loop.advance(offset)
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(seconds))
    loop.advance(2000)
    (wait,) = deadline.waits
    assert seconds - TICK_S / 2 - 0.001 <= wait <= max(seconds, TICK_S) + 2 * TICK_S
    assert loop.is_asleep


def test_an_idle_wheel_sleeps(loop: FakeLoop, wheel: TimerWheel) -> None:
    assert loop.is_asleep
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(1))
    assert not loop.is_asleep
    wheel.cancel(deadline)
    wheel.cancel(deadline)
    loop.advance(1)
    assert loop.is_asleep
    assert deadline.waits == []


def test_after_a_long_sleep_time_is_right(loop: FakeLoop, wheel: TimerWheel) -> None:
    wheel.schedule(Deadline(loop), wheel.after(1))
    loop.advance(100_000)
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(5))
    loop.advance(10)
    assert 4.9 <= deadline.waits[0] <= 5.2


def test_it_comes_again_when_it_says_so(loop: FakeLoop, wheel: TimerWheel) -> None:
    deadline = Deadline(loop, 1.0, 2.0)
    deadline.wheel = wheel
    wheel.schedule(deadline, wheel.after(1))
    loop.advance(60)
    assert [round(wait) for wait in deadline.waits] == [1, 2, 4]


def test_an_earlier_call_is_enough(loop: FakeLoop, wheel: TimerWheel) -> None:
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(1))
    wheel.schedule(deadline, wheel.after(50))  # it is asked when it comes
    loop.advance(100)
    assert [round(wait) for wait in deadline.waits] == [1]


def test_an_earlier_deadline_replaces_a_later_one(loop: FakeLoop, wheel: TimerWheel) -> None:
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(50))
    wheel.schedule(deadline, wheel.after(1))
    loop.advance(100)
    assert [round(wait) for wait in deadline.waits] == [1]


def test_a_deadline_may_drop_its_neighbours(loop: FakeLoop, wheel: TimerWheel) -> None:
    ended: list[str] = []

    class Killer(Deadline):
        def on_timer(self, tick: int) -> int:
            ended.append("one")
            for other in others:
                wheel.cancel(other)
            return NEVER

    others = [Killer(loop) for _ in range(5)]
    for other in others:
        wheel.schedule(other, wheel.after(1))
    loop.advance(10)
    assert ended == ["one"]
    assert loop.is_asleep


def test_a_deadline_may_hang_others(loop: FakeLoop, wheel: TimerWheel) -> None:
    late = Deadline(loop)

    class Maker(Deadline):
        def on_timer(self, tick: int) -> int:
            wheel.schedule(late, tick)  # at once, as far as it can tell
            return NEVER

    wheel.schedule(Maker(loop), wheel.after(1))
    loop.advance(200)
    assert len(late.waits) == 1
    assert loop.is_asleep


def test_stopping(loop: FakeLoop, wheel: TimerWheel) -> None:
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(1))
    wheel.stop()
    wheel.stop()
    assert loop.is_asleep


@pytest.mark.parametrize("blocked", [5.0, 60.0, 3600.0])
def test_time_in_which_the_loop_is_blocked_hardly_counts(
    blocked: float, loop: FakeLoop, wheel: TimerWheel
) -> None:
    """An application computes; the peer's Pong is still to be read when it is done."""
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(20))
    loop.advance(2)
    loop.block(blocked)
    loop.advance(16.5)
    assert deadline.waits == []
    loop.advance(2)
    assert len(deadline.waits) == 1


def test_a_deadline_that_begins_after_a_block_is_not_early(
    loop: FakeLoop, wheel: TimerWheel
) -> None:
    """The response to a request that computed for ten seconds is followed by a keep-alive."""
    busy = Deadline(loop)
    wheel.schedule(busy, wheel.after(100))
    loop.advance(1)
    loop.block(10)
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(5))  # the wheel has not turned yet
    loop.advance(20)
    assert 4 <= deadline.waits[0] <= 5.3


def test_short_blocks_do_not_slow_it(loop: FakeLoop, wheel: TimerWheel) -> None:
    deadline = Deadline(loop)
    wheel.schedule(deadline, wheel.after(20))
    while not deadline.waits:
        loop.block(0.2)
        loop.advance(0.001)
    assert deadline.waits[0] < 20.5


def test_one_that_fails_ends_and_every_other_deadline_is_met(
    loop: FakeLoop, wheel: TimerWheel, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Deadline):
        def on_timer(self, tick: int) -> int:
            raise OSError("the peer has gone")

    class Hopeless(Broken):
        def abort(self) -> None:
            raise RuntimeError("nor can it be cut off")

    broken, hopeless, well = Broken(loop), Hopeless(loop), [Deadline(loop) for _ in range(50)]
    for timed in (*well[:25], broken, hopeless, *well[25:]):
        wheel.schedule(timed, wheel.after(1))
    later = Deadline(loop)
    wheel.schedule(later, wheel.after(5))
    loop.advance(10)
    assert broken.is_aborted
    assert [len(timed.waits) for timed in well] == [1] * 50
    assert len(later.waits) == 1
    assert loop.is_asleep
    assert caplog.text.count("failed at its deadline") == 2
