"""What the signals mean, to the supervisor and to a worker."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.support.command import asked, body_of, get, pid_at, running
from tests.support.crowd import crowd
from tests.support.processes import is_alive
from tests.support.waiting import DEADLINE_S, wait_until


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_workers_drain(number: signal.Signals) -> None:
    with running() as command, crowd(command.address) as visitors:
        clients = visitors.open(20)
        request = asked(command.address, "/slow?1")
        wait_until(lambda: len(visitors.by_worker()) == 2, "both have clients")
        pid_at(command.address)
        command.signal(number)
        visitors.wait_told(clients)
        assert command.wait() == 0
        assert body_of(request)
        assert command.text.count("Application shutdown complete") == 2
        assert not command.workers
        with pytest.raises(ConnectionRefusedError):
            pid_at(command.address)


@pytest.mark.long
def test_a_second_signal_ends_it_at_once() -> None:
    with running("--timeout-graceful-shutdown", "600") as command:
        request = threading.Thread(target=ask_in_vain, args=(command.address,), daemon=True)
        request.start()
        command.signal(signal.SIGTERM)
        command.wait_for("Shutting down")
        command.signal(signal.SIGTERM)
        assert command.wait() == 0
        assert not command.workers
        request.join(DEADLINE_S)


def ask_in_vain(address: tuple[str, int]) -> None:
    with pytest.raises((AssertionError, ConnectionError)):
        get(address, "/slow?600")


@pytest.mark.long
def test_quit_does_not_wait_for_anybody() -> None:
    with running("--timeout-graceful-shutdown", "600") as command:
        with crowd(command.address) as visitors:
            clients = visitors.open(10)
            command.signal(signal.SIGQUIT)
            visitors.wait_closed(clients)
            assert command.wait() == 0
            assert command.text.count("Application shutdown complete") == 2


@pytest.mark.long
def test_a_signal_during_the_start_ends_it_in_order(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    with running(environ={"TEST_FAIL": str(fail)}) as command:
        # the same path as at the first start: a worker that is on its way
        fail.write_text("hang")
        command.signal(signal.SIGTTIN)
        command.wait_for("Waiting for application startup", count=3)
        assert command.stop() == 0
        assert not command.workers


@pytest.mark.long
def test_one_more_and_one_less() -> None:
    with running() as command, crowd(command.address) as visitors:
        clients = visitors.open(30)
        command.signal(signal.SIGTTIN)
        command.wait_for("is ready", count=3)
        assert len(command.workers) == 3
        newest = command.workers[-1]
        wait_until(lambda: pid_at(command.address) == newest, "the new one gets its share")
        second = [client for client in clients if client.worker == command.workers[1]]
        for left, leavers in ((2, []), (1, second)):
            command.signal(signal.SIGTTOU)
            visitors.wait_closed(leavers)
            assert all(client.code == 1012 for client in leavers)
            wait_until(lambda left=left: len(command.workers) == left, "one leaves")  # type: ignore[misc]  # bound early
        command.signal(signal.SIGTTOU)
        command.wait_for("Number of workers: 1", count=2)
        assert pid_at(command.address) in command.workers


@pytest.mark.parametrize("count", [1, 2])
def test_logs_are_opened_anew_everywhere(count: int, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    config = tmp_path / "logging.json"
    config.write_text(
        """{"version": 1, "disable_existing_loggers": false,
        "formatters": {"plain": {"format": "%(process)d %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "formatter": "plain",
                              "filename": "LOG"},
                     "err": {"class": "logging.StreamHandler"}},
        "loggers": {"asgi_poller": {"handlers": ["file", "err"], "level": "INFO"}}}""".replace(
            "LOG", str(log)
        )
    )
    with running("--log-config", str(config), workers=count) as command:
        log.rename(tmp_path / "server.log.1")
        command.signal(signal.SIGUSR1)
        wait_until(log.exists, "the main process has a new file")
        workers = command.workers or [command.pid]

        def all_write() -> bool:
            for _ in workers:
                pid_at(command.address)
            written = log.read_text()
            return all(f"{pid} " in written for pid in workers)

        wait_until(all_write, "the workers write to the new file")


def test_a_worker_that_is_told_to_end_is_replaced_and_nobody_is_lost() -> None:
    with running() as command, crowd(command.address) as visitors:
        clients = visitors.open(20)
        leaver = command.workers[0]
        os.kill(leaver, signal.SIGTERM)
        mine = [client for client in clients if client.worker == leaver]
        visitors.wait_told(mine)
        wait_until(lambda: not is_alive(leaver), "it ends")
        command.wait_for("is ready", count=3)
        assert not any(client.problem for client in visitors.open(50))


def test_signals_to_the_whole_group_are_the_supervisors() -> None:
    with running() as command:
        workers = command.workers
        os.killpg(command.pid, signal.SIGUSR1)
        os.killpg(command.pid, signal.SIGHUP)
        command.wait_for("Restart complete")
        wait_until(lambda: len(command.workers) == 2, "two workers run")
        assert set(command.workers).isdisjoint(workers)
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait() == 0
        assert command.text.count("Application shutdown complete") == 4
