"""What a result was measured on, and of what: without these a figure means nothing."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asgi_poller.storm import probe
from benchmarks.interpreters import CURRENT, Interpreter
from benchmarks.peers import ROOT


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the server and the load run; both empty where there is only one core to share."""

    server: frozenset[int]
    load: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        """Both together."""
        return self.server | self.load

    @contextmanager
    def shared_with_load(self) -> Iterator[None]:
        """Meanwhile this process and the load that it starts run on both."""
        if self.load:
            os.sched_setaffinity(0, self.all)
        try:
            yield
        finally:
            if self.load:
                os.sched_setaffinity(0, self.load)


def cores() -> Cores:
    """The first core for the server, the second for the load."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return Cores(frozenset(), frozenset())
    return Cores(frozenset(allowed[:1]), frozenset(allowed[1:2]))


def pin_load() -> frozenset[int]:
    """Keep this process and the load that it starts off the server's core, which is returned."""
    found = cores()
    if found.load:
        os.sched_setaffinity(0, found.load)
    return found.server


def describe(interpreter: Interpreter = CURRENT) -> dict[str, Any]:
    """The machine, its kernel's settings that matter here, the servers' interpreter, and the
    commit.
    """
    build = " free-threaded" if interpreter.free_threaded else ""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{interpreter.version}{build}",
        "somaxconn": probe.somaxconn(),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "load_1min": round(os.getloadavg()[0], 2),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--", "asgi_poller")),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""  # no git here: the result then says so by having no commit
    return done.stdout.strip()
