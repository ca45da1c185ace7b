"""HTTP requests per second: wrk where it is installed, else a client of our own.

Ours counts octets: the same request always has an answer of the same length, if the Date header
keeps its width, which it does (RFC 9110, 5.6.7).
"""

from __future__ import annotations

import re
import select
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

CONNECTIONS = 64
BUFFER_OCTETS = 1 << 16
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
# wrk ends by itself; should it not, this long after its duration it is ended.
OVERTIME_S = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a load gave: requests answered in `seconds`, errors of any kind, latency where known."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float | None = None
    p99_ms: float | None = None


def run(port: int, path: str, *, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Keep so many keep-alive connections busy for `seconds`. Raises RuntimeError."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return own(port, path, seconds=seconds, connections=connections)
    # wrk knows whole seconds only.
    words = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "--latency"]
    done = subprocess.run(
        [*words, f"http://127.0.0.1:{port}{path}"],
        capture_output=True,
        text=True,
        timeout=seconds + OVERTIME_S,
        check=False,
    )
    return read_wrk(done.stdout)


def read_wrk(text: str) -> Load:
    """What wrk printed. Raises RuntimeError where it is no report."""
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    if total is None:
        raise RuntimeError(f"wrk said {text.strip()[-200:]!r}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: (.*)", text)
    errors = int(bad[1]) if bad else 0
    errors += sum(int(number) for number in re.findall(r"\d+", broken[1])) if broken else 0

    def percentile(which: int) -> float | None:
        found = re.search(rf"^\s+{which}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
        return float(found[1]) * MILLISECONDS[found[2]] if found else None

    return Load(
        requests=int(total[1]),
        seconds=float(total[2]) * MILLISECONDS[total[3]] / 1e3,
        errors=errors,
        p50_ms=percentile(50),
        p99_ms=percentile(99),
    )


def own(port: int, path: str, *, seconds: float, connections: int = CONNECTIONS) -> Load:
    """The client of our own: one request at a time on each connection."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    view = memoryview(bytearray(BUFFER_OCTETS))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        expected = _answer_octets(sock, request)
    socks = {}
    poller = select.epoll()
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks[sock.fileno()] = sock
        poller.register(sock, select.EPOLLIN)
        sock.sendall(request)
    missing = dict.fromkeys(socks, expected)
    errors = 0
    took_s: list[float] = []
    began_s = time.monotonic()
    sent_s = dict.fromkeys(socks, began_s)
    while (now_s := time.monotonic()) < began_s + seconds and socks:
        for fd, _ in poller.poll(0.1):
            size = socks[fd].recv_into(view)
            missing[fd] -= size
            if not missing[fd]:
                answered_s = time.monotonic()
                took_s.append(answered_s - sent_s[fd])
                missing[fd], sent_s[fd] = expected, answered_s
                socks[fd].send(request)
            elif missing[fd] < 0 or not size:
                errors += 1
                socks.pop(fd).close()
    for sock in socks.values():
        sock.close()
    poller.close()
    took_s.sort()
    return Load(
        requests=len(took_s),
        seconds=now_s - began_s,
        errors=errors,
        p50_ms=took_s[len(took_s) // 2] * 1e3 if took_s else None,
        p99_ms=took_s[len(took_s) * 99 // 100] * 1e3 if took_s else None,
    )


def _answer_octets(sock: socket.socket, request: bytes) -> int:
    """How long the answer is. Raises RuntimeError."""
    sock.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        if not (data := sock.recv(BUFFER_OCTETS)):
            raise RuntimeError(f"the answer ended in its head: {received[-200:]!r}")
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    if length is None or not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not an answer to count: {head[:200]!r}")
    while len(body) < int(length[1]) and (data := sock.recv(BUFFER_OCTETS)):
        body += data
    return len(head) + 4 + int(length[1])
