"""A child that the application forks is not the server: it ends when it is told to, and holds
nothing of the server's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.command import Command, get, started
from tests.support.gunicorn import gunicorn
from tests.support.processes import free_port, is_alive
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.supervisor.forking:app"
FORMS = {
    "one process": ((), 1),
    "loops": (("--loops", "2"), 1),
    "workers": (("--workers", "2"), 2),
    "preload": (("--workers", "2", "--preload"), 2),
    "reload": (("--reload",), 1),
}


@contextlib.contextmanager
def served(form: str) -> Iterator[tuple[tuple[str, int], Command]]:
    options, workers = FORMS[form]
    with started(*options, app=APP) as command:
        command.wait_ready(workers)
        yield command.address, command


def ask(address: tuple[str, int], path: str) -> Any:
    return json.loads(get(address, path))


def held(address: tuple[str, int], stack: contextlib.ExitStack) -> list[ClientConnection]:
    """WebSockets on every process and loop."""
    url = f"ws://{address[0]}:{address[1]}/"
    channels = [stack.enter_context(connect(url, close_timeout=1)) for _ in range(6)]
    for channel in channels:
        assert channel.recv(DEADLINE_S)
    return channels


def are_open(channels: list[ClientConnection]) -> bool:
    for channel in channels:
        assert channel.ping().wait(DEADLINE_S)
    return all(channel.close_code is None for channel in channels)


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_children_end_when_they_are_told_to_and_the_server_does_not(form: str) -> None:
    with served(form) as (address, command), contextlib.ExitStack() as stack:
        channels = held(address, stack)
        assert ask(address, "/terminate") == [-signal.SIGTERM] * 5
        assert ask(address, "/pool") == [1, 2, 3]
        assert are_open(channels)
        assert command.process.poll() is None


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[pytest.mark.long] if form in ("loops", "reload") else [])
        for form in FORMS
    ],
)
def test_a_child_that_stays_holds_neither_connection_nor_port(form: str) -> None:
    with served(form) as (address, command):
        # get() reads to the end of the connection, which the child has had a copy of
        children = [ask(address, "/leave") for _ in range(3)]
        assert all(is_alive(child) for child in children)
        os.kill(command.pid, signal.SIGTERM)
        command.wait(has_heir=True)
        assert "killing" not in command.text
        with socket.create_server(address):
            pass
        # daemons: multiprocessing ends them with their parent
        wait_until(lambda: not any(is_alive(child) for child in children), "no orphan is left")


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process has open, by the system's names for them."""
    folder = f"/proc/{pid}/fd"
    names = set()
    for number in os.listdir(folder):
        with contextlib.suppress(OSError):  # closed meanwhile
            names.add(os.readlink(f"{folder}/{number}"))
    return {name for name in names if name.startswith("socket:")}


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("options", [(), ("--reuse-port",)])
def test_a_child_under_gunicorn_shares_no_socket_with_arbiter_or_workers(
    options: tuple[str, ...],
) -> None:
    """Neither a listener nor the queue between the workers, which would outlive all of them."""
    port = free_port()  # with --reuse-port the arbiter does not know where its workers are
    address = "127.0.0.1", port
    with gunicorn("-w", "2", "-b", f"127.0.0.1:{port}", *options, app=APP, ready=2) as server:
        arbiter = sockets_of(server.process.pid)
        assert len(arbiter) >= 2, "the queue's ends"
        child = ask(address, "/leave")
        assert not arbiter & sockets_of(child)


def test_under_gunicorn() -> None:
    with gunicorn("-w", "1", app=APP) as server:
        host, _, port = server.address.rpartition(":")
        address = host, int(port)
        with contextlib.ExitStack() as stack:
            channels = held(address, stack)
            assert ask(address, "/terminate") == [-signal.SIGTERM] * 5
            assert ask(address, "/pool") == [1, 2, 3]
            child = ask(address, "/leave")
            assert are_open(channels)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(DEADLINE_S)
        wait_until(lambda: not is_alive(child), "no orphan is left")
        with socket.create_server(address):
            pass
