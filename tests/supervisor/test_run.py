"""`asgi_poller.run()` in a program of the user's: mistakes are one line and an exit code."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.command import run_python


def outcome(call: str, *, before: str = "") -> tuple[int, str]:
    """Exit code and standard error of a program that only calls run(), after `before`."""
    done = run_python("-c", f"{before}\nimport asgi_poller\nasgi_poller.run({call})")
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        ("'main:app', prot=1", 2, "prot"),
        ("'main:app', port=70000", 2, "--port"),
        ("print, workers=2, port=0", 2, "workers"),
        ("print, workers=2, preload=True, sockets=[print]", 2, "fd="),
        ("'tests.no_such_module:app', port=0", 3, "tests.no_such_module"),
    ],
)
def test_mistakes_are_one_line(call: str, code: int, says: str) -> None:
    found, text = outcome(call)
    assert found == code
    assert "Traceback" not in text
    assert says in text.splitlines()[-1]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_in_use(workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found, text = outcome(f"'tests.supervisor.app:app', port={port}, workers={workers}")
    assert found == 1
    assert "already in use" in text.splitlines()[-1]
    assert "Started" not in text


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("'tests.supervisor.app:app', ssl_certfile='no-such.pem', port=0", "--ssl-certfile"),
        ("'tests.no_such_module:app', port=0", "tests.no_such_module"),
    ],
)
def test_a_server_that_cannot_start_does_not_say_that_it_has(call: str, says: str) -> None:
    _, text = outcome(call)
    assert says in text
    assert "Started" not in text


def test_a_pid_file_in_use_is_noticed_before_anything_is_forked(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(str(os.getpid()))
    found, text = outcome(
        f"print, workers=2, preload=True, port=0, pid_file={str(pid_file)!r}",
        before="import os; os.register_at_fork(before=lambda: os.write(2, b'forked\\n'))",
    )
    assert found == 2
    assert f"--pid: process {os.getpid()} is running" in text
    assert "forked" not in text
