"""How an event loop reaches the hub of several processes.

The parent of all processes makes a pair of unix sockets that keep message boundaries: the mailbox.
To be joined, a loop makes a pair of stream sockets and puts one of them into the mailbox, where it
waits while no hub runs. So there is no address, no path and nobody to be checked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

_LETTER: Final = b"link"
_CLOSE_ON_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def through(mailbox: socket.socket) -> Callable[[], socket.socket]:
    """What a HubLink connects with: it puts one end of a pair into the mailbox, gives the other,
    and raises OSError.
    """

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(mailbox, [_LETTER], [theirs.fileno()], socket.MSG_DONTWAIT)
            except BaseException:  # raised again; nobody else would close it
                ours.close()
                raise
        return ours

    return connect


def taken_from(mailbox: socket.socket) -> list[socket.socket] | None:
    """The sockets of one letter; None: there is none now. Raises EOFError when nobody is left who
    could send one, and OSError.
    """
    try:
        letter, fds, _, _ = socket.recv_fds(
            mailbox, len(_LETTER), 8, socket.MSG_DONTWAIT | _CLOSE_ON_EXEC
        )
    except (BlockingIOError, InterruptedError):
        return None
    if not letter and not fds:
        raise EOFError
    return [socket.socket(fileno=fd) for fd in fds]


async def connected(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Any], sock: socket.socket
) -> None:
    """Give a connected stream socket to a protocol; it is closed if that fails. Raises OSError."""
    sock.setblocking(False)
    try:
        if sock.family == getattr(socket, "AF_UNIX", None):
            await loop.create_unix_connection(make, sock=sock)
        else:  # Windows: its socket pairs are TCP
            await loop.create_connection(make, sock=sock)
    except BaseException:  # raised again; nobody else would close it
        sock.close()
        raise
