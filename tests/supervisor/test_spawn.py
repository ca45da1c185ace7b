"""Child processes: their ends in words; and systems that have none."""

from __future__ import annotations

from asgi_poller.supervisor.spawn import described_exit
from tests.support.command import run_python

_WINDOWS = """
import asyncio, multiprocessing.spawn, os, select, signal, socket, subprocess
for name in "SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 SIGTTIN SIGTTOU SIGCHLD".split():
    delattr(signal, name)
for name in "SCM_RIGHTS CMSG_SPACE recv_fds send_fds".split():
    delattr(socket, name)
for module, name in ((os, "fork"), (os, "WNOHANG"), (os, "pidfd_open"), (select, "poll")):
    delattr(module, name)
import asgi_poller.serve_main
"""


def test_it_can_be_imported_where_there_are_no_workers() -> None:
    run = run_python("-c", _WINDOWS)
    assert run.returncode == 0, run.stderr


def test_ends_are_described() -> None:
    assert described_exit(3) == "ended with exit code 3"
    assert described_exit(-9) == "was killed by SIGKILL"
    assert described_exit(-200) == "was killed by signal 200"
