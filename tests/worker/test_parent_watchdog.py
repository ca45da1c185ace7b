"""A worker ends with its supervisor, blocked or not."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.support.waiting import DEADLINE_S

# A worker whose main thread is blocked for ever, and whose control socket is standard input.
BLOCKED = """
import socket, threading
from asgi_poller.worker.parent_watchdog import ParentWatchdog
ParentWatchdog(socket.socket(fileno=0), 0.0).start()
print("watching", flush=True)
threading.Event().wait()
"""


def test_an_orphan_is_ended_although_its_loop_is_blocked() -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-c", BLOCKED],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            text=True,
        ) as worker,
    ):
        theirs.close()
        assert worker.stdout is not None
        try:
            assert worker.stdout.readline() == "watching\n"
            assert worker.poll() is None, "not while the supervisor lives"
            ours.close()
            assert worker.wait(DEADLINE_S) == 1
        finally:
            worker.kill()
