"""Connections are spread evenly over workers and their loops, also after one was replaced."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.support.command import APP, Command, running
from tests.support.crowd import Crowd, crowd
from tests.support.waiting import wait_until

POLLERS = 2
UNEVEN = POLLERS + 1  # what the promise allows between the fullest and the emptiest


def unevenness(visitors: Crowd, command: Command) -> int:
    counts = visitors.by_worker()
    return max(counts[pid] for pid in command.workers) - min(counts[pid] for pid in command.workers)


@pytest.mark.long
def test_idle_websockets_are_spread_evenly_also_after_a_worker_was_killed() -> None:
    with running(workers=4) as command, crowd(command.address) as visitors:
        visitors.open(2000)
        assert not visitors.problems()
        assert unevenness(visitors, command) <= UNEVEN

        victim = command.workers[0]
        lost = [client for client in visitors.clients if client.worker == victim]
        os.kill(victim, signal.SIGKILL)
        command.wait_for("is ready", count=5)
        visitors.wait_closed(lost)
        visitors.clients = [client for client in visitors.clients if client not in lost]

        wait_until(lambda: len(command.workers) == 4, "it is replaced")
        new = visitors.open(len(lost))
        assert not any(client.problem for client in new)
        assert unevenness(visitors, command) <= UNEVEN


def test_round_robin_counts_turns_and_not_connections() -> None:
    with running("--balance", "round-robin", "--pollers", "1") as command:
        with crowd(command.address) as visitors:
            visitors.open(100)
            first, _ = command.workers
            for client in visitors.clients:
                if client.worker == first:
                    client.sock.close()
            leavers = [client for client in visitors.clients if client.worker == first]
            assert len(leavers) == 50
            new = visitors.open(100)
            # by load, nearly all of them would go to the first
            assert sum(client.worker == first for client in new) == 50


def test_each_loop_of_each_worker_gets_its_share() -> None:
    with running("--loops", "2") as command, crowd(command.address) as visitors:
        visitors.open(400)
        assert not visitors.problems()
        assert unevenness(visitors, command) <= UNEVEN


def test_a_worker_has_as_many_loops_as_its_supervisor_says() -> None:
    """Also with --loops auto where an import has switched the GIL on in the worker alone."""
    without_gil = "import sys; sys._is_gil_enabled = lambda: False"
    start = f"{without_gil}; from asgi_poller.cli import main; main()"
    command = Command(
        *("--workers", "2", "--loops", "auto", "--port", "0"),
        program=[sys.executable, "-c", start, APP],
    )
    try:
        command.wait_ready(2)
        assert not command.said("exit code")
    finally:
        command.close()


@pytest.mark.long
def test_pollers_may_read_heads_for_workers() -> None:
    with running("--direct-handshake") as command, crowd(command.address) as visitors:
        visitors.open(100)
        assert not visitors.problems()
        assert set(visitors.by_worker().values()) == {50}
