"""Pid files: never over a running server, never over something else, removed by their owner
only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_poller.errors import ConfigError
from asgi_poller.platform import process_is_alive
from asgi_poller.system import pid_file
from asgi_poller.system.pid_file import PidFile

ROOT = str(Path(pid_file.__file__).parent.parent.parent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


@pytest.fixture
def dead_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    return process.pid


def assert_nothing_else_in(path: Path, *names: str) -> None:
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted(names)


def test_written_and_removed(path: Path) -> None:
    file = PidFile(str(path))
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert_nothing_else_in(path, "server.pid")
    file.remove()
    assert_nothing_else_in(path)
    file.remove()


def test_a_running_server_is_not_overwritten(path: Path) -> None:
    path.write_text(f"{os.getppid()}\n")
    file = PidFile(str(path))
    with pytest.raises(ConfigError, match=rf"^--pid: process {os.getppid()} is running; remove"):
        file.write()
    assert path.read_text() == f"{os.getppid()}\n"
    assert_nothing_else_in(path, "server.pid")
    file.remove()
    assert path.exists()


@pytest.mark.parametrize("content", ["dead", "own", "", "\n", "99999999999999999999", "0"])
def test_what_a_dead_server_left_is_replaced(path: Path, dead_pid: int, content: str) -> None:
    names = {"dead": f"{dead_pid}\n", "own": f"{os.getpid()}"}  # a container starts with the same
    path.write_text(names.get(content, content))
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert_nothing_else_in(path, "server.pid")


@pytest.mark.parametrize("content", ["root:x:0:0::/root:/bin/sh\n", "-1", "12 34", "1" * 33])
def test_a_file_that_is_something_else_is_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"^--pid: .* is no pid file; choose another path$"):
        PidFile(str(path)).write()
    assert path.read_text() == content
    assert_nothing_else_in(path, "server.pid")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(path: Path, kind: str) -> None:
    """Somebody else may write to the directory, and we are root."""
    victim = path.with_name("victim")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)
    if kind == "link":
        victim.write_text("1")
    file = PidFile(str(path))
    with pytest.raises(ConfigError, match=r"^--pid: .* is no pid file; choose another path$"):
        file.write()
    file.remove()
    assert path.is_fifo() or path.is_symlink()
    assert victim.exists() == (kind == "link")


def test_the_name_of_the_temporary_file_cannot_be_guessed(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("secret")
    victim.chmod(0o600)
    path.with_name(f".{path.name}.{os.getpid()}").symlink_to(victim)
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert victim.read_text() == "secret"
    assert victim.stat().st_mode & 0o777 == 0o600


def test_paths_that_cannot_be_written_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "missing" / "pid", tmp_path / "directory"):
        with pytest.raises(ConfigError, match=r"^--pid: cannot write ") as caught:
            PidFile(str(path)).write()
        assert "\n" not in str(caught.value)


def test_a_server_that_is_taking_the_file_over_comes_first(path: Path, dead_pid: int) -> None:
    fcntl = pytest.importorskip("fcntl")
    path.write_text(f"{dead_pid}\n")
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"^--pid: another process is writing"):
            PidFile(str(path)).write()
    assert path.read_text() == f"{dead_pid}\n"
    PidFile(str(path)).write()


def test_removed_only_if_it_is_still_ours(path: Path, dead_pid: int) -> None:
    file = PidFile(str(path))
    file.write()
    path.write_text(f"{dead_pid}\n")
    file.remove()
    assert path.exists()
    file = PidFile(str(path))
    file.write()
    path.write_text("garbage")
    file.remove()
    assert path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_does_not_remove_it(path: Path) -> None:
    file = PidFile(str(path))
    file.write()
    child = os.fork()
    if child == 0:
        try:
            file.remove()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert path.read_text() == f"{os.getpid()}\n"


STARTER = """
import sys
from asgi_poller.errors import ConfigError
from asgi_poller.system.pid_file import PidFile
file = PidFile(sys.argv[1])
sys.stdin.readline()
try:
    file.write()
except ConfigError:
    print("refused", flush=True)
else:
    print("mine", flush=True)
sys.stdin.readline()
file.remove()
"""


def test_of_many_that_start_at_once_over_a_stale_file_one_gets_it(
    path: Path, dead_pid: int
) -> None:
    path.write_text(f"{dead_pid}\n")
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(8)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
    answers = []
    for starter in starters:
        assert starter.stdout is not None
        answers.append(starter.stdout.readline().strip())
    assert sorted(answers) == ["mine"] + ["refused"] * 7
    owner = starters[answers.index("mine")]
    assert path.read_text() == f"{owner.pid}\n"
    for starter in starters:
        starter.communicate("end\n", timeout=30)
    assert_nothing_else_in(path)


def test_who_is_alive(dead_pid: int) -> None:
    assert process_is_alive(os.getpid())
    assert process_is_alive(1)
    assert not process_is_alive(dead_pid)
    assert not process_is_alive(0)
    assert not process_is_alive(1 << 70)
