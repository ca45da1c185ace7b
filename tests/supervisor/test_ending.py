"""Which exceptions and signals end a server, and which must not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.support.command import Command, get, started
from tests.support.gunicorn import gunicorn
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.supervisor.ending:app"
RAISING = ["/exit/0", "/exit/1", "/exit/3", "/interrupt", "/call"]
#: Out of a task of the application's own; only who runs the loop can keep it going then.
IN_TASKS = ["/tasks/exit/3", "/tasks/interrupt"]
#: Far beyond all that these tests wait for: who waits for it, waits in vain.
PATIENCE = ("--timeout-graceful-shutdown", "600")


def command(*options: str, app: str = APP) -> contextlib.AbstractContextManager[Command]:
    return started(*options, app=app)


def request(address: tuple[str, int], path: str) -> bytes:
    """All that is answered."""
    with socket.create_connection(address, DEADLINE_S) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def attack(address: tuple[str, int], paths: list[str]) -> None:
    """Every exception that ends a program, beside a WebSocket that is somebody else's."""
    with connect(f"ws://{address[0]}:{address[1]}/", close_timeout=1) as channel:
        for path in paths * 2:
            assert request(address, path).startswith(b"HTTP/1.1 500 ")
        assert get(address, "/") == "ok"
        assert channel.ping().wait(DEADLINE_S)
        assert channel.close_code is None


@pytest.mark.parametrize(
    "options", [(), ("--loop", "asyncio"), ("--loops", "2"), ("--workers", "1", "--reload")]
)
def test_no_exception_of_a_handler_ends_the_server(options: tuple[str, ...]) -> None:
    with command(*options) as run:
        run.wait_ready()
        attack(run.address, RAISING + IN_TASKS)
        assert run.process.poll() is None


# A program with a loop of its own, in which the server is one task.
EMBEDDED = """
import asyncio, sys
from asgi_poller import Config, Server
from asgi_poller.loops.loop_factory import loop_factory
from tests.supervisor.ending import app

async def main():
    await Server(Config(app, port=0)).serve()
    print("the program goes on", file=sys.stderr)

with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
    runner.run(main())
"""


def test_no_exception_of_a_handler_ends_somebody_else_s_loop(loop: str) -> None:
    run = Command(program=[sys.executable, "-c", EMBEDDED, loop])
    with contextlib.closing(run):
        run.wait_ready()
        attack(run.address, RAISING)
        run.wait_for("SystemExit: ", count=8)
        os.kill(run.pid, signal.SIGTERM)
        run.wait()
        assert "Finished server process" in run.text


def test_no_exception_of_a_handler_ends_gunicorn() -> None:
    with gunicorn("-w", "1", app=APP) as server:
        host, _, port = server.address.rpartition(":")
        attack((host, int(port)), RAISING + IN_TASKS)
        assert len(server.said("Booting worker")) == 1
        assert server.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_hangs_is_ended_by_one_signal(number: signal.Signals) -> None:
    with command(app="tests.supervisor.ending:hangs") as run:
        run.wait_for("waiting for the database")
        run.signal(number)
        run.wait()
        assert "Application startup complete" not in run.text
        assert "Traceback" not in run.text


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("options", [("--workers", "3"), ("--workers", "2", "--preload")])
def test_ctrl_c_while_processes_start_is_no_traceback(options: tuple[str, ...]) -> None:
    """The terminal sends it to all of them."""
    with command(*options) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        wait_until(lambda: bool(children.read_text()), "a child has begun")
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait() == 0
        assert "Traceback" not in run.text
        assert "KeyboardInterrupt" not in run.text


def test_a_loop_that_is_blocked_is_ended_by_the_second_signal() -> None:
    with command(*PATIENCE) as run:
        run.wait_ready()
        with socket.create_connection(run.address, DEADLINE_S) as client:
            client.sendall(b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n")
            run.wait_for("blocking")
            run.signal(signal.SIGINT)
            run.signal(signal.SIGTERM)
            assert run.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert "the process ends without it" in run.text
        assert "Application shutdown complete" not in run.text


def test_it_is_said_what_a_stop_waits_for() -> None:
    with command("--timeout-graceful-shutdown", "3") as run:
        run.wait_ready()
        with socket.create_connection(run.address, DEADLINE_S) as client:
            client.sendall(b"GET /forever HTTP/1.1\r\nhost: a\r\n\r\n")
            run.wait_for("for ever")
            run.signal(signal.SIGTERM)
            run.wait_for(r"Draining: 1 request left, 3 s until it is cut off\. \(CTRL\+C")


@pytest.mark.long
@pytest.mark.parametrize("form", ["one", "workers", "reload", "gunicorn"])
def test_open_event_streams_end_when_the_server_is_about_to(form: str) -> None:
    pytest.importorskip("sse_starlette")
    events = b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n"
    if form == "gunicorn":
        with gunicorn("-w", "1", "--graceful-timeout", "600", app=APP) as server:
            host, _, port = server.address.rpartition(":")
            with socket.create_connection((host, int(port)), DEADLINE_S) as client:
                client.sendall(events)
                assert b"200 OK" in client.recv(4096)
                server.signal(signal.SIGTERM)
                server.process.wait(DEADLINE_S)
        return
    options = {"one": (), "workers": ("--workers", "2"), "reload": ("--reload",)}[form]
    with command(*PATIENCE, *options) as run:
        run.wait_for("running on")
        with socket.create_connection(run.address, DEADLINE_S) as client:
            client.sendall(events)
            assert b"200 OK" in client.recv(4096)
            run.signal(signal.SIGTERM)
            run.wait()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_shutdown_of_the_application_that_never_ends_is_cut_off(workers: str) -> None:
    options = ("--workers", workers, "--timeout-graceful-shutdown", "0.1")
    with command(*options, app="tests.supervisor.ending:stays") as run:
        run.wait_for("running on")
        run.wait_for("Application startup complete", count=int(workers))
        run.signal(signal.SIGTERM)
        run.wait()
        assert "The application did not shut down within 1.0 s." in run.text
