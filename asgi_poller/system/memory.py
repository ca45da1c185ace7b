"""How much memory a process uses."""

from __future__ import annotations

import os
import subprocess

from asgi_poller import platform

_KIB = 1024
_PS_TIMEOUT_S = 2.0


def resident_bytes(pid: int) -> int | None:
    """The resident memory of a process, what it shares included; None if it is not known."""
    if platform.LINUX:
        return quick_resident_bytes(pid)
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


def quick_resident_bytes(pid: int) -> int | None:
    """The same where it costs no program to find out: on Linux. None elsewhere."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # proc_pid_statm(5)
    except (OSError, ValueError, IndexError):
        return None  # it has ended, or a system or sandbox without /proc
