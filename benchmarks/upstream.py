"""`python -m benchmarks.upstream`: what one Redis takes for a publication, by how many machines
listen to its topic.

A real redis-server (--appendonly yes, fsync every second) on loopback; connections that publish,
one for each machine, with one publication under way or with 16; and connections that subscribe to
every topic and read, as the hubs of machines do. The figure is the CPU time of Redis's main thread
for one publication: it is what ends a Redis, and hardly depends on what else a machine does. Writes
benchmarks/results/upstream-redis.json, from which `python -m benchmarks.growth` reckons.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from asgi_poller.topics.redis_scripts import MISSED, PUBLISH
from benchmarks import machine
from benchmarks.runner import RESULTS, save

TOPICS = 1000
PAYLOAD = "x" * 256
LISTENERS = (0, 1, 5, 20, 50)
CONNECTIONS = 20  # that publish, one for each machine
HISTORY = 1000
ASKED_TOPICS = 100
MISSED_COUNTS = (0, 10)
WAYS = ("without history", "with history")
_WAIT_S = 10.0


class Redis:
    """A client's end: commands and answers without a library, for the few that are needed."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _WAIT_S)
        self._file = self.socket.makefile("rb")

    def command(self, *words: str) -> Any:
        """One command; its answer."""
        self.socket.sendall(encoded(*words))
        return self.answer()

    def answer(self) -> Any:
        """The next answer: text, or a list of answers (RESP2)."""
        kind, rest = (line := self._file.readline())[:1], line[1:].strip()
        if kind == b"$":
            return self._file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        if kind == b"-":
            raise click.ClickException(f"Redis says {rest.decode()}")
        return rest.decode()

    def main_thread_s(self) -> float:
        """CPU time of the thread that runs commands, in the kernel and outside."""
        fields = dict(
            line.split(":", 1) for line in self.command("INFO", "cpu").splitlines() if ":" in line
        )
        return sum(float(fields[f"used_cpu_{kind}_main_thread"]) for kind in ("user", "sys"))

    def version(self) -> str:
        """Of the server."""
        lines = self.command("INFO", "server").splitlines()
        found: str = next(line for line in lines if line.startswith("redis_version:"))
        return found.partition(":")[2]


@contextmanager
def served() -> Iterator[int]:
    """A Redis of our own; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--dir",
            folder,
        ]
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait(_WAIT_S)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), _WAIT_S).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def listeners(port: int, count: int) -> Iterator[None]:
    """So many connections, each subscribed to every topic, that are read and thrown away."""
    over = threading.Event()
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            client = Redis(port)
            stack.callback(client.socket.close)
            client.command("SUBSCRIBE", *(f"topic:{number}" for number in range(TOPICS)))
            selector.register(client.socket, selectors.EVENT_READ)

        def read() -> None:
            while not over.is_set():
                for key, _ in selector.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    key.fileobj.recv(1 << 20)

        thread = threading.Thread(target=read, daemon=True)
        if count:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if count:
                thread.join(_WAIT_S)


def encoded(*words: str) -> bytes:
    """A command as Redis reads it."""
    parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    return f"*{len(words)}\r\n{parts}".encode()


class Publishers:
    """One connection for each machine that publishes."""

    def __init__(self, port: int, way: str) -> None:
        self._clients = [Redis(port) for _ in range(CONNECTIONS)]
        self._has_history = way != WAYS[0]
        self._name = secrets.token_hex(4)  # Redis knows numbers of the last round by it
        self._number = 0

    def publish(self, count: int, pipelined: int) -> None:
        """So many, in rounds in which each machine has `pipelined` under way."""
        rounds = count // (pipelined * CONNECTIONS)
        for _ in range(rounds):
            for machine_number, client in enumerate(self._clients):
                client.socket.sendall(
                    b"".join(self._command(machine_number) for _ in range(pipelined))
                )
            for client in self._clients:
                for _ in range(pipelined):
                    client.answer()

    def _command(self, machine_number: int) -> bytes:
        self._number += 1
        topic = f"topic:{self._number * 7 % TOPICS}"
        if not self._has_history:
            return encoded("PUBLISH", topic, PAYLOAD)
        given = _given(topic, f"{self._name}{machine_number}", str(self._number))
        return encoded("EVAL", PUBLISH, *_of(topic), *given)


def _of(topic: str) -> tuple[str, ...]:
    """What both scripts begin with: keys, and ages."""
    return "2", f"{{{topic}}}:stream", f"{{{topic}}}:hash", "600000", "3600", "epoch"


def _given(topic: str, who: str, number: str) -> tuple[str, ...]:
    """One publication, as the script takes it."""
    return str(HISTORY), topic, "PUBLISH", who, number, PAYLOAD


def measured(port: int, way: str, count: int) -> Iterator[dict[str, Any]]:
    """A row for each number of listeners."""
    control, publishers = Redis(port), Publishers(port, way)
    for pipelined in (1, 16):
        for listening in LISTENERS:
            with listeners(port, listening):
                before_s, begun_s = control.main_thread_s(), time.monotonic()
                publishers.publish(count, pipelined)
                used_s = control.main_thread_s() - before_s
            yield {
                "way": way,
                "pipelined": pipelined,
                "listeners": listening,
                "cpu_us": used_s / count * 1e6,
                "rate": count / (time.monotonic() - begun_s),
            }


def asked(port: int, count: int, missed: int) -> float:
    """CPU of the question of a client that comes back and has missed so many of a topic, µs."""
    client, questions, name = Redis(port), [], secrets.token_hex(4)
    for number in range(ASKED_TOPICS):
        topic = f"asked:{missed}:{number}"
        ids = [
            client.command("EVAL", PUBLISH, *_of(topic), *_given(topic, name, str(turn)))[0]
            for turn in range(1, missed + 2)
        ]
        questions.append(encoded("EVAL", MISSED, *_of(topic), *ids[0].split(), "500"))
    before_s = client.main_thread_s()
    for number in range(count):
        client.socket.sendall(questions[number % ASKED_TOPICS])
        is_complete, _, _, found = client.answer()
        if not int(is_complete) or len(found) != 2 * missed:
            raise click.ClickException("Redis does not know what was missed")
    return (client.main_thread_s() - before_s) / count * 1e6


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--count", default=16_000, help="Publications for each figure.")
@click.option("--rounds", default=3, help="Times that each is measured; the median is kept.")
def main(count: int, rounds: int) -> None:
    """Measure, and write the result."""
    found: list[list[dict[str, Any]]] = []
    questions: dict[int, list[float]] = {missed: [] for missed in MISSED_COUNTS}
    with served() as port:
        version = Redis(port).version()
        for number in range(rounds):
            click.echo(f"round {number + 1} of {rounds}", err=True)
            found.append([row for way in WAYS for row in measured(port, way, count)])
            for missed, taken in questions.items():
                taken.append(asked(port, count, missed))
    rows = []
    for same in zip(*found, strict=True):
        middle = sorted(same, key=lambda row: float(row["cpu_us"]))[len(same) // 2]
        rows.append(
            {
                **middle,
                "spread_us": [min(r["cpu_us"] for r in same), max(r["cpu_us"] for r in same)],
            }
        )
    document: dict[str, Any] = {
        "machine": machine.describe(),
        "redis": version,
        "payload_bytes": len(PAYLOAD),
        "topics": TOPICS,
        "rows": rows,
        "asked_us": {missed: statistics.median(taken) for missed, taken in questions.items()},
    }
    path = RESULTS / "upstream-redis.json"
    save(document, path)
    for row in rows:
        click.echo(
            f"{row['way']:30} -P {row['pipelined']:2} {row['listeners']:3} listeners "
            f"{row['cpu_us']:7.2f} us {row['rate']:9.0f}/s"
        )
    for missed, taken_us in document["asked_us"].items():
        click.echo(f"asked for {missed} that were missed {taken_us:7.2f} us")
    click.echo(f"written: {path}", err=True)


if __name__ == "__main__":
    main()
