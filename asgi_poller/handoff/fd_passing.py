"""What the supervisor and a worker say to each other over a lane's unix socket.

The socket keeps message boundaries (SOCK_SEQPACKET; SOCK_DGRAM on macOS): a message is sent and
received whole with its descriptors or not at all, which a stream would not promise, and taking one
out of the queue is one atomic step of the kernel: of all the processes that hold the receiving end,
exactly one gets it. `process_lane` builds on that.

Supervisor to worker: a message number, the sequence number of the first connection, and for each
connection its listener, peer address, octets already read, ticket and time of accept(); the
descriptors go beside it (SCM_RIGHTS, unix(7)). A message without connections is a probe. Worker to
supervisor: RING, or the numbers of connections whose descriptors did not fit into the worker.

`marshal` does the encoding: fast, compact, and both ends are the same interpreter.
"""

from __future__ import annotations

import array
import errno
import logging
import marshal
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from asgi_poller import platform
from asgi_poller.loops.accepted_socket import Accepted

logger = logging.getLogger("asgi_poller.error")

#: SCM_MAX_FD, unix(7): descriptors that one message may carry.
DESCRIPTORS_PER_MESSAGE = 253
#: Octets of request data after which a message is full. One connection's data may go beyond.
DATA_BYTES_PER_MESSAGE = 65536
#: Room for the largest message. Pollers must not read more than half of it for one connection.
MESSAGE_BYTES = 262144
_ANCILLARY_BYTES = (
    socket.CMSG_SPACE(DESCRIPTORS_PER_MESSAGE * array.array("i").itemsize)
    if hasattr(socket, "CMSG_SPACE")
    else 0
)
_CLOSE_ON_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

#: sendmsg(2), unix(7): full for now (ETOOMANYREFS: too many descriptors in flight).
SOCKET_FULL = frozenset(
    (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EMSGSIZE)
)
_SO_SNDBUFFORCE = 32  # socket(7): past the cap, with CAP_NET_ADMIN

RING = b"r"
_RETURNED = b"b"
_RANGE = struct.Struct("=QQ")

_SOL_SOCKET = socket.SOL_SOCKET
_SCM_RIGHTS: int = getattr(socket, "SCM_RIGHTS", 1)


class Delivery(NamedTuple):
    """One message as the worker gets it. `fds` are fewer than `entries` if the worker is full.

    `entries` are (listener, peer, data, ticket, accepted_at) of each connection; `first` is the
    first one's sequence.
    """

    number: int
    first: int
    entries: list[tuple[int, Any, bytes, int, float]]
    fds: list[int]


def send_connections(
    channel: socket.socket, number: int, first: int, batch: list[Accepted]
) -> None:
    """Send `batch` as one message, or raise the OSError that sendmsg(2) gave."""
    entries = [accepted[1:6] for accepted in batch]  # neither the descriptor nor the parser
    octets = marshal.dumps((number, first, entries))
    if not batch:
        channel.send(octets)
        return
    fds = array.array("i", [accepted.fd for accepted in batch])
    channel.sendmsg([octets], [(_SOL_SOCKET, _SCM_RIGHTS, fds)])


def fitting(batch: list[Accepted], start: int, end: int) -> list[Accepted]:
    """The connections from `start` on that fit into one message."""
    part = batch[start : min(end, start + DESCRIPTORS_PER_MESSAGE)]
    octets = 0
    for index, accepted in enumerate(part):
        octets += len(accepted.data)
        if octets > DATA_BYTES_PER_MESSAGE and index:
            return part[:index]
    return part


def widen(end: socket.socket, octets: int) -> None:
    """Give `end` a send buffer of `octets`, or as much as the system permits."""
    for option in (socket.SO_SNDBUF, _SO_SNDBUFFORCE) if platform.LINUX else (socket.SO_SNDBUF,):
        try:
            end.setsockopt(socket.SOL_SOCKET, option, octets)
        except OSError:
            pass  # not permitted: the smaller buffer serves


class DescriptorReader:
    """Receives deliveries; keeps one buffer for all of them. Owned by the loop's thread."""

    __slots__ = ("_buffers", "_channel", "_view")

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._view = memoryview(bytearray(MESSAGE_BYTES))
        self._buffers = [self._view]

    def receive(self) -> Delivery | None:
        """The next delivery; None at the end (the supervisor is gone).

        Raises BlockingIOError if nothing waits. The descriptors are the caller's.
        """
        count, ancillary, _, _ = self._channel.recvmsg_into(
            self._buffers, _ANCILLARY_BYTES, _CLOSE_ON_EXEC
        )
        if not count:
            return None
        fds = array.array("i")
        for level, kind, octets in ancillary:
            if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
                fds.frombytes(octets[: len(octets) - len(octets) % fds.itemsize])
        number, first, entries = marshal.loads(self._view[:count])
        return Delivery(number, first, entries, fds.tolist())


class SocketQueue:
    """A unix socket's queue as a place for connections, which the kernel holds meanwhile,
    descriptors and all. One thread of a process at a time may `get`.
    """

    __slots__ = ("_back", "_front", "_reader")

    def __init__(self, buffer_bytes: int) -> None:
        self._back, self._front = socket.socketpair(socket.AF_UNIX, platform.FD_SOCKET_TYPE)
        for end in (self._back, self._front):
            end.setblocking(False)
            widen(end, buffer_bytes)
        self._reader = DescriptorReader(self._front)

    def put(self, batch: list[Accepted]) -> None:
        """Put `batch`, which is `fitting`, in as one message, and close its descriptors here.
        Raises the OSError that sendmsg(2) gave; then `batch` is the caller's still.
        """
        send_connections(self._back, 0, 0, batch)
        for accepted in batch:
            os.close(accepted.fd)

    def get(self) -> tuple[list[Accepted], list[int]]:
        """The connections of the oldest message, and the tickets of those that were lost because
        this process has no descriptors left. Raises BlockingIOError if nothing waits.
        """
        delivery = self._reader.receive()
        assert delivery is not None  # both ends are ours
        fds, entries = delivery.fds, delivery.entries
        lost = [ticket for _, _, _, ticket, _ in entries[len(fds) :]]
        if lost:
            logger.error(
                "%d connections that waited were lost: no descriptors left (raise `ulimit -n`)",
                len(lost),
            )
        return [Accepted(fd, *entry) for fd, entry in zip(fds, entries, strict=False)], lost

    @property
    def fd(self) -> int:
        """Readable while something waits."""
        return self._front.fileno()

    @property
    def descriptors(self) -> list[Callable[[], int]]:
        """What a process must not have that takes no part in it; negative numbers once closed."""
        return [self._back.fileno, self._front.fileno]

    def close(self) -> None:
        """What still waits is closed with the last holder's ends."""
        self._back.close()
        self._front.close()


def take_number(channel: socket.socket) -> int:
    """Take the next message out of the queue and drop its descriptors; returns its number.

    For the supervisor, at its own copy of the worker's end. Raises BlockingIOError if nothing
    waits.
    """
    # without room for ancillary data the kernel drops the descriptors itself (unix(7))
    number: int = marshal.loads(channel.recv(MESSAGE_BYTES))[0]
    return number


def returned(first: int, count: int) -> bytes:
    """The worker's message that `count` connections from sequence `first` on did not fit."""
    return _RETURNED + _RANGE.pack(first, count)


def parse_returned(octets: bytes) -> tuple[int, int] | None:
    """(first, count) of such a message; None for any other.

    Not marshalled: the supervisor may have more rights than a worker, and marshal trusts.
    """
    if not octets.startswith(_RETURNED) or len(octets) != len(_RETURNED) + _RANGE.size:
        return None
    first, count = _RANGE.unpack_from(octets, len(_RETURNED))
    return first, count
