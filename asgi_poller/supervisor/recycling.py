"""Workers that have had their time: `--worker-max-lifetime` and `--worker-max-memory`.

(`--limit-max-requests` is counted where the requests are, in the worker's cores.)
"""

from __future__ import annotations

import os
import subprocess

from asgi_poller import platform
from asgi_poller.config import Config

_MIB = 1024 * 1024
_KIB = 1024
_PS_TIMEOUT_S = 2.0


def reason_to_recycle(config: Config, *, pid: int, age_s: float) -> str | None:
    """Why a worker that has served for `age_s` seconds should be replaced; None: it should not."""
    lifetime_s = config.worker_max_lifetime
    if lifetime_s is not None and age_s >= lifetime_s:
        return f"it has served for {age_s:.0f} s (--worker-max-lifetime)"
    if config.worker_max_memory is not None:
        memory = resident_bytes(pid)
        if memory is not None and memory > config.worker_max_memory:
            return f"it uses {memory / _MIB:.0f} MiB (--worker-max-memory)"
    return None


def resident_bytes(pid: int) -> int | None:
    """The resident memory of a process, what it shares included; None if it cannot be told."""
    if platform.LINUX:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # proc_pid_statm(5)
        except (OSError, ValueError, IndexError):
            return None  # it has ended, or a sandbox without /proc
    try:
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)],
            capture_output=True,
            check=True,
            timeout=_PS_TIMEOUT_S,
        )
        return int(shown.stdout) * _KIB
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # it has ended, or there is no ps
