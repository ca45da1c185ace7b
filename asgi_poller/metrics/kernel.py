"""What the kernel counts of listening sockets."""

from __future__ import annotations

import socket
import struct

from asgi_poller import platform

_NETSTAT = "/proc/net/netstat"
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if platform.LINUX else None
# struct tcp_info (linux/tcp.h): of a listening socket tcpi_unacked is how many connections wait,
# tcpi_sacked how many may (tcp_get_info in net/ipv4/tcp.c)
_UNACKED_AT = 24
_QUEUE = struct.Struct("=II")
_INFO_BYTES = _UNACKED_AT + _QUEUE.size


def accept_queue(listener: socket.socket) -> tuple[int, int] | tuple[None, None]:
    """(connections that wait for accept(), how many may); None where the system does not say."""
    if _TCP_INFO is None or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return None, None
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
    except OSError:  # it has been closed just now
        return None, None
    if len(info) < _INFO_BYTES:
        return None, None
    queue, limit = _QUEUE.unpack_from(info, _UNACKED_AT)
    return queue, limit


def listen_failures() -> tuple[int, int] | tuple[None, None]:
    """(ListenOverflows, ListenDrops): connects that an accept queue had no room for, and those that
    were dropped for any reason, on all listeners of this network namespace since it was made
    (proc_net_netstat: TcpExt). None where the system does not say.
    """
    if not platform.LINUX:
        return None, None
    try:
        with open(_NETSTAT, encoding="ascii") as file:
            names, values = (line.split() for line in file if line.startswith("TcpExt:"))
        found = [int(values[names.index(name)]) for name in ("ListenOverflows", "ListenDrops")]
        return found[0], found[1]
    except (OSError, ValueError, IndexError):
        return None, None
