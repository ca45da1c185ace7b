"""What tests ask of this machine: processes, descriptors, free ports."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import sys
from pathlib import Path

from tests.support.waiting import DEADLINE_S, wait_until

ROOT = Path(__file__).parents[2]


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def suspend(pid: int) -> None:
    """Stop a process (SIGSTOP), and wait until none of its threads runs any more: the signal is
    only sent when os.kill returns, and until then a thread may accept a connection.
    """
    os.kill(pid, signal.SIGSTOP)
    if sys.platform != "linux":
        return

    def all_are_stopped() -> bool:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    wait_until(all_are_stopped, f"the threads of {pid} are stopped")


def open_descriptors() -> int:
    """How many descriptors this process has open, but for those of objects that nobody has."""
    gc.collect()
    return len(os.listdir("/dev/fd"))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on: for a program that cannot choose one itself.

    It is none of those that systems give out to clients and to port 0 (32768 and up on Linux, 49152
    elsewhere), so that no other test is given it before the program has it.
    """
    for port in random.Random().sample(range(10_000, 32_768), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class NotifySocket(socket.socket):
    """A service manager's end of sd_notify(3), at a path or an abstract name."""

    def __init__(self, address: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.settimeout(DEADLINE_S)
        self.bind(address)

    def heard(self) -> list[str]:
        """The lines of the next message."""
        return self.recv(65536).decode().split("\n")
