"""A soak: everything at once, for long, and nothing grows.

$SOAK_MINUTES says how long each takes: half of one unless told otherwise, 30 in the long form.
`-m ""` runs the variants too.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.soak.load import Address, Load
from tests.support.client import get
from tests.support.command import Command
from tests.support.server import Served
from tests.support.waiting import wait_until

MINUTES = float(os.environ.get("SOAK_MINUTES", "0.5"))
OPTIONS = (
    *("--port", "0", "--lifespan", "off", "--no-access-log", "--log-level", "warning"),
    *("--timeout-request-header", "2", "--ws-ping-interval", "5", "--ws-close-timeout", "2"),
    *("--timeout-graceful-shutdown", "5", "--drain-spread", "1"),
)
# Where it may end after the load: what is not given back yet, and what the interpreter keeps.
MORE_DESCRIPTORS = 8
MORE_THREADS = 1
MORE_TASKS = 2
MORE_BYTES = 24 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Weight:
    """What a process holds, and how many tasks there are on the loop that answers for it."""

    descriptors: int
    threads: int
    resident_bytes: int
    tasks: int

    def __str__(self) -> str:
        mib = self.resident_bytes / 1024 / 1024
        return (
            f"{self.descriptors} descriptors, {self.threads} threads, {self.tasks} tasks, "
            f"{mib:.1f} MiB"
        )


def weigh(pid: int, address: Address) -> Weight:
    answer = Served(address[1]).ask(get("/tasks", "Connection: close"))
    tasks = int(answer.rpartition(b"\r\n\r\n")[2])
    process = Path(f"/proc/{pid}")
    return Weight(
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        int((process / "statm").read_text().split()[1]) * 4096,
        tasks,
    )


def is_no_heavier(now: Weight, before: Weight) -> bool:
    return (
        now.descriptors <= before.descriptors + MORE_DESCRIPTORS
        and now.threads <= before.threads + MORE_THREADS
        and now.tasks <= before.tasks + MORE_TASKS
    )


@pytest.mark.timeout(MINUTES * 60 + 240)
@pytest.mark.parametrize(
    "direct",
    [
        pytest.param("--no-direct-handshake", marks=pytest.mark.long),
        pytest.param("--direct-handshake", marks=pytest.mark.slow),
    ],
)
def test_one_process(direct: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(Command(*OPTIONS, direct, app="tests.attacks.echo:app")) as command:
        soak(command, command.pid, capsys, kill=False)


@pytest.mark.timeout(MINUTES * 60 + 240)
@pytest.mark.parametrize(
    "limits",
    [
        pytest.param((), marks=pytest.mark.long),
        pytest.param(
            ("--limit-connections", "5000", "--limit-channels", "900"), marks=pytest.mark.slow
        ),
    ],
)
def test_workers_that_are_killed_and_restarted(
    limits: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The supervisor is weighed: it outlives them all."""
    options = (*OPTIONS, "--workers", "2", *limits)
    with contextlib.closing(Command(*options, app="tests.attacks.echo:app")) as command:
        soak(command, command.pid, capsys, kill=True)


def soak(command: Command, pid: int, capsys: pytest.CaptureFixture[str], *, kill: bool) -> None:
    address = listening_address(pid)
    load = Load(address)
    rest_of_warm_up = min(10.0, MINUTES * 60 / 4)
    wait_until(lambda: len(children_of(pid)) > 1 or not kill, "the workers have been started")
    fresh = weigh(pid, address)
    load.start()
    try:
        wait_until(lambda: load.done["request"] > 20 and load.done["echo"] > 20, "it serves")
        disturbed(load, command, pid, rest_of_warm_up, kill=kill)
        loaded = weigh(pid, address)
        disturbed(load, command, pid, MINUTES * 60 - rest_of_warm_up, kill=kill)
    finally:
        load.stop()
    assert load.failures == [], load.failures[:10]
    wait_until(
        lambda: is_no_heavier(weigh(pid, address), fresh),
        f"{weigh(pid, address)}, and {fresh} when fresh",
    )
    after = weigh(pid, address)
    with capsys.disabled():
        print(f"\n{MINUTES:g} min: {sum(load.done.values())} clients {dict(load.done)}")
        print(f"fresh: {fresh}; after {rest_of_warm_up:g} s: {loaded}; at the end, idle: {after}")
    assert after.resident_bytes < loaded.resident_bytes + MORE_BYTES
    assert "Traceback" not in command.text
    command.signal(signal.SIGTERM)
    assert command.wait() in (0, -signal.SIGTERM)


def disturbed(load: Load, command: Command, pid: int, seconds: float, *, kill: bool) -> None:
    """Let it go on for so long, with kills and restarts every few seconds."""
    until = time.monotonic() + seconds
    restarts = 0
    while (left := until - time.monotonic()) > 0:
        load._over.wait(min(left, 5.0))
        if kill and left > 10.0:
            load.may_lose_connections.set()
            restarts += 1
            if restarts % 3 == 0:
                command.signal(signal.SIGHUP)
            else:
                workers = children_of(pid)
                if len(workers) > 1:  # else the last kill is not made good yet
                    os.kill(random.choice(workers), signal.SIGKILL)
        assert command.process.poll() is None, command.text


def children_of(pid: int) -> list[int]:
    """The living workers of a supervisor, not those that are on their way out."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def listening_address(pid: int) -> tuple[str, int]:
    """Where a process listens: found in /proc, since it logs warnings only."""
    found: list[tuple[str, int]] = []

    def look() -> bool:
        links = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                links.add(os.readlink(entry))
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.append(("127.0.0.1", int(fields[1].split(":")[1], 16)))
        return bool(found)

    wait_until(look, "it listens")
    return found[0]
