"""Sockets that systemd has opened for us: sd_listen_fds(3)."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import NamedTuple

from asgi_poller.errors import ListenError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class PassedSocket(NamedTuple):
    """A descriptor and the name that its socket unit gave it (FileDescriptorName=), often empty."""

    fd: int
    name: str


def passed_sockets(environ: MutableMapping[str, str] = os.environ) -> list[PassedSocket]:
    """The sockets that were passed to this very process; none if they were meant for another.

    Takes the variables out of `environ`, so that no child believes they are for it. Raises
    ListenError if they make no sense.
    """
    pid, count, names = (environ.get(name) for name in _VARIABLES)
    if pid is None or count is None or pid.strip() != str(os.getpid()):
        return []
    for name in _VARIABLES:
        environ.pop(name, None)
    if not count.strip().isdecimal():
        raise ListenError(f"LISTEN_FDS: must be a number of sockets, not {count!r}")
    labels = (names or "").split(":")
    total = int(count)
    labels += [""] * (total - len(labels))
    return [PassedSocket(FIRST_DESCRIPTOR + index, labels[index]) for index in range(total)]
