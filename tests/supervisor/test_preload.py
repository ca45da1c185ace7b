"""`--preload`: the application is loaded once, and workers are forked from it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.command import get, pid_at, run_python, running, started
from tests.support.crowd import crowd
from tests.support.processes import is_alive
from tests.support.waiting import wait_until


def imported_in(address: tuple[str, int]) -> int:
    return int(get(address).split()[1])


def test_workers_share_what_was_imported_once() -> None:
    with running("--preload", workers=3) as command, crowd(command.address) as visitors:
        importers = {imported_in(command.address) for _ in range(12)}
        assert len(importers) == 1
        assert importers.isdisjoint({command.pid, *command.workers})
        visitors.open(90)
        assert set(visitors.by_worker()) == set(command.workers)
        assert command.text.count("Application startup complete") == 3, "each has its lifespan"
        visitors.close()
        assert command.stop() == 0
        assert not any(map(is_alive, importers)), "the fork server has ended"


def test_without_it_each_worker_imports_for_itself() -> None:
    with running() as command:
        assert {imported_in(command.address) for _ in range(8)} == set(command.workers)


@pytest.mark.long
def test_a_killed_worker_is_forked_again_and_a_restart_loads_anew() -> None:
    with running("--preload") as command:
        first = imported_in(command.address)
        os.kill(command.workers[0], signal.SIGKILL)
        command.wait_for("was killed by SIGKILL")
        command.wait_for("is ready", count=3)
        assert imported_in(command.address) == first
        command.signal(signal.SIGHUP)
        command.wait_for("Restart complete")
        wait_until(lambda: imported_in(command.address) != first, "loaded anew")
        wait_until(lambda: not is_alive(first), "the old fork server has ended")


@pytest.mark.long
def test_the_death_of_the_fork_server_is_survived() -> None:
    with running("--preload") as command:
        first = imported_in(command.address)
        os.kill(first, signal.SIGKILL)
        command.wait_for("The fork server has died")
        assert pid_at(command.address) in command.workers
        victim = command.workers[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not is_alive(victim), "it is dead")
        command.wait_for("is ready", count=3)
        assert pid_at(command.address) in command.workers
        assert command.stop() == 0


@pytest.mark.long
def test_a_failed_load_at_a_restart_keeps_the_old_workers(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    with running("--preload", environ={"TEST_FAIL": str(fail)}) as command:
        old = command.workers
        fail.write_text("import")
        command.signal(signal.SIGHUP)
        command.wait_for("Restart failed, the old workers go on")
        assert command.workers == old
        assert pid_at(command.address) in old


_PROGRAM = """
import os
import asgi_poller

where = os.getpid()

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = b"%d %d" % (os.getpid(), where)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    else:
        raise ValueError("http only")

asgi_poller.run(app, workers=2, preload=True, port=0)
"""


def test_an_application_that_is_an_object_is_forked_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(_PROGRAM)
    program = [sys.executable, str(tmp_path / "program.py")]
    with started(program=program, port=None) as command:
        command.wait_ready(2)
        assert imported_in(command.address) == command.pid
        assert pid_at(command.address) != command.pid
        command.signal(signal.SIGHUP)
        command.wait_for("Restart complete")
        assert command.stop() == 0
        assert not command.workers


def test_an_application_that_is_an_object_needs_preload() -> None:
    program = "import asgi_poller\nasgi_poller.run(print, workers=2)"
    run = run_python("-c", program)
    assert run.stderr.strip().endswith("(or preload=True)")


def test_threads_of_the_application_are_reported(tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\n"
        "from tests.supervisor.app import app as app\n"
        "event = threading.Event()\n"
        "threading.Thread(target=event.wait, name='exporter', daemon=True).start()\n"
    )
    with running("--preload", app="threaded:app", cwd=tmp_path) as command:
        command.wait_for("has started threads while it was imported .*exporter")
