"""Few and many connections at once, all out and at half load: python -m benchmarks.turns [TREE ...]

GET, FastAPI JSON and WebSocket echo over 1, 8 and 64 connections: first each sends its next request
when it has an answer, then at random times, at half of the rate that was just reached. TREEs are
folders that hold an asgi_poller each (default: this one); their servers take turns, round by round,
on the first CPU, the clients are on the second one. The table has medians over the rounds, and how
often the clients slept for each answer: a client that sleeps must be woken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import select
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server, free_port

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = (1, 8, 64)
ROUNDS, ROUND_S = 9, 0.5
_GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
_MESSAGE = b"\x82\xa0" + bytes(4 + 32)  # 32 octets, masked with zeros


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked of an application."""

    name: str
    app: str
    request: bytes
    opening: bytes = b""


KINDS = (
    Kind("GET, bare ASGI", "bare:app", _GET),
    Kind("FastAPI JSON", "framework:app", _GET),
    Kind("echo, 32 octets", "bare:app", _MESSAGE, _UPGRADE),
)


@dataclass(frozen=True, slots=True)
class Round:
    """What a round gave. `sleeps` is for each answer."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    sleeps: float


def measure(server: Server, kind: Kind, count: int, per_s: float | None) -> Round:
    """Ask over `count` connections for a round; `per_s` requests a second, or all that it bears.
    Raises OSError where the server ends a connection.
    """
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(_opened(server.port, kind)) for _ in range(count)]
        octets = _answer_octets(socks[0], kind.request)
        cpu_s, slept = server.cpu_s(), resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        began_s = time.monotonic()
        took_s = sorted(_ask(socks, kind.request, octets, count / per_s if per_s else 0.0))
        seconds = time.monotonic() - began_s
        slept = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - slept
        cpu_s = server.cpu_s() - cpu_s
    answers = len(took_s)
    return Round(
        answers / seconds,
        cpu_s / answers * 1e6,
        took_s[answers // 2] * 1e3,
        took_s[answers * 99 // 100] * 1e3,
        slept / answers,
    )


def _opened(port: int, kind: Kind) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if kind.opening:
        sock.sendall(kind.opening)
        sock.recv(1 << 16)
    return sock


def _answer_octets(sock: socket.socket, request: bytes) -> int:
    """How long every answer is: such a small one comes in one piece."""
    sock.sendall(request)
    return len(sock.recv(1 << 16))


def _ask(socks: Sequence[socket.socket], request: bytes, octets: int, gap_s: float) -> list[float]:
    """The seconds that each answer took. Each connection asks `gap_s` after its last request was
    due, on average, or at once. Raises OSError.
    """
    chance = random.Random(7)
    poller = select.epoll()
    by_fd = {sock.fileno(): sock for sock in socks}
    now_s = time.monotonic()
    due_s = {fd: now_s + (chance.expovariate(1 / gap_s) if gap_s else 0.0) for fd in by_fd}
    idle = set(by_fd)
    missing = dict.fromkeys(by_fd, octets)
    took_s = []
    end_s = now_s + ROUND_S
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    while now_s < end_s:
        for fd in [fd for fd in idle if due_s[fd] <= now_s]:
            idle.discard(fd)
            by_fd[fd].sendall(request)
        next_s = min([end_s, *(due_s[fd] for fd in idle)])
        for fd, _ in poller.poll(max(0.0, next_s - time.monotonic())):
            size = len(by_fd[fd].recv(octets))
            if not size:
                raise OSError("the server has ended a connection")
            missing[fd] -= size
            if missing[fd]:
                continue
            missing[fd] = octets
            now_s = time.monotonic()
            took_s.append(now_s - due_s[fd])
            if gap_s:
                due_s[fd] += chance.expovariate(1 / gap_s)
                idle.add(fd)
            else:
                due_s[fd] = now_s
                by_fd[fd].sendall(request)
        now_s = time.monotonic()
    poller.close()
    return took_s


def started(tree: Path, app: str, core: int) -> Server:
    """The server in `tree`, not running yet."""
    port = free_port()
    words = [sys.executable, "-m", "asgi_poller", app, "--port", str(port)]
    path = os.pathsep.join([str(tree), str(ROOT / "benchmarks" / "applications")])
    return Server(
        [*words, "--no-access-log", "--log-level", "warning", "--ws-per-message-deflate", "off"],
        port=port,
        environ={"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        cores=frozenset({core}),
    )


def compare(trees: Sequence[Path], kind: Kind, count: int) -> list[str]:
    """The table's rows for one kind and so many connections."""
    rows = []
    first, second = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {second})
    try:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(started(tree, kind.app, first)) for tree in trees]
            per_s: float | None = None
            for load in ("all out", "half"):
                rounds: list[list[Round]] = [[] for _ in servers]
                for _ in range(ROUNDS):
                    for server, results in zip(servers, rounds, strict=True):
                        results.append(measure(server, kind, count, per_s))
                rows += [
                    _row(f"{kind.name} | {count} | {load} | {tree}", results)
                    for tree, results in zip(trees, rounds, strict=True)
                ]
                per_s = statistics.median(each.per_s for each in rounds[0]) / 2
    finally:
        os.sched_setaffinity(0, {first, second})
    return rows


def _row(name: str, rounds: Sequence[Round]) -> str:
    def median(field: str) -> float:
        return float(statistics.median(getattr(each, field) for each in rounds))

    return (
        f"| {name} | {median('per_s'):,.0f} | {median('cpu_us'):.1f} | {median('p50_ms'):.3f} |"
        f" {median('p99_ms'):.3f} | {median('sleeps'):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="*", type=Path, default=[ROOT])
    trees = [tree.resolve() for tree in parser.parse_args().trees]
    print("| | connections | load | tree | answers/s | server µs each | p50 ms | p99 ms | sleeps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for count in CONNECTIONS:
            print("\n".join(compare(trees, kind, count)), flush=True)


if __name__ == "__main__":
    main()
