"""SIGUSR2: another supervisor takes the listeners over while nobody is turned away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_poller.errors import ListenError
from asgi_poller.supervisor.upgrade import Predecessor
from tests.support.command import Command, pid_at, running, started
from tests.support.crowd import SteadyVisitors, crowd
from tests.support.processes import is_alive
from tests.support.waiting import wait_until

_NEW = r"Started a new supervisor \[(\d+)\]"


@contextlib.contextmanager
def ended(pid: int, command: Command) -> Iterator[None]:
    """The new supervisor is not the test's own child: see that it goes."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(pid), "the new supervisor ends")
        assert not command.workers


@pytest.mark.long
def test_nobody_is_refused_while_the_server_is_exchanged(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with running("--pid", str(pid_file)) as command:
        assert pid_file.read_text() == f"{command.pid}\n"
        old = command.workers
        visitors = SteadyVisitors(command.address, rate=300)
        visitors.start()
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(_NEW)[1])
        with ended(new, command):
            assert command.wait(has_heir=True) == 0, "the old one ends"
            wait_until(lambda: not any(map(is_alive, old)), "its workers too")
            assert pid_file.read_text() == f"{new}\n"
            assert pid_at(command.address) in command.workers
            visitors.stop()
            assert visitors.crowd.problems() == {}
            assert set(visitors.crowd.by_worker()) >= set(old)
        assert not pid_file.exists()


@pytest.mark.long
def test_a_new_one_that_fails_leaves_the_old_one_serving(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    pid_file = tmp_path / "pid"
    with running("--pid", str(pid_file), environ={"TEST_FAIL": str(fail)}) as command:
        old = command.workers
        fail.write_text("lifespan")
        command.signal(signal.SIGUSR2)
        command.wait_for("The upgrade failed, this supervisor goes on: .* exit code 3")
        assert pid_at(command.address) in old
        assert pid_file.read_text() == f"{command.pid}\n"
        fail.unlink()
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(_NEW, count=2)[1])
        with ended(new, command):
            assert command.wait(has_heir=True) == 0
            assert pid_at(command.address) not in old


@pytest.mark.long
def test_clients_of_the_old_one_are_sent_over_in_turns() -> None:
    with running("--drain-spread", "1") as command, crowd(command.address) as visitors:
        clients = visitors.open(40)
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(_NEW)[1])
        with ended(new, command):
            command.wait_for("Shutting down")
            started = time.monotonic()
            visitors.wait_told(clients)
            assert max(client.ended for client in clients) - started >= 0.8
            assert command.wait(has_heir=True) == 0


@pytest.mark.long
def test_an_upgrade_can_follow_another() -> None:
    with running() as command:
        command.signal(signal.SIGUSR2)
        first = int(command.wait_for(_NEW)[1])
        assert command.wait(has_heir=True) == 0
        os.kill(first, signal.SIGUSR2)
        second = int(command.wait_for(_NEW, count=2)[1])
        wait_until(lambda: not is_alive(first), "the first successor ends")
        with ended(second, command):
            assert pid_at(command.address) in command.workers


@pytest.mark.long
def test_an_end_in_the_middle_ends_both(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    with running(environ={"TEST_FAIL": str(fail)}) as command:
        fail.write_text("hang")
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(_NEW)[1])
        command.signal(signal.SIGUSR2)
        command.wait_for("An upgrade is under way already")
        command.wait_for("Started worker", count=3)
        assert command.stop() == 0
        wait_until(lambda: not is_alive(new), "the new one ends too")
        wait_until(lambda: not command.workers, "and its workers")


@pytest.mark.long
def test_a_socket_file_is_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with started("--workers", "2", "--uds", str(path), port=None) as command:
        command.wait_for("is ready", count=2)
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(_NEW)[1])
        with ended(new, command):
            assert command.wait(has_heir=True) == 0
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
        assert not path.exists()


def told(**entries: object) -> dict[str, str]:
    return {"_ASGI_POLLER_UPGRADE": json.dumps({"pid": os.getppid(), **entries})}


def test_what_is_left_for_another_process_is_ignored() -> None:
    environ = told(pid=1 << 30)
    assert Predecessor.from_environment(environ) is None
    assert environ == {}
    assert Predecessor.from_environment({}) is None


@pytest.mark.parametrize("environ", [told(), told(listeners=[{"fd": 3}]), told(listeners=7)])
def test_what_makes_no_sense_is_one_line(environ: dict[str, str]) -> None:
    with pytest.raises(ListenError, match=re.escape("_ASGI_POLLER_UPGRADE: cannot take")):
        Predecessor.from_environment(environ)
