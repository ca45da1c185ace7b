"""Workers that are killed, stopped, blocked, or cannot start."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import pytest

from tests.support.command import get, pid_at, running, started
from tests.support.crowd import crowd
from tests.support.processes import is_alive, suspend
from tests.support.waiting import wait_until


@pytest.mark.long
def test_a_worker_killed_in_a_burst_loses_only_what_it_had() -> None:
    with running(workers=3) as command, crowd(command.address) as visitors:
        victim = command.workers[0]
        clients = [visitors.start() for _ in range(5000)]
        killer = threading.Timer(0.1, os.kill, (victim, signal.SIGKILL))
        killer.start()
        visitors.settle(clients)
        killer.join()
        wait_until(lambda: not is_alive(victim), "it is dead")
        # no client was refused or waits in vain; whoever was with the dead one sees its end
        seen = {"end", "end after HTTP/1.1 101 Switching Protocols", "reset"}
        assert set(visitors.problems()) <= seen | {"Connection reset by peer"}
        greeted = visitors.by_worker()
        assert sum(greeted.values()) + sum(visitors.problems().values()) == 5000
        with_victim = greeted.pop(victim, 0) + sum(visitors.problems().values())
        assert with_victim <= 5000 / 2  # a third is its share, more where the others were late
        command.wait_for("was killed by SIGKILL")
        command.wait_for("is ready", count=4)
        assert not any(client.problem for client in visitors.open(100))


def test_what_a_killed_worker_had_not_adopted_goes_to_another() -> None:
    with running() as command, crowd(command.address) as visitors:
        stopped, other = command.workers
        suspend(stopped)
        clients = [visitors.start() for _ in range(300)]
        killer = threading.Timer(0.2, os.kill, (stopped, signal.SIGKILL))
        killer.start()
        visitors.settle(clients)
        assert not visitors.problems()
        assert visitors.by_worker()[stopped] == 0
        assert visitors.by_worker()[other] >= 150


@pytest.mark.long
def test_a_stopped_worker_gets_nothing_more_and_is_forgiven() -> None:
    with running() as command, crowd(command.address) as visitors:
        stopped, other = command.workers
        suspend(stopped)
        clients = visitors.open(200)
        assert not visitors.problems()
        assert {client.worker for client in clients} == {other}
        command.wait_for("does not adopt connections")
        os.kill(stopped, signal.SIGCONT)
        command.wait_for("adopts connections again")
        assert {client.worker for client in visitors.open(50)} == {stopped}


@pytest.mark.long
def test_a_blocked_loop_is_shown_with_its_stack_and_replaced() -> None:
    with running("--timeout-worker-heartbeat", "1.5") as command:
        blocked = int(get(command.address, "/block?30").split()[0])
        command.wait_for(rf"\[{blocked}\]: its event loop has been blocked .*; replacing it")
        command.wait_for("block_the_loop")
        command.wait_for("is ready", count=3)
        wait_until(lambda: not is_alive(blocked), "it is gone")
        assert pid_at(command.address) != blocked


@pytest.mark.long
def test_a_stopped_worker_is_replaced_too_although_it_shows_no_stack() -> None:
    with running("--timeout-worker-heartbeat", "1.5") as command:
        stopped = command.workers[0]
        suspend(stopped)
        command.wait_for("no stack came")
        command.wait_for("is ready", count=3)
        wait_until(lambda: not is_alive(stopped), "it is gone")


def test_without_a_limit_a_short_block_is_nobodys_business() -> None:
    with running("--timeout-worker-heartbeat", "0") as command:
        blocked = int(get(command.address, "/block?1").split()[0])
        assert pid_at(command.address) in command.workers
        assert is_alive(blocked)
        assert "blocked" not in command.text


@pytest.mark.long
def test_crash_loops_back_off_and_end_when_the_cause_does(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    with running(environ={"TEST_FAIL": str(fail)}) as command:
        fail.write_text("lifespan")
        victim, other = command.workers
        os.kill(victim, signal.SIGKILL)
        waits = [
            float(command.wait_for(r"trying again in ([\d.]+) s", count=count)[1])
            for count in (1, 2, 3)
        ]
        assert waits == sorted(set(waits)), "each wait is longer than the one before"
        assert pid_at(command.address) == other
        fail.unlink()
        command.wait_for("is ready", count=3)
        assert command.stop() == 0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("import", "'tests.supervisor.app' cannot be imported: RuntimeError: told to fail"),
        ("lifespan", "the application's lifespan said that it failed"),
        ("exit", "worker 1: it ended with exit code 7 before it was ready"),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="spawn"),
        pytest.param(("--preload",), id="preload", marks=pytest.mark.long),
    ],
)
def test_a_start_that_fails_ends_the_server(
    how: str, message: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    fail = tmp_path / "fail"
    fail.write_text(how)
    with started("--workers", "4", *options, environ={"TEST_FAIL": str(fail)}) as command:
        assert command.wait() == 3
        errors = [line for line in command.lines if line.startswith("asgi-poller: error:")]
        assert len(errors) == 1
        if options and how == "exit":
            message = "the fork server died while it loaded the application"
        assert message in errors[0]
        assert not command.workers
        assert len(command.started_workers) <= 1


def test_a_worker_that_is_not_ready_in_time_ends_the_server(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    fail.write_text("hang")
    options = ("--workers", "2", "--timeout-worker-startup", "1")
    with started(*options, environ={"TEST_FAIL": str(fail)}) as command:
        assert command.wait() == 3
        assert re.search(r"error: .* not ready within 1 s \(--timeout-worker", command.text)
        assert not command.workers


@pytest.mark.long
def test_workers_end_when_the_supervisor_is_killed() -> None:
    with running() as command, crowd(command.address) as visitors:
        workers = command.workers
        clients = visitors.open(10)
        os.kill(command.pid, signal.SIGKILL)
        visitors.wait_told(clients)
        wait_until(lambda: not any(map(is_alive, workers)), "no worker is left")


def test_forked_workers_end_when_the_supervisor_is_killed() -> None:
    with running("--preload") as command:
        workers = command.workers
        os.kill(command.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)), "no worker is left")
