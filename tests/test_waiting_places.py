"""A thousand connections in each place where an accepted one waits (docs/design.md), at shutdown:
each is served, answered or closed, no client hangs, and no descriptor is left.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer
from tests.support.client import get
from tests.support.command import Command, started
from tests.support.gunicorn import gunicorn
from tests.support.processes import open_descriptors
from tests.support.server import serving
from tests.support.tls import write_pair
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp"),
    pytest.mark.long,
]

COUNT = 1000
APP = f"{__name__}:app"
SERVED, ANSWERED, CLOSED = "served", "answered", "closed"
_LISTENING = "0A"  # in /proc/net/tcp


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """/block keeps the loop, and a start waits, until the gate is open: until that file exists."""
    gate = Path(os.environ.get("GATE", ""))
    if scope["type"] == "lifespan":
        await receive()
        if os.path.exists(f"{gate}.shut"):
            print("blocked", file=sys.stderr, flush=True)
            wait_until(gate.exists, "the gate opens")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/block":
        print("blocked", file=sys.stderr, flush=True)
        wait_until(gate.exists, "the gate opens")
    await answer(send, b"done")


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """What a process opens once is open before descriptors are counted."""
    with serving(app):
        pass


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gate"
    monkeypatch.setenv("GATE", str(path))
    return path


class Clients:
    """Plain sockets that have sent `first`, and what becomes of them."""

    def __init__(self, port: int, first: bytes, count: int = COUNT) -> None:
        self.port = port
        self.sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        self.send(first)

    def send(self, data: bytes) -> None:
        for each in self.sockets:
            with contextlib.suppress(ConnectionError):
                each.sendall(data)

    def wait_accepted(self) -> None:
        """Until the kernel's queue is empty."""
        wait_until(lambda: unaccepted(self.port) == 0, "all are accepted")

    def ends(self) -> Counter[str]:
        """How each has ended; fails if one does not end."""
        ends: Counter[str] = Counter()
        heard = dict.fromkeys(self.sockets, b"")
        deadline = time.monotonic() + DEADLINE_S
        with selectors.DefaultSelector() as selector:
            for each in self.sockets:
                each.setblocking(False)
                selector.register(each, selectors.EVENT_READ, each)
            while selector.get_map():
                assert time.monotonic() < deadline, f"{len(selector.get_map())} clients hang"
                for key, _ in selector.select(0.5):
                    each = key.data
                    try:
                        piece = each.recv(4096)
                    except ConnectionError:
                        piece = b""
                    heard[each] += piece
                    if not piece:
                        selector.unregister(each)
                        each.close()
                        ends[_kind(heard[each])] += 1
        return ends


def _kind(heard: bytes) -> str:
    return SERVED if heard.startswith(b"HTTP/1.1 200 ") else ANSWERED if heard else CLOSED


def unaccepted(port: int) -> int:
    """Connections in the queue of the listener on `port`."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}" and fields[3] == _LISTENING:
            return int(fields[4].partition(":")[2], 16)
    return 0


@contextlib.contextmanager
def command(*options: str, limit: int = 20000) -> Iterator[Command]:
    """The command, with so many descriptors."""
    words = ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    words += [sys.executable, "-m", "asgi_poller", APP, "--port", "0"]
    with started(*options, program=words, port=None) as made:
        made.wait_ready()
        yield made


def block(process: Command, loops: int) -> list[socket.socket]:
    """Block each of so many loops: the least loaded gets the next."""
    blocking = []
    for number in range(loops):
        blocking.append(socket.create_connection(process.address))
        blocking[-1].sendall(get("/block"))
        process.wait_for("blocked", count=number + 1)
    return blocking


def test_the_kernels_queue() -> None:
    """Nobody has accepted them when the signal comes."""
    with command() as process:
        process.signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # it has stopped
        clients = Clients(process.address[1], get())
        assert unaccepted(clients.port) == COUNT
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGCONT)
        assert clients.ends().total() == COUNT
        assert process.wait() == -signal.SIGTERM


def test_the_queue_of_a_loop_in_this_process(gate: Path) -> None:
    with command() as process:
        blocking = block(process, 1)
        clients = Clients(process.address[1], get())
        clients.wait_accepted()
        process.signal(signal.SIGTERM)
        gate.touch()
        assert clients.ends() == {SERVED: COUNT}
        assert process.wait() == -signal.SIGTERM
        blocking[0].close()


@pytest.mark.parametrize("handshake", ["--direct-handshake", "--no-direct-handshake"])
def test_on_the_way_to_workers(gate: Path, handshake: str) -> None:
    with command("--workers", "2", handshake) as process:
        blocking = block(process, 2)
        clients = Clients(process.address[1], get())
        clients.wait_accepted()
        process.signal(signal.SIGTERM)
        process.wait_for("Shutting down")
        gate.touch()
        assert clients.ends() == {SERVED: COUNT}
        assert process.wait() == 0
        for each in blocking:
            each.close()


def test_the_overflow_queue_of_a_poller(gate: Path) -> None:
    """The supervisor has descriptors for 2048 on their way; the others wait in a socket's queue."""
    with command("--workers", "2", limit=4096) as process:
        blocking = block(process, 2)
        clients = Clients(process.address[1], get(), 2048 + COUNT)
        clients.wait_accepted()
        process.signal(signal.SIGTERM)
        process.wait_for("Shutting down")
        gate.touch()
        ends = clients.ends()
        assert ends.total() == 2048 + COUNT
        assert ends[SERVED] >= 2000, ends
        assert process.wait() == 0
        for each in blocking:
            each.close()


def test_connections_of_workers_that_died(gate: Path) -> None:
    """They wait for another worker, and the only ones there are start for ever."""
    with command("--workers", "2") as process:
        blocking = block(process, 2)
        clients = Clients(process.address[1], get())
        clients.wait_accepted()
        Path(f"{gate}.shut").touch()
        for pid in process.workers:
            os.kill(pid, signal.SIGKILL)
        process.wait_for("blocked", count=4)
        process.signal(signal.SIGTERM)
        assert clients.ends() == {ANSWERED: COUNT}
        gate.touch()
        assert process.wait() == 0
        for each in blocking:
            each.close()


def test_passed_on_to_another_process_under_gunicorn(gate: Path) -> None:
    with gunicorn("-w", "2", app=APP, ready=2) as server:
        port = int(server.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as blocking:
            blocking.sendall(get("/block"))
            server.wait_for("blocked")
            clients = Clients(port, get())
            server.signal(signal.SIGTERM)
            clients.wait_accepted()
            gate.touch()
            assert clients.ends().total() == COUNT
            assert server.wait() == 0


def test_heads_that_pollers_read() -> None:
    before = open_descriptors()
    with serving(app, direct_handshake=True) as site:
        clients = Clients(site.port, get()[:20])
        clients.wait_accepted()
        site.server.should_exit = True
        clients.send(get()[20:])
        ends = clients.ends()
        assert ends.total() == COUNT
        assert ends[SERVED] + ends[CLOSED] == COUNT, ends
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("options", "first", "wanted"),
    [
        ({"limit_accept_rate": 1.0}, get(), {SERVED: 1, CLOSED: COUNT - 1}),
        ({"limit_connections": 1}, b"", {CLOSED: 1, ANSWERED: COUNT - 1}),
        ({"limit_connections": 1, "direct_handshake": True}, b"", {CLOSED: 1, ANSWERED: COUNT - 1}),
        ({"direct_handshake": True, "allow_hosts": ("a",)}, get(), {ANSWERED: COUNT}),
        ({"proxy_protocol": True}, b"PROXY", {CLOSED: COUNT}),
        ({"proxy_protocol": True, "direct_handshake": True}, b"PROXY", {CLOSED: COUNT}),
        ({"ssl": True}, b"", {CLOSED: COUNT}),
        ({"ssl": True}, b"\x16\x03", {CLOSED: COUNT}),
        ({}, b"", {CLOSED: COUNT}),
    ],
    ids=repr,
)
def test_what_waits_in_one_process(
    options: dict[str, Any], first: bytes, wanted: dict[str, int], tmp_path: Path
) -> None:
    """Held back by the rate; refused, and not closed yet; a PROXY header or TLS to come; silent."""
    if options.pop("ssl", False):
        pair = write_pair(tmp_path, "server", trustme.CA().issue_cert("localhost"))
        options |= {"ssl_certfile": str(pair.certificate), "ssl_keyfile": str(pair.key)}
    before = open_descriptors()
    with serving(app, **options) as site:
        clients = Clients(site.port, first)
        clients.wait_accepted()
        site.server.should_exit = True
        ends = clients.ends()
        assert ends == wanted
    assert open_descriptors() == before
