"""The door itself: applies ConnectionLimits to each accepted connection.

A poller pool calls its rate limiter for every connection, on the poller's thread. What is let in is
returned at once. What is turned away is answered (503 or 429 with Retry-After; nothing on a TLS
listener, whose peer could not read it) and closed. What exceeds the accept rate is held back, in
order, until its turn comes.

One thread, `MasterPoller-rate limiter`, does what has to happen later: it hands over what was held
back, at the rate, and closes answered connections after a moment. That moment matters: closing a
socket whose request has not been read, or has yet to arrive, resets the connection, and the client
may lose the answer (RFC 9112, 9.6). The thread sleeps while there is nothing to do, and none of it
can grow: `limit_pending` connections are held back, 256 linger.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from asgi_poller import platform
from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.refusal_log import note_refusal
from asgi_poller.config import Config
from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.handoff.thread_lane import close_connection
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.pollers.connection_limits import (
    ConnectionLimits,
    Refusal,
    TokenBucket,
)

HandOver = Callable[[list[Accepted]], list[Accepted]]
"""Gives a batch to the lanes and returns what none of them took: `PollerPool.hand_over`."""

RETRY_AFTER_S = 5  # where nobody can say when there will be room
# Unit: seconds and sockets. Longer and more would be safer for slow clients and dearer under
# attack; a socket over the limit closes the oldest at once.
LINGER_S = 1.0
LINGER_LIMIT_COUNT = 256
# Unit: octets of a refused request that are read and thrown away before the close.
_DISCARD_BYTES = 65536
# Unit: seconds. How long to wait where no lane takes what has been held back.
_RETRY_S = 0.05

_STATUS = {
    Refusal.CONNECTIONS: (503, "Too many connections\n"),
    Refusal.CONNECTIONS_PER_IP: (429, "Too many connections from your address\n"),  # RFC 6585, 4
    Refusal.CHANNELS: (503, "Too many WebSockets\n"),
    Refusal.ACCEPT_RATE: (503, "Too many new connections\n"),
}


def refusal_response(refusal: Refusal, retry_after_s: int = RETRY_AFTER_S) -> bytes:
    """The whole HTTP/1.1 response for a refused connection. The connection is to be closed."""
    status, detail = _STATUS[refusal]
    return error_response(status, detail, retry_after_s=retry_after_s)


def refusal_words(refusal: Refusal) -> str:
    """For the log: `503 Too many connections`."""
    status, detail = _STATUS[refusal]
    return f"{status} {detail.strip()}"


class RateLimiter:
    """Applies `connection_limits` at the door. Called by any poller's thread; owns its one own
    thread.

    What it lets in has a ticket: whoever closes that connection, loop or poller, calls
    `connection_limits.end(ticket)`. `listeners` are those that `Accepted.listener` refers to.
    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        connection_limits: ConnectionLimits,
        config: Config,
        listeners: Sequence[ListenerInfo],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connection_limits = connection_limits
        self._listeners = listeners
        self._clock = clock
        self._exception_log = ExceptionLog(clock)
        rate = config.limit_accept_rate
        self._bucket = None if rate is None else TokenBucket(rate, clock())
        self._pending_limit = config.limit_pending
        # When the last of them would have had its turn, a client may try again.
        wait_s = RETRY_AFTER_S if rate is None else math.ceil(config.limit_pending / rate)
        self._retry_after_s = max(1, min(wait_s, 60))
        self._pending: deque[Accepted] = deque()
        self._lingering: deque[tuple[float, socket.socket]] = deque()
        self._condition = threading.Condition()
        self._hand_over: HandOver | None = None
        self._stopped = False
        self._thread = threading.Thread(
            target=self._run, name="MasterPoller-turnstile", daemon=True
        )

    @property
    def pending(self) -> int:
        """Connections that are held back now."""
        return len(self._pending)

    def start(self, hand_over: HandOver) -> None:
        """Start the thread; `hand_over` gets what has been held back. Once, before the pollers."""
        self._hand_over = hand_over
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Close what is held back or lingers, and end the thread. After the pollers. Idempotent.

        False if a lane keeps the thread for longer than `timeout_s` seconds.
        """
        with self._condition:
            self._stopped = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._condition:
            for accepted in self._pending:
                self.drop(accepted)
            self._pending.clear()
            self._close_lingering(math.inf)
        return not self._thread.is_alive()

    def __call__(self, accepted: Accepted) -> Accepted | None:
        """What to hand over; None if the connection was turned away or is held back."""
        ticket = self.connection_limits.enter(accepted.peer)
        if isinstance(ticket, Refusal):
            self.turn_away(accepted, ticket)
            return None
        try:
            accepted = accepted._replace(ticket=ticket)
            place = self._place(accepted)
        except BaseException:  # or the limit would count it for ever
            self.connection_limits.end(ticket)
            raise
        if isinstance(place, Refusal):
            self.connection_limits.end(ticket)
            self.turn_away(accepted, place)
            return None
        return place

    def _place(self, accepted: Accepted) -> Accepted | Refusal | None:
        """`accepted` itself if it may go on, None if it is held back."""
        if self._bucket is None:
            return accepted
        with self._condition:
            # Those who came before go first, whatever the bucket holds by now.
            if not self._pending and self._bucket.take(self._clock()):
                return accepted
            if len(self._pending) < self._pending_limit and not self._stopped:
                if not self._pending:
                    self._condition.notify()  # it waits for this lock first
                self._pending.append(accepted)
                return None
        self.connection_limits.refuse(Refusal.ACCEPT_RATE)
        return Refusal.ACCEPT_RATE

    def turn_away(self, accepted: Accepted, refusal: Refusal) -> None:
        """Answer `accepted`, whose ticket has been seen to, and close it after a moment. If it
        raises, the descriptor is the caller's.
        """
        note_refusal(refusal_words(refusal), accepted.peer)
        info = self._listeners[accepted.listener]
        if info.tls:
            close_connection(accepted.fd)
            return
        connection = socket.socket(info.family, socket.SOCK_STREAM, 0, fileno=accepted.fd)
        retry_after_s = self._retry_after_s if refusal is Refusal.ACCEPT_RATE else RETRY_AFTER_S
        try:
            connection.setblocking(False)
            connection.send(refusal_response(refusal, retry_after_s))
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()  # the peer has gone already
            return
        except BaseException:  # the descriptor stays the caller's, who closes it
            connection.detach()
            raise
        with self._condition:
            self._lingering.append((self._clock() + LINGER_S, connection))
            if len(self._lingering) > LINGER_LIMIT_COUNT or self._stopped:
                _close(self._lingering.popleft()[1])
            elif len(self._lingering) == 1:
                self._condition.notify()

    def drop(self, accepted: Accepted) -> None:
        """Close a connection that was let in and that no core adopted."""
        try:
            self.connection_limits.end(accepted.ticket)
        finally:
            close_connection(accepted.fd)

    # The thread

    def _run(self) -> None:
        platform.begin_service_thread()
        while True:
            with self._condition:
                if self._stopped:
                    return
                now = self._clock()
                self._close_lingering(now)
                batch = self._due(now)
                if not batch:
                    self._condition.wait(self._next_s(now))
                    continue
            assert self._hand_over is not None  # start() came first
            try:
                left = self._hand_over(batch)
            except Exception:  # it does not keep its promise: this thread is everybody's
                self._exception_log.exception("connections that were held back are closed")
                for accepted in batch:
                    self.drop(accepted)
                continue
            if left:
                with self._condition:
                    self._pending.extendleft(reversed(left))
                    if not self._stopped:
                        self._condition.wait(_RETRY_S)

    def _due(self, now: float) -> list[Accepted]:
        batch: list[Accepted] = []
        while self._pending and self._bucket is not None and self._bucket.take(now):
            batch.append(self._pending.popleft())
        return batch

    def _next_s(self, now: float) -> float | None:
        """Seconds until there is something to do; None: until there is a notification."""
        waits = []
        if self._pending and self._bucket is not None:
            waits.append(self._bucket.wait_s(now))
        if self._lingering:
            waits.append(max(0.0, self._lingering[0][0] - now))
        return min(waits, default=None)

    def _close_lingering(self, now: float) -> None:
        while self._lingering and self._lingering[0][0] <= now:
            _close(self._lingering.popleft()[1])


def _close(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):  # nothing there, or reset: closed all the same
        connection.recv(_DISCARD_BYTES)
