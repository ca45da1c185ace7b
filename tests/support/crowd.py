"""Many WebSocket clients in one thread, opened at once, and the worker that has each of them."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.support.waiting import DEADLINE_S

_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TEXT, _CLOSE = 0x81, 0x88  # FIN and opcode, RFC 6455, 5.2


@dataclass(eq=False, slots=True)
class Client:
    """One WebSocket. `worker` is the process that greeted it, 0 before; `problem` why it failed,
    `code` the close code it got. Times are monotonic seconds.
    """

    sock: socket.socket
    worker: int = 0
    problem: str = ""
    code: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    received: bytes = b""
    is_sent: bool = False

    def read(self) -> bool:
        """Take what has come; whether the client has its greeting or has failed."""
        try:
            piece = self.sock.recv(4096)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._fail(error.strerror or "reset")
        if not piece:
            return self._fail("end" if not self.received else "end after " + self._line())
        self.received += piece
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 101 "):
            return self._fail(self._line())
        if len(rest) < 2 or len(rest) < 2 + rest[1]:
            return False
        if rest[0] == _TEXT:
            self.worker = int(rest[2 : 2 + rest[1]])
            self.received = rest[2 + rest[1] :]
        elif rest[0] == _CLOSE:
            # it was opened, and the server ended it at once: that is no failure
            self.code = int.from_bytes(rest[2:4], "big")
            self.worker = -1
        return True

    def read_close(self) -> bool:
        """After the greeting: whether a Close or the end has come."""
        try:
            piece = self.sock.recv(4096)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._fail(error.strerror or "reset")
        self.received += piece
        if len(self.received) >= 4 and self.received[0] == _CLOSE:
            self.code = int.from_bytes(self.received[2:4], "big")
            return True
        return self._fail("end") if not piece else False

    def _line(self) -> str:
        return self.received.split(b"\r\n")[0].decode()

    def _fail(self, problem: str) -> bool:
        self.problem = problem
        return True


class Crowd:
    """Clients of one address. Owned by one thread; `close` closes them all."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.clients: list[Client] = []

    def open(self, count: int) -> list[Client]:
        """Open so many more at once and wait until each has been greeted or has failed."""
        opened = [self.start() for _ in range(count)]
        self.settle(opened)
        return opened

    def start(self) -> Client:
        """Begin to connect."""
        sock = socket.socket()
        sock.setblocking(False)
        client = Client(sock)
        code = sock.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            client.problem = os.strerror(code)
        self.clients.append(client)
        return client

    def settle(self, clients: list[Client], deadline_s: float = DEADLINE_S) -> None:
        """Wait until each has been greeted or has failed."""
        deadline = time.monotonic() + deadline_s
        with selectors.DefaultSelector() as selector:
            for client in clients:
                if not (client.worker or client.problem):
                    event = selectors.EVENT_READ if client.is_sent else selectors.EVENT_WRITE
                    selector.register(client.sock, event, client)
            while selector.get_map():
                if time.monotonic() > deadline:
                    for key in list(selector.get_map().values()):
                        key.data.problem = "timeout"
                    return
                for key, events in selector.select(0.5):
                    self._serve(selector, key.data, events)

    def _serve(self, selector: selectors.BaseSelector, client: Client, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            try:
                client.sock.send(_REQUEST)
            except OSError as error:
                client.problem = error.strerror or "refused"
                selector.unregister(client.sock)
                return
            client.is_sent = True
            selector.modify(client.sock, selectors.EVENT_READ, client)
        elif client.read():
            selector.unregister(client.sock)

    def wait_closed(self, clients: list[Client]) -> list[Client]:
        """Wait until each has got a Close or its end, and close it; in the order of their ends."""
        closed: list[Client] = []
        deadline = time.monotonic() + DEADLINE_S
        with selectors.DefaultSelector() as selector:
            for client in clients:
                if not client.code:
                    selector.register(client.sock, selectors.EVENT_READ, client)
            while selector.get_map():
                assert time.monotonic() < deadline, f"{len(selector.get_map())} are still open"
                for key, _ in selector.select(0.5):
                    if key.data.read_close():
                        selector.unregister(key.fileobj)
                        key.data.sock.close()
                        key.data.ended = time.monotonic()
                        closed.append(key.data)
        return closed

    def wait_told(self, clients: list[Client]) -> None:
        """Wait until each has got a Close that tells it to come again (1012)."""
        self.wait_closed(clients)
        assert {client.code for client in clients} == {1012}

    def by_worker(self) -> Counter[int]:
        """How many of those that are open each worker has."""
        return Counter(c.worker for c in self.clients if c.worker > 0 and not c.problem)

    def problems(self) -> Counter[str]:
        """What went wrong, and how often."""
        return Counter(client.problem for client in self.clients if client.problem)

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()


def crowd(address: tuple[str, int]) -> contextlib.closing[Crowd]:
    """A crowd, closed afterwards."""
    return contextlib.closing(Crowd(address))


class SteadyVisitors(threading.Thread):
    """Opens WebSockets at a steady rate until it is stopped; each stays until the server ends it,
    or for a second. `crowd` has the outcome.
    """

    def __init__(self, address: tuple[str, int], rate: int) -> None:
        super().__init__(name="visitors", daemon=True)
        self.crowd = Crowd(address)
        self._interval_s = 1.0 / rate
        self._stop_asked = threading.Event()

    def run(self) -> None:
        due = time.monotonic()
        open_ones: list[Client] = []
        with selectors.DefaultSelector() as selector:
            while not (self._stop_asked.is_set() and not selector.get_map()):
                now = time.monotonic()
                while now >= due and not self._stop_asked.is_set():
                    due += self._interval_s
                    client = self.crowd.start()
                    if not client.problem:
                        selector.register(client.sock, selectors.EVENT_WRITE, client)
                for key, events in selector.select(max(0.0, min(0.02, due - now))):
                    self.crowd._serve(selector, key.data, events)
                    if key.data.worker or key.data.problem:
                        open_ones.append(key.data)
                while open_ones and open_ones[0].started < now - 1.0:
                    open_ones.pop(0).sock.close()
                self._give_up(selector, now)

    def _give_up(self, selector: selectors.BaseSelector, now: float) -> None:
        for key in list(selector.get_map().values()):
            if key.data.started < now - DEADLINE_S:
                key.data.problem = "timeout"
                selector.unregister(key.fileobj)

    def stop(self) -> None:
        """Start no more; wait for those under way."""
        self._stop_asked.set()
        self.join(2 * DEADLINE_S)
        assert not self.is_alive()
        self.crowd.close()
