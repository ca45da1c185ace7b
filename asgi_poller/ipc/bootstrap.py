"""Bootstrap of a child process: a specification and descriptors, sent over its control socket.

The control socket is the one descriptor that a child inherits, so a fresh interpreter and a process
that the fork server forked get their specification in the same way. It is pickled: only the
supervisor sends it.
"""

from __future__ import annotations

import array
import asyncio
import copy
import os
import pickle
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.loops.accepted_socket import ListenerInfo

_HEADER = struct.Struct("!QI")  # bytes that follow, descriptors in all
_DESCRIPTORS_AT_ONCE = 200  # of the 253 that a message may carry (unix(7), SCM_MAX_FD)
_CLOSE_ON_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The parent's paths and arguments: a fresh interpreter can import what its parent can."""

    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    arguments: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))

    def apply(self) -> None:
        """Make this process's sys.path and sys.argv the parent's."""
        sys.path[:] = self.path
        sys.argv[:] = self.arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A worker: `number` is its name, unique among those that live; `rows` are its lanes' rows of
    the counters, one for each loop, and `marks` what each marks its tickets with.

    The descriptors beside it: the counters, where stacks are written to, the topics' mailbox, each
    lane's end, the table of connections if `has_table`, the rows of metrics if `has_metrics`.
    `config` is None for a forked worker, which has it, and the application, already. `nice` is
    added to its nice value. `websocket_share` is as for LoopGroup.
    """

    number: int
    infos: tuple[ListenerInfo, ...]
    rows: tuple[int, ...]
    marks: tuple[int, ...]
    has_table: bool
    has_metrics: bool = False
    websocket_share: int | None
    nice: int
    config: Config | None
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkServerSpec:
    """A fork server (`worker/fork_server.py`). No descriptors beside it."""

    config: Config
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSpec:
    """The hub of topics (`worker/hub_process.py`). `has_parent`: somebody listens at the other end
    of the control socket. The descriptors beside it: its end of the mailbox, and, without a parent,
    the file whose lock it holds while it lives.
    """

    nice: int
    has_parent: bool
    config: Config
    origin: Origin

    @classmethod
    def of(cls, config: Config, *, nice: int = 0, has_parent: bool) -> HubSpec:
        """With the settings but for the application, which may be what cannot be passed."""
        bare = copy.copy(config)
        object.__setattr__(bare, "app", "")  # a copy that nobody has seen yet
        return cls(nice=nice, has_parent=has_parent, config=bare, origin=Origin())


Spec = WorkerSpec | ForkServerSpec | HubSpec


def packed(spec: Spec) -> bytes:
    """A specification as bytes. Raises ConfigError if the settings hold what cannot be passed."""
    try:
        return pickle.dumps(spec)
    except Exception as error:  # pickle raises whatever the object's own methods do
        raise ConfigError(
            "--workers",
            f"the settings cannot be passed to another process ({error}): use text and numbers,"
            " such as 'main:app', or --preload",
        ) from error


async def send_bootstrap(sock: socket.socket, packed_spec: bytes, fds: Sequence[int]) -> None:
    """Send what `packed` made. Raises OSError if the child has died already."""
    sock.setblocking(False)
    header = _HEADER.pack(len(packed_spec), len(fds))
    for start in range(0, max(1, len(fds)), _DESCRIPTORS_AT_ONCE):
        some = array.array("i", fds[start : start + _DESCRIPTORS_AT_ONCE])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, some)] if some else []
        sock.sendmsg([header if start == 0 else b"+"], rights)
    await asyncio.get_running_loop().sock_sendall(sock, packed_spec)


def receive_bootstrap(sock: socket.socket) -> tuple[Spec, list[int]]:
    """Wait for the specification; the descriptors are the caller's. Raises EOFError if the
    supervisor ends before.
    """
    sock.setblocking(True)
    header, fds = receive_fds(sock, _HEADER.size, _DESCRIPTORS_AT_ONCE)
    if len(header) < _HEADER.size:
        raise EOFError("the supervisor has ended")
    length, count = _HEADER.unpack(header)
    while len(fds) < count:
        _, more = receive_fds(sock, 1, _DESCRIPTORS_AT_ONCE)
        if not more:
            raise EOFError("the supervisor has ended")
        fds += more
    received = bytearray()
    while len(received) < length:
        piece = sock.recv(length - len(received))
        if not piece:
            raise EOFError("the supervisor has ended")
        received += piece
    return pickle.loads(bytes(received)), fds


def receive_fds(sock: socket.socket, limit: int, count: int) -> tuple[bytes, list[int]]:
    """Up to `limit` bytes and `count` descriptors, which no program that we start inherits.

    (`socket.recv_fds` ignores its `flags`.)
    """
    fds = array.array("i")
    room = socket.CMSG_SPACE(count * fds.itemsize)
    received, ancillary, _, _ = sock.recvmsg(limit, room, _CLOSE_ON_EXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)  # where the flag does not exist
    return received, fds.tolist()
