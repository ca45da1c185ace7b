"""`--user` and `--group` with a real root, real ports and every thread of every process."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.command import APP, Command, get, started
from tests.support.processes import ROOT
from tests.topics import workers as rooms

NOBODY = pwd.getpwnam("nobody")
USER = ("--user", "nobody", "--group", str(NOBODY.pw_gid))


def opened() -> list[str]:
    """A program that runs what follows where nobody may read the interpreter and the checkout.

    They may lie in somebody's private folder, root's above all. In a mount namespace of its own an
    empty, public folder takes that one's place, with them in it.
    """
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT]
    closed = {
        max((parent for parent in path.parents if is_closed(parent)), default=None, key=_depth)
        for path in needed
    } - {None}
    script = ["set -e", "keep=$(mktemp -d)", "mount -t tmpfs -o mode=755 keep $keep"]
    for number, path in enumerate(needed):
        script += [f"mkdir $keep/{number}", f"mount --bind {path} $keep/{number}"]
    script += [f"mount -t tmpfs -o mode=755 open {folder}" for folder in closed]
    for number, path in enumerate(needed):
        script += [f"mkdir -p {path}", f"mount --bind $keep/{number} {path}"]
    script += [f"cd {ROOT}", 'exec "$@"']
    return ["unshare", "--mount", "sh", "-c", "\n".join(script), "sh"]


def _depth(path: Path | None) -> int:
    return -len(path.parts) if path is not None else 0


def is_closed(folder: Path) -> bool:
    return not folder.stat().st_mode & 0o001


def program(app: str = APP) -> list[str]:
    return [*opened(), sys.executable, "-m", "asgi_poller", app]


def _can_nobody_read() -> bool:
    """Whether what we need is open to whom we become, in the end."""
    if shutil.which("unshare") is None:
        return False
    code = "import os; os.setuid(65534); import asgi_poller.cli, tests.supervisor.app"
    done = subprocess.run(
        [*opened(), sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    return done.returncode == 0


def rights(pid: int) -> set[tuple[str, ...]]:
    """User ids, group ids, groups and effective capabilities of all threads of a process."""
    found: set[tuple[str, ...]] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(
            line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line
        )
        names = ("Uid", "Gid", "Groups", "CapEff")
        found.add(tuple(" ".join(fields[name].split()) for name in names))
    return found


def is_nobody(pid: int) -> bool:
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    return rights(pid) == {
        (f"{uid} {uid} {uid} {uid}", f"{gid} {gid} {gid} {gid}", str(gid), "0" * 16)
    }


@contextlib.contextmanager
def running(*options: str, workers: int, app: str = APP) -> Iterator[Command]:
    """A command that serves meanwhile, as nobody."""
    command = Command(*options, *USER, "--workers", str(workers), program=program(app))
    try:
        command.wait_ready(workers)
        yield command
    finally:
        print(command.text)
        command.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_that_serves_is_root(workers: int) -> None:
    with running("--port", "0", "--pollers", "3", workers=workers) as command:
        for pid in {command.pid, *command.workers}:
            assert is_nobody(pid), rights(pid)
        assert get(command.address)
        assert command.stop() in (0, -signal.SIGTERM)


@pytest.mark.long
def test_a_worker_that_is_started_later_is_not_root_either() -> None:
    with running("--port", "0", workers=2) as command:
        os.kill(command.workers[0], signal.SIGKILL)
        command.wait_for(r"Worker \d+ \[\d+\] is ready", count=3)
        assert len(command.workers) == 2
        assert all(is_nobody(pid) for pid in command.workers)
        assert get(command.address)


def test_the_hub_of_topics_is_not_root_either() -> None:
    with running("--port", "0", workers=2, app=rooms.APP) as command:
        host, port = command.address
        with rooms.Rooms(f"{host}:{port}") as site:
            site.member()
            assert is_nobody(rooms.hub_of(command.pid))
            assert command.stop() == 0


def free_low_port(host: str) -> int:
    """A port that only root may bind, and nobody has bound."""
    for port in range(1023, 0, -1):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise AssertionError(f"every port of {host} below 1024 is taken")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_port_that_only_root_may_bind(workers: int) -> None:
    host = "127.0.0.9"
    port = free_low_port(host)
    with running("--host", host, "--port", str(port), workers=workers) as command:
        assert get((host, port))
        assert is_nobody(command.pid)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_monitor_on_such_a_port(workers: int) -> None:
    host = "127.0.0.9"
    port = free_low_port(host)
    with running("--port", "0", "--metrics", f"{host}:{port}", workers=workers) as command:
        assert get((host, port), "/healthz", host="localhost") == "ok\n"
        assert is_nobody(command.pid), "its thread too"
        command.stop()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_unix_socket_is_its_new_owners(workers: int, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest's are for root alone
    path = tmp_path / "site"
    options = ("--uds", str(path), "--uds-mode", "620", "--workers", str(workers))
    with started(*options, *USER, program=program(), port=None) as command:
        command.wait_for("running on unix:")
        assert path.owner() == "nobody"
        assert path.stat().st_mode & 0o777 == 0o620
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may")
def test_a_key_that_later_workers_could_not_read_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o600)
    user = ("--user", "65534", "--group", "65534")
    options = ("--workers", "2", "--port", "0", "--ssl-certfile", str(path))
    with started(*options, *user, port=None) as command:
        assert command.wait() == 2
        assert "--ssl-certfile: uid 65534 must be able to read" in command.text
