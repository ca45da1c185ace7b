"""Mixed load on a server: every kind of client that there is, each at its own pace, for ever.

Clients are threads with sockets of their own. What an honest one may not see is a failure: a
wrong echo, a refusal, an end that nobody announced. While workers are killed or restarted,
`may_lose_connections` is set: then the end of a connection is no failure, but a refusal still is.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

from tests.support.client import Client, post
from tests.support.frames import BINARY, CLOSE, PING, PONG, TEXT, frame, text
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S

Address = tuple[str, int]


def is_loss(error: Exception) -> bool:
    """Whether this is what the end of a worker looks like to its clients. A killed worker takes its
    connections with it, in the middle of a frame or a head; but a listener that is there answers.
    """
    return isinstance(error, (OSError, EOFError, AssertionError)) and not isinstance(
        error, ConnectionRefusedError
    )


class Load:
    """Clients against `address`. `done` counts what they did, `failures` what should not be."""

    def __init__(self, address: Address) -> None:
        self._site = Served(address[1])
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.may_lose_connections = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin with every kind of client."""
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._request, 2),
            (self._echo, 4),
            (self._long_channel, 4),
            (self._broadcast, 4),
            (self._abort, 2),
            (self._slow_reader, 2),
            (self._slow_head, 1),
            (self._garbage, 1),
        ]
        for kind, count in kinds:
            for number in range(count):
                thread = threading.Thread(target=self._repeat, args=(kind, number), daemon=True)
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """End all clients."""
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE_S * 2)
            assert not thread.is_alive(), "a client hangs"

    def _repeat(self, kind: Callable[[], None], number: int) -> None:
        pause = random.Random(number)
        name = kind.__name__.strip("_")
        while not self._over.wait(pause.uniform(0.0, 0.05)):
            try:
                kind()
            except Exception as error:  # whatever it is: a client that dies is told at the end
                if self.may_lose_connections.is_set() and is_loss(error):
                    self._count(f"{name} (lost)")
                else:
                    with self._lock:
                        self.failures.append(f"{name}: {error!r}")
            else:
                self._count(name)

    def _count(self, name: str) -> None:
        with self._lock:
            self.done[name] += 1

    # Kinds of clients

    def _open(self, path: str = "/") -> Client:
        return self._site.websocket(path=path)

    def _request(self) -> None:
        with self._site.connect() as client:
            body = bytes(random.randrange(20_000))
            for _ in range(3):
                client.sendall(post(body))
                response = client.response()
                assert (response.status, response.body) == (200, b"%d" % len(body))

    def _echo(self) -> None:
        with self._open() as client:
            for _ in range(20):
                message = bytes(random.randrange(3000))
                client.sendall(frame(BINARY, message))
                assert client.frame()[1] == message
            client.sendall(frame(CLOSE, b"\x03\xe8"))
            assert client.frame()[:2] == (CLOSE, b"\x03\xe8")

    def _long_channel(self) -> None:
        with self._open() as client:
            until = time.monotonic() + random.uniform(1.0, 10.0)
            while time.monotonic() < until and not self._over.is_set():
                client.sendall(text("still here"))
                opcode, payload, *_ = client.frame()
                while opcode == PING:
                    client.sendall(frame(PONG, payload))
                    opcode, payload, *_ = client.frame()
                if opcode == CLOSE:  # told to go, in order: a restart
                    client.sendall(frame(CLOSE, payload))
                    return
                assert payload == b"still here"
                self._over.wait(0.1)

    def _broadcast(self) -> None:
        """One of an audience, of those who leave without a word too."""
        with self._open("/all") as client:
            for number in range(10):
                news = b"%d of %d" % (number, id(client))
                client.sendall(frame(TEXT, news))
                while client.frame()[1] != news:
                    pass  # another one's

    def _abort(self) -> None:
        client = self._open()
        client.sendall(text("never mind")[: random.randrange(1, 16)])
        client.reset()

    def _slow_reader(self) -> None:
        with self._open("/flood") as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(20):
                assert client.recv(4096)
                self._over.wait(0.05)

    def _slow_head(self) -> None:
        with self._site.connect() as client, contextlib.suppress(ConnectionError):
            for byte in b"GET / HTTP/1.1\r\nhost: a\r\nx: y":
                client.sendall(bytes([byte]))
                if self._over.wait(0.02):
                    break

    def _garbage(self) -> None:
        with self._site.connect() as client, contextlib.suppress(ConnectionError):
            client.sendall(random.randbytes(200) + b"\r\n\r\n")
            answer = client.recv(1000)
            assert not answer or answer.startswith(b"HTTP/1.1 400 "), answer
