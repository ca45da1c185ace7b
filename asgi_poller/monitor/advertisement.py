r"""How a running server on this machine says where its metrics port is.

The process that has the port binds a unix socket to an abstract name, and does no more with it:

    \0asgi-poller/PID/HOST:PORT

A reader finds the names in /proc/net/unix (proc(5)). So no file is left behind by a process
that is killed, and none has to be writable. A name alone proves nothing, as anybody may bind it:
it counts where the process has the socket among its descriptors, which only its owner and root can
see. Linux only; elsewhere nothing is said and nothing found.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"@asgi-poller/(\d+)/(\S+):(\d+)")


class Advertised(NamedTuple):
    """A server that says where it can be asked. `uid` is its user's."""

    pid: int
    host: str
    port: int
    uid: int


class Advertisement:
    """Says that this process answers at `host` (an address; "" or that of all interfaces for any)
    and `port`. It is a help for operators: where it fails, nothing else does. Any thread.
    """

    def __init__(self, host: str, port: int) -> None:
        self._name = f"\0asgi-poller/{os.getpid()}/{_reachable(host)}:{port}"
        self._socket: socket.socket | None = None

    def begin(self) -> None:
        """Say so from now on."""
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.bind(self._name)

    def end(self) -> None:
        """Say it no more. May be called again."""
        if self._socket is not None:
            self._socket.close()


def advertised() -> list[Advertised]:
    """The servers in this network namespace that this user may look into, by process id."""
    if sys.platform != "linux":
        return []
    found = set()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        parts = line.split()  # address, references, protocol, flags, type, state, inode, name
        name = _NAME.fullmatch(parts[7]) if len(parts) == 8 else None
        if name is None:
            continue
        pid = int(name[1])
        uid = _user_with(pid, f"socket:[{parts[6]}]")
        if uid is not None:
            found.add(Advertised(pid, name[2], int(name[3]), uid))
    return sorted(found)


def _reachable(host: str) -> str:
    """Where a server that listens on `host` answers this machine; an IPv6 address in brackets."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _user_with(pid: int, descriptor: str) -> int | None:
    """The user of process `pid` if it has that descriptor open, as far as this one may see."""
    process = Path(f"/proc/{pid}")
    try:
        if not any(_leads_to(each, descriptor) for each in (process / "fd").iterdir()):
            return None
        status = (process / "status").read_text()
    except OSError:  # it is gone, or somebody else's
        return None
    uids = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    return None if uids is None else int(uids[1])


def _leads_to(link: Path, target: str) -> bool:
    try:
        return os.readlink(link) == target
    except FileNotFoundError:  # closed meanwhile
        return False
