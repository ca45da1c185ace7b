"""Taking one connection from a listener, as fast as the system lets us.

On Linux accept4(2) is called through `ctypes.PyDLL`, that is *with the GIL held*. It cannot block
on a non-blocking listener, and giving the GIL up for each connection is what hurts: an application
thread that computes returns it only after `sys.getswitchinterval()` (5 ms), so that
`socket.accept()` takes in a few hundred connections a second and thread, and this call a whole
burst each time the GIL comes round. Measured with two pollers beside a loop that computes, 4,000
connects at once: 2,000 to 9,000 a second with `socket.accept()`, 40,000 to 60,000 with this call,
which is what the clients could send. It also makes the descriptor non-blocking, which saves the
core a system call.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from asgi_poller import platform

AcceptCall = Callable[[], tuple[int, Any]]
"""Accepts one connection: (descriptor, peer address), or raises the OSError that accept(2) gave.

The descriptor is non-blocking and not inheritable, and the caller owns it; the address has the form
that `socket.accept()` gives.
"""


def accept_call(listener: socket.socket) -> AcceptCall:
    """The fastest way to accept from `listener` (non-blocking) here.

    The call keeps a buffer: each thread needs one of its own.
    """
    decode = _PEER_DECODERS.get(int(listener.family))
    if _accept4 is not None and decode is not None:
        return _direct_accept_call(listener, _accept4, decode)
    if platform.WINDOWS:
        return _windows_accept_call(listener)
    return _portable_accept_call(listener)


def _portable_accept_call(listener: socket.socket) -> AcceptCall:
    # CPython's own half of accept(): it makes no socket object
    accept: AcceptCall = listener._accept  # type: ignore[attr-defined] # missing in typeshed

    def call() -> tuple[int, Any]:
        fd, peer = accept()
        try:
            os.set_blocking(fd, False)
        except Exception:
            os.close(fd)
            raise
        return fd, peer

    return call


def _windows_accept_call(listener: socket.socket) -> AcceptCall:
    def call() -> tuple[int, Any]:
        connection, peer = listener.accept()
        connection.setblocking(False)
        return connection.detach(), peer

    return call


_SOCKADDR_BYTES = 128  # sizeof(struct sockaddr_storage)


def _direct_accept_call(
    listener: socket.socket, accept4: Callable[..., int], decode: Callable[[memoryview, int], Any]
) -> AcceptCall:
    address = ctypes.create_string_buffer(_SOCKADDR_BYTES)
    length = ctypes.c_uint(_SOCKADDR_BYTES)
    view = memoryview(address).cast("B")
    arguments = (  # converted here once, and not for each call
        ctypes.c_int.from_param(listener.fileno()),
        ctypes.byref(address),
        ctypes.byref(length),
        ctypes.c_int.from_param(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC),
    )
    get_errno = ctypes.get_errno

    def call() -> tuple[int, Any]:
        length.value = _SOCKADDR_BYTES
        fd = accept4(*arguments)
        if fd < 0:
            number = get_errno()
            if number == errno.EAGAIN:  # ends nearly every round: no text is looked up for it
                raise BlockingIOError
            raise OSError(number, os.strerror(number))
        try:
            return fd, decode(view, length.value)
        except Exception:
            os.close(fd)
            raise

    return call


_unpack_ipv4 = struct.Struct("!2xH4s").unpack_from  # struct sockaddr_in, ip(7)
_unpack_ipv6 = struct.Struct("!2xHI16s").unpack_from  # struct sockaddr_in6, ipv6(7)
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_unpack_scope = struct.Struct("=24xI").unpack_from


#: Most clients come again, or through the same proxies. One text for all connections of an address
#: is memory saved as well, for as long as a scope lives.
_ipv4_host = functools.lru_cache(maxsize=4096)(socket.inet_ntoa)


def _decode_ipv4(view: memoryview, _length: int) -> tuple[str, int]:
    port, host = _unpack_ipv4(view)
    return _ipv4_host(host), port


def _decode_ipv6(view: memoryview, _length: int) -> tuple[str, int, int, int] | tuple[str, int]:
    port, flow, host = _unpack_ipv6(view)
    if host.startswith(_MAPPED):  # an IPv4 peer of a listener for both
        return _ipv4_host(host[len(_MAPPED) :]), port
    return socket.inet_ntop(socket.AF_INET6, host), port, flow, _unpack_scope(view)[0]


def _decode_unix(view: memoryview, length: int) -> str | bytes:
    name = bytes(view[2:length])  # struct sockaddr_un, unix(7): empty: unnamed, NUL first: abstract
    if name[:1] == b"\0":
        return name
    return os.fsdecode(name.rstrip(b"\0"))


_PEER_DECODERS: dict[int, Callable[[memoryview, int], Any]] = {
    int(socket.AF_INET): _decode_ipv4,
    int(socket.AF_INET6): _decode_ipv6,
}
if platform.HAS_UNIX_SOCKETS:
    _PEER_DECODERS[int(socket.AF_UNIX)] = _decode_unix


def _find_accept4() -> Callable[..., int] | None:
    if not platform.LINUX:
        return None
    try:
        function = ctypes.PyDLL(None, use_errno=True).accept4
    except (OSError, AttributeError):
        return None  # a C library that does not export it: the portable call serves
    function.restype = ctypes.c_int
    return function


_accept4 = _find_accept4()

#: accept(2), "Error handling": the pending connection is gone or was refused by a firewall, the
#: listener is fine.
ACCEPT_ABORTED = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EINTR",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EPERM",
        "EPROTO",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)
#: No descriptor left in this process (EMFILE) or in the system (ENFILE).
ACCEPT_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))
#: No memory for another socket.
ACCEPT_NO_MEMORY = frozenset((errno.ENOBUFS, errno.ENOMEM))
#: The descriptor is closed or does not listen (any more): asking again cannot help.
NOT_A_LISTENER = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP))
