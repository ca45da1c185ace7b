"""What goes from the pollers to a loop: a connected socket and what is known about it."""

from __future__ import annotations

from typing import Any, NamedTuple

from asgi_poller.protocols.http1.parser import RequestParser


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
    """One accepted connection. Owning it means owning `fd`: whoever holds it must adopt it, pass it
    on or close it.

    `listener` is an index into the ListenerInfo tuple that every loop was started with. `peer` is
    the address that accept() returned, None where it is not known. `data` are bytes that a poller
    has already read. `ticket` is what limits know the connection by, -1 where none counts it; who
    closes the descriptor, or has served it, ends the ticket. `parser` has read `data` and holds the
    request's head, where a poller of the same process did so: it does not cross to another one.
    """

    fd: int
    listener: int
    peer: Any = None
    data: bytes = b""
    ticket: int = -1
    parser: RequestParser | None = None
