"""Rejector: answers connections that are turned away, and closes each in a lingering close.

A close resets a connection whose request has not been read or has yet to arrive, and the client may
lose the answer (RFC 9112, 9.6). So the socket is read for a moment, and what comes is thrown away.
The peer of a TLS listener could not read an answer: it is only closed.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.refusal_log import note_refusal
from asgi_poller.handoff.thread_lane import close_connection
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.metrics.refusals import Refusals
from asgi_poller.pollers.connection_limits import Refusal
from asgi_poller.pollers.epoll_waiter import Waiter

RETRY_AFTER_S = 5  # where nobody can say when there will be room
# Unit: seconds and sockets, of each poller. Longer and more would be safer for slow clients and
# dearer under attack; a socket over the limit closes the oldest at once.
LINGER_S = 1.0
LINGER_LIMIT_COUNT = 256
_DISCARD_LIMIT_BYTES = 1024 * 1024
_READ_BYTES = 65536

_STATUS = {
    Refusal.CONNECTIONS: (503, "Too many connections\n"),
    Refusal.CONNECTIONS_PER_IP: (429, "Too many connections from your address\n"),  # RFC 6585, 4
    Refusal.CHANNELS: (503, "Too many WebSockets\n"),
    Refusal.ACCEPT_RATE: (503, "Too many new connections\n"),
}


class Rejected(Exception):
    """The connection gets `answer` and is closed: logged as `words`, and counted under `name` (one
    of REFUSALS; None: the status that `words` begin with).
    """

    def __init__(self, name: str | None, answer: bytes, words: str) -> None:
        super().__init__(words)
        self.name = name
        self.answer = answer
        self.words = words


def over_limit(refusal: Refusal, retry_after_s: int = RETRY_AFTER_S) -> Rejected:
    """The rejection of a connection that a limit refuses: a whole HTTP/1.1 response."""
    status, detail = _STATUS[refusal]
    answer = error_response(status, detail, retry_after_s=retry_after_s)
    return Rejected(refusal.value, answer, f"{status} {detail.strip()}")


@dataclass(slots=True)
class _Lingering:
    connection: socket.socket
    deadline: float
    bytes_left: int = _DISCARD_LIMIT_BYTES


class Rejector:
    """Owned by one poller's thread, whose waiter reports what rejected clients send. `listeners`
    are those that `Accepted.listener` refers to, `clock` gives monotonic seconds. `refusals` are
    counted for all pollers together.
    """

    __slots__ = ("_clock", "_lingering", "_listeners", "_waiter", "refusals")

    def __init__(
        self,
        listeners: Sequence[ListenerInfo],
        waiter: Waiter,
        clock: Callable[[], float] = time.monotonic,
        *,
        refusals: Refusals | None = None,
    ) -> None:
        self.refusals = refusals or Refusals()
        self._listeners = listeners
        self._waiter = waiter
        self._clock = clock
        self._lingering: OrderedDict[int, _Lingering] = OrderedDict()  # the oldest first

    def reject(self, accepted: Accepted, rejected: Rejected) -> None:
        """Answer `accepted`, and close it after a moment. Its ticket is the caller's. If it raises,
        the descriptor is, too.
        """
        self.note(accepted, rejected.words, rejected.name)
        info, fd = self._listeners[accepted.listener], accepted.fd
        if info.tls:
            close_connection(fd)
            return
        self._waiter.watch(fd, shared=False)
        # The last thing that can fail: from here on the descriptor is that object's.
        connection = socket.socket(info.family, socket.SOCK_STREAM, 0, fd)
        self._lingering[fd] = _Lingering(connection, self._clock() + LINGER_S)
        try:
            connection.send(rejected.answer)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has closed already, or never reads
            self._close(fd)
            return
        if len(self._lingering) > LINGER_LIMIT_COUNT:
            self._close(next(iter(self._lingering)))

    def note(self, accepted: Accepted, words: str, name: str | None = None) -> None:
        """A connection is turned away, with whatever answer: log it, and count it under `name`, or
        else the status that `words` begin with.
        """
        note_refusal(words, accepted.peer)
        self.refusals.count(name or words)

    def on_readable(self, fd: int) -> bool:
        """Read from a rejected client; False if `fd` is none."""
        lingering = self._lingering.get(fd)
        if lingering is None:
            return False
        try:
            count = len(lingering.connection.recv(_READ_BYTES))
        except BlockingIOError:
            return True
        except OSError:
            count = 0
        lingering.bytes_left -= count
        if not count or lingering.bytes_left < 0:
            self._close(fd)
        return True

    def __len__(self) -> int:
        """Connections whose peers have not read their answer yet."""
        return len(self._lingering)

    def next_s(self) -> float | None:
        """Seconds until one is to be closed; None: there is none."""
        if not self._lingering:
            return None
        return max(0.0, next(iter(self._lingering.values())).deadline - self._clock())

    def tend(self) -> None:
        """Close those whose time is over."""
        now = self._clock()
        while self._lingering:
            fd, lingering = next(iter(self._lingering.items()))
            if lingering.deadline > now:
                break
            self._close(fd)

    def close(self) -> None:
        """The poller ends: close them all."""
        for fd in list(self._lingering):
            self._close(fd)

    def _close(self, fd: int) -> None:
        lingering = self._lingering.pop(fd)
        self._waiter.forget(fd)
        with contextlib.suppress(OSError):  # reset by the peer: closed all the same
            lingering.connection.close()
