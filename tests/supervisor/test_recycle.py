"""Workers that have had their requests, their time or their memory are replaced in good order."""

from __future__ import annotations

import pytest

from tests.support.command import get, pid_at, running
from tests.support.crowd import crowd
from tests.support.processes import is_alive
from tests.support.waiting import wait_until


@pytest.mark.long
def test_a_worker_is_replaced_after_so_many_requests() -> None:
    with running("--limit-max-requests", "20") as command:
        old = command.workers
        answered: set[int] = set()

        def new_ones_answer() -> bool:
            answered.add(pid_at(command.address))  # fails if one is not answered
            return len(answered) > 4

        wait_until(new_ones_answer, "the new ones answer, and are replaced themselves")
        command.wait_for("Replacing .*: --limit-max-requests is reached", count=2)
        wait_until(lambda: not any(map(is_alive, old)), "the old ones have ended")
        wait_until(lambda: len(command.workers) >= 2, "there are two again")


@pytest.mark.long
def test_websockets_count_as_requests() -> None:
    with running("--limit-max-requests", "30") as command, crowd(command.address) as visitors:
        old = command.workers
        clients = visitors.open(60)
        assert not visitors.problems()
        command.wait_for("Replacing .*: --limit-max-requests is reached")
        visitors.wait_closed([client for client in clients if client.worker in old])
        assert {client.code for client in clients if client.worker in old} <= {1012}
        wait_until(lambda: not any(map(is_alive, old)), "the old ones have ended")


@pytest.mark.long
def test_a_worker_is_replaced_after_its_time() -> None:
    with running("--worker-max-lifetime", "2") as command:
        old = command.workers
        command.wait_for("Replacing .*--worker-max-lifetime", count=2)
        wait_until(lambda: not any(map(is_alive, old)), "the old ones have ended")
        assert pid_at(command.address) not in old


@pytest.mark.long
def test_a_worker_that_uses_too_much_memory_is_replaced() -> None:
    with running("--worker-max-memory", "150MiB") as command:
        fat = int(get(command.address, "/grow?150").split()[0])
        command.wait_for(rf"Replacing .*\[{fat}\]: it uses \d+ MiB \(--worker-max-memory\)")
        wait_until(lambda: not is_alive(fat), "it has ended")
        assert len(command.workers) == 2
