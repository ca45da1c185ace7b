"""Two loops, one of them blocked by its application: no other client waits for it.

As workers, as loops of one process, and as workers of gunicorn, with shared listeners and without.
A block is a read from a FIFO that the test holds open for as long as it likes; so what is answered
meanwhile has not waited for it, and no wait may come near the time that the block has lasted.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

if sys.platform == "win32":
    pytest.skip("needs FIFOs and workers", allow_module_level=True)

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import live
from tests.support.client import handshake
from tests.support.command import running
from tests.support.frames import PING, frame
from tests.support.gunicorn import gunicorn
from tests.support.processes import free_port, is_alive
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.test_blocked:app"
CHANNELS, CLIENTS = 40, 8
BLOCK_S = 3.0  # at least
FRACTION = 1 / 3  # of the block that no client waits: the promise, and what a busy machine adds


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Says which loop it runs on; GET /block?FIFO blocks that loop until the FIFO is written to."""
    place = f"{os.getpid()}/{threading.get_ident()}".encode()
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"place", place)]})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"place", place)]})
        if scope["path"] == "/block":
            await send({"type": "http.response.body", "body": b"now", "more_body": True})
            Path(scope["query_string"].decode()).read_bytes()
        await send({"type": "http.response.body", "body": f"{os.getpid()} done".encode()})


class Place(NamedTuple):
    """A loop: its process and its thread."""

    pid: int
    thread: int


def kill(place: Place) -> None:
    """Kill that worker, and wait until it has gone with all its sockets."""
    os.kill(place.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(place.pid), "it has gone")


class Client:
    """A connection of its own that asks and is answered, or not yet."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.wait_s = 0.0  # for the answer's head, once it is here
        self._asked_at = time.monotonic()
        self.socket = socket.create_connection(address, DEADLINE_S)
        self.socket.sendall(request)
        self.answer = b""

    @property
    def is_open(self) -> bool:
        """Of a WebSocket: whether the server answers a ping."""
        try:
            self.socket.sendall(frame(PING, b"still there?"))
            return b"still there?" in self.socket.recv(65536)
        except OSError:
            return False  # it was reset

    def await_end(self) -> None:
        """Wait until the server has hung up, in whatever way."""
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(65536):
                pass

    @property
    def place(self) -> Place | None:
        """Where it was answered; None: not yet."""
        head, end, _ = self.answer.partition(b"\r\n\r\n")
        if not end:
            return None
        value = next(line[7:] for line in head.split(b"\r\n") if line.startswith(b"place: "))
        return Place(*map(int, value.split(b"/")))

    def read(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the server hung up after {self.answer!r}"
        is_first = self.place is None
        self.answer += data
        if is_first and self.place is not None:
            self.wait_s = time.monotonic() - self._asked_at


def get(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode()


def await_answers(clients: list[Client]) -> list[Place]:
    """Wait until all are answered; where."""
    deadline = time.monotonic() + DEADLINE_S
    with selectors.DefaultSelector() as selector:
        for client in clients:
            if client.place is not None:
                continue
            selector.register(client.socket, selectors.EVENT_READ, client)
        while left := [client for client in clients if client.place is None]:
            assert time.monotonic() < deadline, f"{len(left)} of {len(clients)} have no answer"
            for key, _ in selector.select(1.0):
                key.data.read()
                if key.data.place is not None:  # it may be idle, and end, before the others come
                    selector.unregister(key.fileobj)
    places = [client.place for client in clients]
    return [place for place in places if place is not None]


class Blockable:
    """A running server, the connections to it, and the blocks in it. All end with it."""

    def __init__(self, address: tuple[str, int], folder: Path) -> None:
        self.address = address
        self._folder = folder
        self._ends = contextlib.ExitStack()
        self._blocks: list[int] = []

    def ask(self, *requests: bytes) -> list[Client]:
        clients = [Client(self.address, request) for request in requests]
        for client in clients:
            self._ends.callback(client.socket.close)
        return clients

    def block(self) -> tuple[Client, Callable[[], None]]:
        """Block a loop: who did it, and what releases it."""
        fifo = self._folder / f"block-{len(self._blocks)}"
        os.mkfifo(fifo)
        self._blocks.append(0)
        (client,) = self.ask(get(f"/block?{fifo}"))
        writer: list[int] = []

        def is_blocked() -> bool:
            with contextlib.suppress(OSError):  # ENXIO, fifo(7): nobody reads it yet
                writer.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            return bool(writer)

        wait_until(is_blocked, "the loop is blocked")
        release = contextlib.ExitStack()
        release.callback(os.close, writer[0])
        self._ends.enter_context(release)
        await_answers([client])
        return client, release.close

    def close(self) -> None:
        self._ends.close()


@pytest.fixture(
    params=[
        "workers",
        "loops",
        "gunicorn",
        pytest.param("gunicorn --reuse-port", marks=pytest.mark.long),
    ]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blockable]:
    """A server with two loops, in each of the forms."""
    with contextlib.ExitStack() as stack:
        if request.param == "gunicorn":
            server = stack.enter_context(gunicorn("-w", "2", app=APP, ready=2))
            host, _, port = server.address.rpartition(":")
            address = host, int(port)
        elif request.param == "gunicorn --reuse-port":
            address = "127.0.0.1", free_port()  # workers bind by themselves
            more = ["-b", f"127.0.0.1:{address[1]}", "--reuse-port"]
            stack.enter_context(gunicorn("-w", "2", *more, app=APP, ready=2))
        else:
            options = ["--loops", "2"] if request.param == "loops" else []
            workers = 1 if request.param == "loops" else 2
            command = stack.enter_context(running(*options, workers=workers, app=APP))
            address = command.address
        made = Blockable(address, tmp_path)
        stack.callback(made.close)
        yield made


def test_nobody_waits_for_a_blocked_loop(site: Blockable) -> None:
    undisturbed = site.ask(*[get()] * (CHANNELS + CLIENTS))
    await_answers(undisturbed)
    machine_s = max(client.wait_s for client in undisturbed)  # so slow is it without a block
    for client in undisturbed:
        client.socket.close()
    blocker, release = site.block()
    start = time.monotonic()
    clients = site.ask(*[handshake()] * CHANNELS)
    await_answers(clients)
    while time.monotonic() - start < BLOCK_S:
        asked = site.ask(*[get()] * CLIENTS)
        await_answers(asked)
        clients += asked
    assert blocker.place not in {client.place for client in clients}
    assert not blocker.answer.endswith(b"done\r\n0\r\n\r\n"), "it is still blocked"
    blocked_s = time.monotonic() - start
    longest_s = max(client.wait_s for client in clients)
    assert longest_s < max(blocked_s * FRACTION, 4 * machine_s)
    release()
    while not blocker.answer.endswith(b"done\r\n0\r\n\r\n"):
        blocker.read()
    # it has the least connections, and gets its share again
    wait_until(lambda: blocker.place in await_answers(site.ask(get())), "it takes part again")


def test_when_all_are_blocked_everything_is_accepted_and_served_by_who_is_back_first(
    site: Blockable,
) -> None:
    first, release = site.block()
    second, _ = site.block()
    assert first.place != second.place
    waiting = site.ask(*[handshake()] * CHANNELS, *[get()] * CLIENTS)
    release()
    assert set(await_answers(waiting)) == {first.place}


@pytest.mark.long
@pytest.mark.parametrize("site", ["gunicorn", "gunicorn --reuse-port"], indirect=True)
def test_a_killed_worker_takes_its_own_connections_with_it_and_no_others(site: Blockable) -> None:
    """The blocked one, which has passed on what it was given; then the one that took that."""
    blocker, _ = site.block()
    assert blocker.place is not None
    passed_on = site.ask(*[handshake()] * CHANNELS)
    takers = set(await_answers(passed_on))
    assert len(takers) == 1
    kill(blocker.place)
    blocker.await_end()
    assert all(client.is_open for client in passed_on)

    def successor() -> bool:
        return not takers.issuperset(await_answers(site.ask(get())))

    wait_until(successor, "there is another worker")
    blocker, release = site.block()
    assert blocker.place is not None
    channels = site.ask(*[handshake()] * CHANNELS)
    (taker,) = set(await_answers(channels))
    kill(taker)
    for client in channels:
        client.await_end()
    late = site.ask(*[handshake()] * CHANNELS, *[get()] * CLIENTS)
    assert not {blocker.place, taker} & set(await_answers(late)), "its successor has them"
    release()
    while not blocker.answer.endswith(b"done\r\n0\r\n\r\n"):
        blocker.read()
