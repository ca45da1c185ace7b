"""Rolling restart, and what may go wrong with it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.command import get, pid_at, running
from tests.support.crowd import SteadyVisitors, crowd
from tests.support.processes import is_alive
from tests.support.waiting import in_threads, wait_until


@pytest.mark.long
def test_three_restarts_in_a_row_under_a_steady_stream_fail_nobody() -> None:
    with running() as command:
        visitors = SteadyVisitors(command.address, rate=500)
        visitors.start()
        seen = set(command.workers)
        for turn in range(1, 4):
            command.signal(signal.SIGHUP)
            command.wait_for("Restart complete: 2 workers are replaced", count=turn)
        workers = command.started_workers
        wait_until(lambda: len(command.workers) == 2, "the old ones have ended")
        visitors.stop()
        assert len(set(workers)) == 8
        assert set(command.workers).isdisjoint(seen)
        assert visitors.crowd.problems() == {}
        assert len(visitors.crowd.clients) > 500
        # whoever was there long enough to be greeted was greeted by one of ours
        assert set(visitors.crowd.by_worker()) <= set(workers)


@pytest.mark.long
def test_requests_finish_and_channels_are_told_to_come_again() -> None:
    with running() as command, crowd(command.address) as visitors:
        clients = visitors.open(20)
        answers: list[str] = []

        def ask(path: str) -> None:
            answers.append(get(command.address, path))

        with in_threads(ask, ["/slow?1.5"] * 2):
            old = command.workers
            command.signal(signal.SIGHUP)
            visitors.wait_told(clients)
        assert {int(answer.split()[0]) for answer in answers} <= set(old)
        wait_until(lambda: not any(map(is_alive, old)), "the old ones have ended")


@pytest.mark.long
def test_the_ends_are_spread_over_the_time_that_is_set() -> None:
    with running("--drain-spread", "1") as command, crowd(command.address) as visitors:
        clients = visitors.open(40)
        started = time.monotonic()
        command.signal(signal.SIGHUP)
        visitors.wait_told(clients)
        ends = sorted(client.ended - started for client in clients)
        # no bound from above: the machine may be slow; but none can be early
        assert ends[-1] >= 0.9
        assert sum(end >= 0.4 for end in ends) >= 20


@pytest.mark.long
def test_an_end_in_the_middle_of_a_spread_comes_at_once() -> None:
    with running("--drain-spread", "600") as command, crowd(command.address) as visitors:
        clients = visitors.open(40)
        command.signal(signal.SIGHUP)
        command.wait_for("Restart complete")
        command.signal(signal.SIGTERM)
        visitors.wait_told(clients)
        assert command.wait() == 0


@pytest.mark.long
def test_a_replacement_that_fails_keeps_the_old_workers(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    with running(environ={"TEST_FAIL": str(fail)}) as command, crowd(command.address) as visitors:
        clients = visitors.open(10)
        old = command.workers
        for turn, how in enumerate(("lifespan", "import", "exit"), 1):
            fail.write_text(how)
            command.signal(signal.SIGHUP)
            command.wait_for("goes on, its replacement failed", count=turn)
            command.wait_for("Restart given up: 0 of 2 workers are replaced", count=turn)
        wait_until(lambda: command.workers == old, "only the old ones run")
        assert {pid_at(command.address) for _ in range(4)} == set(old)
        assert not any(client.code or client.problem for client in clients)
        visitors.close()
        fail.unlink()
        command.signal(signal.SIGHUP)
        command.wait_for("Restart complete")
        wait_until(lambda: not any(map(is_alive, old)), "now they are replaced")


@pytest.mark.long
def test_a_replacement_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    options = ("--timeout-worker-startup", "10")
    with running(*options, environ={"TEST_FAIL": str(fail)}) as command:
        old = command.workers
        fail.write_text("hang")
        command.signal(signal.SIGHUP)
        command.wait_for("not ready within 10 s")
        wait_until(lambda: command.workers == old, "the late one is ended")


@pytest.mark.long
def test_a_second_order_to_restart_comes_after_the_first() -> None:
    with running() as command:
        for turn in range(1, 4):
            command.signal(signal.SIGHUP)
            command.wait_for("Received SIGHUP", count=turn)
        command.wait_for("Restart complete", count=2)
        wait_until(lambda: len(command.workers) == 2, "two workers run")
        assert len(command.started_workers) == 6, "orders that wait are one"


@pytest.mark.long
def test_a_worker_that_dies_during_a_restart_is_not_missed() -> None:
    with running(workers=3) as command:
        command.signal(signal.SIGHUP)
        command.wait_for("Replacing Worker")
        os.kill(command.workers[1], signal.SIGKILL)
        command.wait_for("Restart complete")
        wait_until(lambda: len(command.workers) == 3, "three workers run")
        seen = {pid_at(command.address) for _ in range(9)}
        assert seen == set(command.workers)
