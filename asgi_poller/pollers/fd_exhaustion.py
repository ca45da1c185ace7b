"""When there is no descriptor left for the next connection.

The kernel's queue keeps such a connection, and a level-triggered wait reports it for ever: a poller
that merely tried again would spin, and the client would wait in vain. So each poller keeps one
descriptor in reserve, takes the connection in with it, says 503 and closes. Where even that fails,
it rests for a bounded time.

Most shortages are over in a moment: connections are on their way to workers, each with a descriptor
here meanwhile, or a burst of short ones is about to end. So nobody is refused before `Patience` is
at its end; the kernel's queue holds them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable

from asgi_poller import platform
from asgi_poller.asgi.error_response import error_response
from asgi_poller.handoff.thread_lane import close_connection
from asgi_poller.pollers.accept4 import AcceptCall

logger = logging.getLogger("asgi_poller.error")

_DETAIL = "Service Unavailable\n"

#: Octets of a request that are read and thrown away before the close: what is left unread would
#: turn the close into a reset, and the client would never see the answer (RFC 9112, 9.6).
_DISCARD_BYTES = 65536

#: An episode of shortage ends when there was none for so long.
EPISODE_QUIET_S = 5.0

#: Seconds for which a shortage is waited out before connections are refused: short beside what
#: clients put up with, long beside a hand-over.
PATIENCE_S = 0.5
#: Connections which, accepted within that time, show that descriptors come free.
_PASSING_COUNT = 64
#: Seconds between attempts meanwhile.
PATIENT_REST_S = 0.005


class Episodes:
    """One log entry when a shortage starts and one when it has ended, however many polls it takes.

    Shared by all pollers; any thread. `clock` gives monotonic seconds.
    """

    __slots__ = ("_clock", "_last", "_lock", "_refused", "_since", "_what")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._what = ""  # empty: no episode
        self._since = self._last = 0.0
        self._refused = 0

    def __bool__(self) -> bool:
        """Whether an episode is under way."""
        return bool(self._what)

    def note(self, number: int, *, refused: bool) -> None:
        """accept() failed for `number` (an errno); `refused`: the connection was turned away."""
        with self._lock:
            self._last = self._clock()
            self._refused += refused
            if self._what:
                return
            self._what = errno.errorcode.get(number, str(number))
            self._since = self._last
        logger.error("cannot accept: %s; new connections get 503 meanwhile", _explain(number))

    def settle(self, *, ended: bool = False) -> None:
        """Close the episode if it has been quiet for long, or at once if `ended`."""
        with self._lock:
            quiet = self._clock() - self._last
            if not self._what or (quiet < EPISODE_QUIET_S and not ended):
                return
            what, self._what = self._what, ""
            refused, self._refused = self._refused, 0
            lasted = self._last - self._since
        logger.warning(
            "accepting normally again: the shortage (%s) lasted %.1f s, %d connections got 503",
            what,
            lasted,
            refused,
        )


def _explain(number: int) -> str:
    if number == errno.EMFILE:
        limit = platform.descriptor_limit()
        return f"all {limit} descriptors of this process are in use (EMFILE); raise `ulimit -n`"
    if number == errno.ENFILE:
        return "the system has no descriptors left (ENFILE); raise the sysctl fs.file-max"
    return f"the system has no memory for sockets ({errno.errorcode.get(number, number)})"


class Patience:
    """Whether a shortage may still pass by itself. Owned by one poller's thread.

    It lasts `PATIENCE_S` from a shortage's start, and starts again whenever enough connections
    could be accepted meanwhile: then descriptors do come free. `clock` gives monotonic seconds.
    """

    __slots__ = ("_accepted", "_clock", "_last", "_since")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = self._last = float("-inf")
        self._accepted = 0

    def lasts(self, accepted: int) -> bool:
        """Whether to wait rather than to refuse. `accepted`: connections accepted so far."""
        now = self._clock()
        ended = now - self._last >= EPISODE_QUIET_S
        self._last = now
        if ended or accepted - self._accepted >= _PASSING_COUNT:
            self._since, self._accepted = now, accepted
        return now - self._since < PATIENCE_S


class Refuser:
    """Turns connections away by means of a reserve descriptor. Shared by the pollers of a front
    end; any thread.

    Between giving the reserve up and accepting in its place, another poller may accept a connection
    with it. Then nobody could be refused any more, until a client leaves, and those that wait would
    wait in vain: so a poller that has accepted something while the reserve is out calls `mend`.
    """

    __slots__ = ("_lock", "_reserve")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reserve = platform.ReserveDescriptor()

    @property
    def is_whole(self) -> bool:
        """Whether the reserve is there; not while another thread uses it."""
        return self._reserve.is_there

    def refuse_one(self, accept: AcceptCall, *, tls: bool) -> bool:
        """Accept one connection with the reserve, answer 503 and close it.

        False if the reserve was not there or not enough: the caller should rest. `tls`: the peer
        expects a handshake, and plain octets would only confuse it: it is just closed. Raises
        BlockingIOError if there was no connection any more.
        """
        with self._lock:
            if not self._reserve.spend():
                self._reserve.restore()
                return False
            try:
                fd, _ = accept()
            except BlockingIOError:
                raise
            except OSError:
                return False  # another thread took the descriptor first, or the system has none
            else:
                answer_and_close(fd, tls=tls)
                return True
            finally:
                self._reserve.restore()

    def mend(self, fd: int, *, tls: bool) -> bool:
        """See that the reserve is there; whether accepted connection `fd` was refused for that."""
        with self._lock:
            if self._reserve.restore():
                return False
            answer_and_close(fd, tls=tls)
            self._reserve.restore()
            return True

    def close(self) -> None:
        """Give the reserve up."""
        with self._lock:
            self._reserve.close()


def answer_and_close(fd: int, *, tls: bool) -> None:
    """Answer 503 without waiting, and close. A TLS peer is only closed."""
    if tls:
        close_connection(fd)
        return
    try:
        connection = socket.socket(fileno=fd)
    except OSError:  # the system could not say what it is
        close_connection(fd)
        return
    with connection, contextlib.suppress(OSError):  # the peer may be gone: it is closed anyway
        connection.setblocking(False)
        connection.send(error_response(503, _DETAIL))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(_DISCARD_BYTES)
