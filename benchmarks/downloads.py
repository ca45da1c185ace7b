"""What http.response.pathsend gains: python -m benchmarks.downloads

The server's CPU time for a download of Starlette's FileResponse, where the extension is announced
(the kernel sends the file) and where it is not (Starlette reads it, 64 KiB at a time). One client
on one connection; the two take turns, round by round. The ratio is what holds on other machines.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server, free_port

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
WAYS = ("read", "announced")
#: Bytes of the file, downloads of it in a round.
SIZES = ((1024, 1000), (65536, 500), (1 << 20, 100), (100 << 20, 3))


@dataclass(frozen=True, slots=True)
class Row:
    """Server CPU microseconds for a download, medians over the rounds."""

    size: int
    read_us: float
    announced_us: float

    def __str__(self) -> str:
        ratio = self.read_us / self.announced_us
        return f"| {self.size:,} | {self.read_us:,.0f} | {self.announced_us:,.0f} | {ratio:.1f} |"


def started(folder: Path, cores: frozenset[int]) -> Server:
    """The server of this tree, not running yet."""
    port = free_port()
    words = [sys.executable, "-m", "asgi_poller", "downloads:app", "--port", str(port)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks" / "applications")])
    return Server(
        [*words, "--no-access-log", "--log-level", "warning"],
        port=port,
        environ={"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "DOWNLOADS": str(folder)},
        cores=cores,
    )


def download(sock: socket.socket, path: str, buffer: bytearray) -> int:
    """How many bytes of body came. Raises OSError where the connection ends."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    left = size = int(fields[b"content-length"])
    left -= len(body)
    while left:
        count = sock.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise OSError("the server has ended a connection")
        left -= count
    return size


def measure(server: Server, path: str, times: int) -> float:
    """Server CPU microseconds for each of so many downloads."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        download(sock, path, buffer)
        before_s = server.cpu_s()
        for _ in range(times):
            download(sock, path, buffer)
        return (server.cpu_s() - before_s) / times * 1e6


def compare(server: Server, size: int, times: int, rounds: int = ROUNDS) -> Row:
    """Both ways in turn."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            taken[way].append(measure(server, f"/{way}/{size}", times))
    return Row(size, *(statistics.median(taken[way]) for way in WAYS))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    first, second = (sorted(os.sched_getaffinity(0)) * 2)[:2]
    print("| bytes | FileResponse reads, µs | the kernel sends, µs | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size, _ in SIZES:
            (Path(folder) / str(size)).write_bytes(os.urandom(size))
        os.sched_setaffinity(0, {second})
        with started(Path(folder), frozenset({first})) as server:
            for size, times in SIZES:
                print(compare(server, size, times), flush=True)


if __name__ == "__main__":
    main()
