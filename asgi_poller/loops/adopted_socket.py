"""The socket object around an accepted descriptor, and the addresses at its ends."""

from __future__ import annotations

import socket
from typing import Any

from asgi_poller.asgi.scope import Address
from asgi_poller.loops.accepted_socket import ListenerInfo

_AF_UNIX = getattr(socket, "AF_UNIX", None)


class _TcpSocket(socket.socket):
    """A connected TCP socket.

    socket.family and socket.type make an Enum member each time they are asked, 1 µs each, and event
    loops ask three times. We know the answers.
    """

    __slots__ = ()
    family = socket.AF_INET
    type = socket.SOCK_STREAM


class _Tcp6Socket(_TcpSocket):
    __slots__ = ()
    family = socket.AF_INET6


_CLASSES: dict[int, type[socket.socket]] = {
    socket.AF_INET: _TcpSocket,
    socket.AF_INET6: _Tcp6Socket,
}


def adopted_socket(family: int, fd: int) -> socket.socket:
    """A stream socket that owns `fd`; no system call is needed to find out what it is."""
    return _CLASSES.get(family, socket.socket)(family, socket.SOCK_STREAM, 0, fd)


def client_address(sock: socket.socket, info: ListenerInfo, peer: Any) -> Address | None:
    """The ASGI `client`: what accept() said, or else the kernel. None for unix sockets.

    Raises OSError if the peer has gone and nobody wrote its address down.
    """
    if info.family == _AF_UNIX:
        return None
    if peer is None:
        peer = sock.getpeername()
    return peer if len(peer) == 2 else (peer[0], peer[1])


def server_address(sock: socket.socket) -> Address | None:
    """The ASGI `server` of a socket whose listener is bound to a wildcard."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return name[0], name[1]
    return (name, None) if name else None
