"""Hundreds of slow peers beside honest clients, and how long the honest ones wait.

$ATTACK_PEERS says how many of each kind there are; it is 500 and 2,000 in the long forms.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event

from tests.support.client import handshake, read_exactly, read_head
from tests.support.frames import BINARY, frame, text
from tests.support.waiting import DEADLINE_S

PEERS = int(os.environ.get("ATTACK_PEERS", "200"))
HONEST = 20
DROP_S = 0.5  # from one byte of a slow peer to its next
SLICES = 20  # not all at once: what a crowd costs is spread over that time, as its members are
Address = tuple[str, int]

# What each kind says at once, and then byte by byte for as long as it may.
HEAD = b"GET / HTTP/1.1\r\nhost: a\r\nx: ", b"a"
BODY = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n", b"a"
CHUNKS = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"
SILENT = b"", b""
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00"
HALF_FRAME = handshake() + frame(BINARY, bytes(60000))[:100], b"a"
FRAGMENTS = handshake() + frame(BINARY, b"a", fin=False), frame(0, b"a", fin=False)
PROXY = b"PROXY TCP4 ", b"1"
Kind = tuple[bytes, bytes]


class Crowd:
    """Slow peers; `drip` keeps them going. `ended` counts those that the server got rid of."""

    def __init__(self, address: Address, kind: Kind, count: int) -> None:
        self.ended = 0
        self.received = b""  # by the last that got something
        self._drop = kind[1]
        self._peers: list[set[socket.socket]] = [set() for _ in range(SLICES)]
        for number in range(count):
            peer = socket.create_connection(address, DEADLINE_S)
            peer.sendall(kind[0])
            peer.setblocking(False)
            self._peers[number % SLICES].add(peer)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for peers in itertools.cycle(self._peers):
            if self._over.wait(DROP_S / SLICES):
                break
            self._drip(peers)

    def _drip(self, peers: set[socket.socket]) -> None:
        """One drop from each, and see who is still there."""
        for peer in list(peers):
            try:
                peer.send(self._drop)
                with contextlib.suppress(BlockingIOError):
                    received = peer.recv(65536)
                    if not received:
                        raise ConnectionResetError
                    self.received = received
            except BlockingIOError:
                continue
            except OSError:
                peers.discard(peer)
                peer.close()
                self.ended += 1

    def close(self) -> None:
        self._over.set()
        self._thread.join(DEADLINE_S)
        for peer in itertools.chain(*self._peers):
            peer.close()


def crowd(address: Address, kind: Kind, count: int = PEERS) -> contextlib.closing[Crowd]:
    """`count` slow peers meanwhile."""
    return contextlib.closing(Crowd(address, kind, count))


@contextlib.contextmanager
def crowds_apart(address: Address, kinds: Iterable[Kind], count: int = PEERS) -> Iterator[None]:
    """`count` slow peers of each kind, in a process of their own: what they do takes no time from
    the clients here.
    """
    context = multiprocessing.get_context("spawn")
    ready, over = context.Event(), context.Event()
    process = context.Process(
        target=_hold_crowds, args=(address, tuple(kinds), count, ready, over), daemon=True
    )
    process.start()
    try:
        assert ready.wait(DEADLINE_S), "the slow peers did not get in"
        yield
        assert process.is_alive()
    finally:
        over.set()
        process.join(DEADLINE_S)


def _hold_crowds(
    address: Address, kinds: tuple[Kind, ...], count: int, ready: Event, over: Event
) -> None:
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(crowd(address, kind, count))
        ready.set()
        over.wait()


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that honest clients waited for their echoes."""

    count: int
    median_s: float
    p99_s: float

    def __str__(self) -> str:
        median, p99 = self.median_s * 1e3, self.p99_s * 1e3
        return f"{self.count} echoes, median {median:.2f} ms, p99 {p99:.2f} ms"


def honest_echoes(address: Address, seconds: float, *, count: int = HONEST) -> Waits:
    """`count` clients echo for `seconds`, each at its own pace; new ones come meanwhile. None may
    fail.
    """
    waits: list[float] = []
    message = text("hello")
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        sent_at: dict[socket.socket, float] = {}
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(address, DEADLINE_S))
            client.sendall(handshake())
            assert read_head(client).startswith(b"HTTP/1.1 101 ")
            selector.register(client, selectors.EVENT_READ)
            sent_at[client] = time.monotonic()
            client.sendall(message)
        until = time.monotonic() + seconds
        newcomer_at = 0.0
        while time.monotonic() < until:
            ready = selector.select(DEADLINE_S)
            assert ready, "an honest client waits in vain"
            for key, _ in ready:
                client = key.fileobj  # type: ignore[assignment]  # what was registered
                assert read_exactly(client, 7)[2:] == b"hello"
                now = time.monotonic()
                waits.append(now - sent_at[client])
                sent_at[client] = now
                client.sendall(message)
            if time.monotonic() > newcomer_at:
                newcomer_at = time.monotonic() + 0.1
                _come_and_go(address)
    waits.sort()
    return Waits(len(waits), statistics.median(waits), waits[int(len(waits) * 0.99)])


def _come_and_go(address: Address) -> None:
    with socket.create_connection(address, DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
