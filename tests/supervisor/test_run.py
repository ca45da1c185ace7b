"""`asgi_poller.run()` in a program of the user's: mistakes are one line and an exit code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE_S


def outcome(call: str) -> tuple[int, str]:
    """Exit code and standard error of a program that only calls run()."""
    done = subprocess.run(
        [sys.executable, "-c", f"import asgi_poller\nasgi_poller.run({call})"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
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
    assert "Traceback" not in text
    assert "already in use" in text.splitlines()[-1]
