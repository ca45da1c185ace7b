"""systemd is told what happens, its sockets are used, and workers run as the right user."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import APP, pid_at, running, started
from tests.support.processes import NotifySocket, is_alive
from tests.support.waiting import wait_until


class Manager(NotifySocket):
    """A service manager that keeps what it was told."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self.told: list[str] = []

    def wait_for(self, line: str) -> list[str]:
        """Wait for a message with this line; its lines."""
        while line not in (lines := self.heard()):
            self.told += lines
        self.told += lines
        return lines


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "notify") as made:
        yield made


@pytest.mark.long
def test_readiness_reloads_and_the_end_are_told(manager: Manager) -> None:
    with running(environ={"NOTIFY_SOCKET": str(manager.path)}) as command:
        ready = manager.wait_for("READY=1")
        assert f"MAINPID={command.pid}" in ready
        assert "STATUS=2 workers" in ready
        command.signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.wait_for("RELOADING=1"))
        manager.wait_for("READY=1")
        command.wait_for("Restart complete")
        command.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert command.wait() == 0


def test_a_single_process_tells_the_same_and_keeps_its_pid_file(
    manager: Manager, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "200000"}
    with started("--pid", str(path), environ=environ) as command:
        assert f"MAINPID={command.pid}" in manager.wait_for("READY=1")
        assert path.read_text() == f"{command.pid}\n"
        manager.wait_for("WATCHDOG=1")
        manager.wait_for("WATCHDOG=1")
        assert pid_at(command.address) == command.pid
        command.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert command.wait() == -signal.SIGTERM, "as uvicorn: the shell sees the signal"
        assert not path.exists()


def test_nobody_is_told_of_a_start_that_failed(manager: Manager, tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    fail.write_text("lifespan")
    environ = {"TEST_FAIL": str(fail), "NOTIFY_SOCKET": str(manager.path)}
    with started("--workers", "2", environ=environ) as command:
        assert command.wait() == 3
        manager.wait_for("STOPPING=1")
        assert "READY=1" not in manager.told


@pytest.mark.long
def test_the_watchdog_is_fed(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "200000"}
    with running(environ=environ):
        for _ in range(3):
            manager.wait_for("WATCHDOG=1")


@pytest.mark.long
def test_the_manager_learns_of_the_new_main_process(manager: Manager) -> None:
    with running(environ={"NOTIFY_SOCKET": str(manager.path)}) as command:
        manager.wait_for("READY=1")
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(r"Started a new supervisor \[(\d+)\]")[1])
        manager.wait_for(f"MAINPID={new}")
        assert command.wait(has_heir=True) == 0
        assert "STOPPING=1" not in manager.told
        os.kill(new, signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        wait_until(lambda: not is_alive(new), "it ends")


_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.executable, [sys.executable, "-m", "asgi_poller", *sys.argv[2:]])
"""


def test_sockets_that_systemd_passes_are_served_by_workers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        program = [sys.executable, "-c", _ACTIVATE, str(fd), APP, "--workers", "2"]
        with started(program=program, keep_fds=(fd,), port=None) as command:
            command.wait_ready(2)
            assert command.address == listener.getsockname()
            assert pid_at(command.address) in command.workers
            assert command.stop() == 0


@pytest.mark.long
def test_a_pid_file_of_a_running_server_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with running("--pid", str(path)) as command:
        assert path.read_text() == f"{command.pid}\n"
        with started("--workers", "2", "--pid", str(path)) as other:
            assert other.wait() == 2
            assert f"process {command.pid} is running" in other.text
        assert command.stop() == 0
        assert not path.exists()


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may")
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["spawn", "preload"])
def test_workers_run_as_the_group_that_is_asked_for(options: tuple[str, ...]) -> None:
    with running("--group", "65534", *options) as command:
        assert {group_of(pid) for pid in command.workers} == {65534}
        assert group_of(command.pid) == 65534
        os.kill(command.workers[0], signal.SIGKILL)
        command.wait_for("is ready", count=3)
        assert {group_of(pid) for pid in command.workers} == {65534}


def group_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("Gid:")]
    return int(line.split()[2])


def test_workers_give_way_to_the_pollers() -> None:
    with running("--worker-nice", "3") as command:
        ours = os.getpriority(os.PRIO_PROCESS, command.pid)
        for pid in command.workers:
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, ours + 3)
