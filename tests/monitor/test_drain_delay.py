"""--drain-delay: after the signal to stop everybody is served on, and /readyz says that it ends."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asgi_poller import Config, Server
from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer
from tests.support.client import Client, get, handshake
from tests.support.command import Command, pid_at, started
from tests.support.frames import close
from tests.support.processes import NotifySocket
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S

DELAY = ("--metrics", "0", "--drain-delay")
FORMS = {"one process": (), "loops": ("--loops", "2"), "workers": ("--workers", "2")}
SHOWN = r"Metrics and health on http://127.0.0.1:(\d+)"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers."""
    if scope["type"] == "http":
        await answer(send, b"ok")


def monitor_of(command: Command) -> Served:
    return Served(int(command.wait_for(SHOWN)[1]))


def status(port: Served, path: str) -> int:
    with port.connect() as client:
        client.sendall(get(path, "Connection: close", host="localhost"))
        return client.response().status


@pytest.mark.parametrize("form", FORMS)
def test_everybody_is_served_on_meanwhile(form: str) -> None:
    with started(*FORMS[form], *DELAY, "60") as command:
        command.wait_ready(2 if form == "workers" else 1)
        port, served = monitor_of(command), Served(command.address[1])
        assert (status(port, "/healthz"), status(port, "/readyz")) == (200, 200)
        with served.websocket() as old, served.connect() as kept:
            old.frame()
            command.signal(signal.SIGTERM)
            command.wait_for("Serving on for 60 s")
            assert (status(port, "/healthz"), status(port, "/readyz")) == (200, 503)
            for _ in range(4):
                assert pid_at(command.address)
                with served.websocket() as new:
                    new.frame()
                    served.echo(new)
            served.echo(old)
            for _ in range(2):
                kept.sendall(get("/pid"))
                response = kept.response()
                assert response.status == 200
                assert response.header("connection") != "close", "keep-alive goes on"
            command.signal(signal.SIGTERM)  # enough
            assert old.frame().close_code == 1012
            old.close()
            kept.close()
        code = command.wait()
        assert code == (0 if form == "workers" else -signal.SIGTERM)
        assert not command.said("killing|cut off")


@pytest.mark.parametrize("form", FORMS)
def test_afterwards_websockets_end_one_after_the_other(form: str) -> None:
    spread_s, count = 2.0, 8
    options = (*DELAY, "0.2", "--drain-spread", str(spread_s))
    with started(*FORMS[form], *options) as command, contextlib.ExitStack() as opened:
        command.wait_ready(2 if form == "workers" else 1)
        served = Served(command.address[1])
        clients = [opened.enter_context(served.websocket()) for _ in range(count)]
        for client in clients:
            client.frame()
        command.signal(signal.SIGTERM)
        command.wait_for("Shutting down")
        ends: list[float] = []

        def follow(client: Client) -> None:
            assert client.frame().close_code == 1012
            ends.append(time.monotonic())
            client.sendall(close(1012))

        with ThreadPoolExecutor(count) as threads:
            list(threads.map(follow, clients))
        # loops and workers have a part of them each, and end those one after the other
        assert max(ends) - min(ends) > spread_s / 4
        command.wait()
        assert command.said(f"Drained in .*: {count} WebSockets closed with a handshake")


def test_without_the_delay_they_end_at_once() -> None:
    with started("--workers", "2", "--drain-spread", "600") as command:
        command.wait_ready(2)
        with Served(command.address[1]).websocket() as client:
            client.frame()
            command.signal(signal.SIGTERM)
            assert client.frame().close_code == 1012


def test_who_skips_the_delay_skips_the_spread() -> None:
    with started(*DELAY, "600", "--drain-spread", "600") as command:
        command.wait_ready()
        served = Served(command.address[1])
        with served.websocket() as one, served.websocket() as two:
            command.signal(signal.SIGTERM)
            command.wait_for("Serving on")
            command.signal(signal.SIGTERM)
            for client in (one, two):
                client.frame()
                assert client.frame().close_code == 1012
                client.sendall(close(1012))
        command.wait()


def test_it_ends_by_itself() -> None:
    with started(*DELAY, "0.3") as command:
        command.wait_ready()
        begin = time.monotonic()
        command.stop()
        assert time.monotonic() - begin >= 0.3
        assert [m[0] for m in command.said("Serving on|Shutting down")] == [
            "Serving on",
            "Shutting down",
        ]


@pytest.mark.parametrize("form", ["one process", "workers"])
def test_a_third_signal_is_what_a_second_was(form: str) -> None:
    with started(*FORMS[form], *DELAY, "60") as command:
        command.wait_ready(2 if form == "workers" else 1)
        with Served(command.address[1]).connect() as client:
            client.sendall(get("/slow?60"))
            command.signal(signal.SIGTERM)
            command.wait_for("Serving on")
            command.signal(signal.SIGTERM)
            command.wait_for("Draining: 1 ")
            command.signal(signal.SIGTERM)
            command.wait()


def test_sigquit_wants_an_end() -> None:
    with started("--workers", "2", *DELAY, "60") as command:
        command.wait_ready(2)
        command.signal(signal.SIGQUIT)
        assert command.wait() == 0


def test_a_start_that_is_broken_off_is_not_delayed(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    fail.write_text("hang")
    with started(*DELAY, "60", environ={"TEST_FAIL": str(fail)}) as command:
        port = monitor_of(command)
        command.wait_for("Waiting for application startup")
        assert (status(port, "/healthz"), status(port, "/readyz")) == (200, 503)
        command.stop()
        assert not command.said("Serving on")


def test_a_program_that_embeds_the_server_says_should_exit() -> None:
    server = Server(Config(application, port=0, lifespan="off", drain_delay=60, access_log=False))
    server.start(DEADLINE_S)
    address = server.listeners[0].socket.getsockname()
    server.should_exit = True
    assert Served(address[1]).ask(get("/", "Connection: close")).startswith(b"HTTP/1.1 200 ")
    server.force_exit = True
    server.stop(DEADLINE_S)
    assert server._thread is not None
    assert not server._thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
@pytest.mark.parametrize("form", ["one process", "workers"])
def test_the_service_manager_is_told_at_once_and_for_how_long(form: str, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    grace = ("--timeout-graceful-shutdown", "7", "--drain-spread", "5")
    with NotifySocket(str(path)) as manager:
        environ = {"NOTIFY_SOCKET": str(path)}
        with started(*FORMS[form], *DELAY, "60", *grace, environ=environ) as command:
            while "READY=1" not in manager.heard():
                pass
            command.signal(signal.SIGTERM)
            assert manager.heard() == ["STOPPING=1"]
            (line,) = manager.heard()
            told = re.fullmatch(r"EXTEND_TIMEOUT_USEC=(\d+)", line)
            assert told is not None
            assert int(told[1]) >= (60 + 7 + 5) * 1_000_000
            command.signal(signal.SIGTERM)
            command.wait()


def test_handshakes_too_are_answered_until_the_drain_begins() -> None:
    with started(*DELAY, "60") as command:
        command.wait_ready()
        served = Served(command.address[1])
        command.signal(signal.SIGTERM)
        command.wait_for("Serving on")
        with served.connect() as client:
            client.sendall(handshake())
            assert client.response(has_body=False).status == 101
            assert client.frame().payload
            command.signal(signal.SIGTERM)
            command.wait_for("Shutting down")
            assert client.frame().close_code == 1012
