"""A blocked loop is noticed, and a busy one is not taken for it."""

from __future__ import annotations

import asyncio
from array import array

from asgi_poller.ipc.heartbeat import (
    BEATS,
    NOTICE_S,
    REQUESTS,
    Health,
    Heartbeat,
    Pulse,
    beat_interval_s,
)


def cells() -> memoryview[int]:
    return memoryview(array("q", [0] * 8)).cast("B").cast("q")


def look_each_second(pulse: Pulse, start: int, end: int) -> list[Health]:
    return [pulse.look(float(now)) for now in range(start, end)]


async def test_a_turning_loop_counts_up_and_tells_its_requests() -> None:
    class Core:
        requests = 7

        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()

    row = cells()
    Heartbeat(Core(), row, 0.001).beat()
    while row[BEATS] < 3:
        await asyncio.sleep(0)
    assert row[REQUESTS] == 7


def test_a_loop_beats_several_times_within_the_limit() -> None:
    assert beat_interval_s(0) == beat_interval_s(60.0) == 1.0
    assert beat_interval_s(2.0) == 0.5


def test_a_silent_index_is_told_of_once_and_then_lost() -> None:
    rows = [cells(), cells()]
    pulse = Pulse(rows, 30.0, 0.0)
    for now in range(1, 31):
        rows[0][BEATS] += 1
        health = pulse.look(float(now))
        expected = {int(NOTICE_S): Health.BLOCKED, 30: Health.LOST}.get(now, Health.OK)
        assert health is expected, now
    assert pulse.silent_index == 1
    assert pulse.silent_s == 30.0


def test_a_core_that_comes_back_is_well_again() -> None:
    row = cells()
    pulse = Pulse([row], 30.0, 0.0)
    assert Health.BLOCKED in look_each_second(pulse, 1, 15)
    row[BEATS] += 1
    assert pulse.look(15.0) is Health.RECOVERED
    assert pulse.look(16.0) is Health.OK


def test_without_a_limit_nobody_is_lost() -> None:
    told = look_each_second(Pulse([cells()], 0.0, 0.0), 1, 1000)
    assert told.count(Health.BLOCKED) == 1
    assert Health.LOST not in told


def test_a_short_limit_needs_no_earlier_notice() -> None:
    pulse = Pulse([cells()], 2.0, 0.0)
    assert pulse.look(1.0) is Health.OK
    assert pulse.look(2.0) is Health.LOST


def test_a_supervisor_that_was_stopped_itself_blames_nobody() -> None:
    row = cells()
    pulse = Pulse([row], 30.0, 0.0)
    assert pulse.look(1.0) is Health.OK
    assert pulse.look(3600.0) is Health.OK, "everybody was stopped"
    assert pulse.look(3601.0) is Health.OK
    row[BEATS] += 1
    row[REQUESTS] = 5
    assert pulse.look(3602.0) is Health.OK
    assert pulse.requests == 5
