"""What goes from the pollers to a loop: a connected socket, and what is known about its ends."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

from asgi_poller.asgi.scope import Address
from asgi_poller.protocols.http1.parser import RequestParser

_AF_UNIX = getattr(socket, "AF_UNIX", None)


class ListenerInfo(NamedTuple):
    """What a loop must know about the listener that a connection came from. Immutable, shared by
    all threads.

    `family` is the socket's address family, `server` the ASGI `server` pair where the listener is
    bound to one address (None for a wildcard: the loop asks each socket), `tls` whether the peer
    will speak TLS, `address` what getsockname() says of the listener.
    """

    family: int
    tls: bool
    server: tuple[str, int | None] | None
    address: Any = None


class Accepted(NamedTuple):
    """One accepted connection. Owning it means owning `fd`: its holder must adopt it, pass it
    on or close it.

    `listener` is an index into the ListenerInfo tuple that every loop was started with. `peer` is
    the address that accept() returned, None where it is not known. `data` are bytes that a poller
    has already read. `ticket` is what limits know the connection by, -1 where none counts it; who
    closes the descriptor, or has served it, ends the ticket. `accepted_at` is when accept()
    returned it, in seconds of the machine's monotonic clock; 0.0: nobody asks. `parser` has read
    `data` and holds the request's head, where a poller of the same process did so: it does not
    cross to another one.
    """

    fd: int
    listener: int
    peer: Any = None
    data: bytes = b""
    ticket: int = -1
    accepted_at: float = 0.0
    parser: RequestParser | None = None


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

    Raises OSError if the peer has closed and its address is not known.
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
