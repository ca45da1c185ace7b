"""Workers whose start fails in the supervisor itself: one clear line, nothing left behind, and the
others go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.command import Command, get
from tests.support.waiting import wait_until

# While the file $DENIED exists, the calls that one module makes fail for want of descriptors.
DENYING = """
import errno, importlib, os, sys, types
name, module, call = sys.argv[1:4]
real = sys.modules[name] if name in sys.modules else importlib.import_module(name)

def denied(*arguments):
    if os.path.exists(os.environ["DENIED"]):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return getattr(real, call)(*arguments)

stand_in = types.ModuleType(name)
stand_in.__dict__.update(real.__dict__)
setattr(stand_in, call, denied)
setattr(importlib.import_module(module), name, stand_in)
import asgi_poller
asgi_poller.run("tests.supervisor.app:app", workers=2, port=0, limit_connections=100)
"""
# Settings with a filter that cannot be pickled.
UNPICKLABLE = """
import logging, asgi_poller
log = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"f": {"()": lambda: logging.Filter()}},
    "handlers": {"h": {"class": "logging.StreamHandler", "filters": ["f"]}},
    "root": {"handlers": ["h"], "level": "INFO"},
}
asgi_poller.run("tests.supervisor.app:app", workers=2, port=0, log_config=log)
"""


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_settings_that_cannot_be_pickled_end_the_start() -> None:
    command = Command(program=[sys.executable, "-c", UNPICKLABLE])
    with contextlib.closing(command):
        assert command.wait() != 0
        assert "--workers: the settings cannot be passed to another process" in command.text


# An application object, loaded once: the call that makes its fork server fails.
PRELOADING = """
import errno, os, sys, socket
from asgi_poller import platform
name, call = sys.argv[1:]
def denied(*arguments):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
setattr(sys.modules[name], call, denied)
before = os.listdir("/proc/self/fd")
import asgi_poller
from tests.supervisor.app import app
try:
    asgi_poller.run(app, workers=2, port=0, preload=True)
finally:
    print("left:", len(os.listdir("/proc/self/fd")) - len(before), file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(("name", "call"), [("socket", "socketpair"), ("os", "fork")])
def test_no_descriptor_or_process_for_a_fork_server(name: str, call: str) -> None:
    with contextlib.closing(Command(program=[sys.executable, "-c", PRELOADING, name, call])) as run:
        assert run.wait() == 3
        assert "the fork server could not be started: " in run.text
        assert "Traceback" not in run.text
        assert run.lines[-1] == "left: 0"


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "module", "call"),
    [
        ("socket", "asgi_poller.supervisor.worker_handle", "socketpair"),
        ("socket", "asgi_poller.handoff.process_lane", "socketpair"),
        ("os", "asgi_poller.ipc.stack_dump", "pipe"),
    ],
)
def test_no_descriptor_for_a_worker(name: str, module: str, call: str, tmp_path: Path) -> None:
    """It is tried again until there is one; what each attempt took is given back."""
    denied = tmp_path / "denied"
    program = [sys.executable, "-c", DENYING, name, module, call]
    command = Command(program=program, environ={"DENIED": str(denied)})
    with contextlib.closing(command):
        command.wait_ready(2)
        before = descriptors(command.pid)
        denied.touch()
        os.kill(command.workers[0], signal.SIGKILL)
        failed = r"A worker cannot start: .*it could not be started: .*Too many open files"
        command.wait_for(failed, count=2)
        assert get(command.address)
        wait_until(lambda: descriptors(command.pid) < before, "failed starts leave nothing")
        denied.unlink()
        command.wait_for(r"Worker \d+ \[\d+\] is ready", count=3)
        wait_until(lambda: descriptors(command.pid) == before, "all is as it was")
        assert command.stop() == 0
        assert "Traceback" not in command.text
