"""Sockets as the engine uses them: non-blocking from birth, from a chosen source, with errors that
have names.
"""

from __future__ import annotations

import errno
import socket
import ssl

from asgi_poller.storm.plan import Plan

# What a read or write that must come back later raises, with and without TLS.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
SOCKET_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
# linux/in.h; socket has it since Python 3.12. The port is chosen at connect(), so that ports are
# shared between targets.
IP_BIND_ADDRESS_NO_PORT = 24

CAUSE_OF_ERRNO = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.ETIMEDOUT: "timeout",
}


def open_socket(plan: Plan, number: int) -> socket.SocketType:
    """The socket of the run's attempt `number`, bound to the source whose turn it is. Raises
    OSError.
    """
    sock = socket.SocketType(plan.family, SOCKET_TYPE)
    try:
        if plan.mode in ("echo", "fan-out"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if plan.sources:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((plan.sources[number % len(plan.sources)], 0))
    except OSError:
        sock.close()
        raise
    return sock


def named(code: int | None) -> str:
    """An errno's name."""
    return errno.errorcode.get(code or 0, str(code))


def tls_context(plan: Plan) -> ssl.SSLContext:
    """How the plan wants servers verified."""
    context = ssl.create_default_context(cafile=plan.tls_ca)
    if not plan.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
