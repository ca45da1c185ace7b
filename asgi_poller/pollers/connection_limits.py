"""Limits on connections: which ones are admitted, decided before a loop is touched.

`ConnectionLimits` counts and decides; it neither reads nor writes a socket (`rate_limiter` does).
Without any limit there is no ConnectionLimits at all, and nothing is paid for it.

    setting                    counted                                           excess gets
    limit_connections          everything that is open                           503
    limit_connections_per_ip   one IPv4 address, or one IPv6 /64                 429
    limit_channels             WebSockets                                        503
    limit_accept_rate          connections a second (token bucket, one second    waits; past
                               of it may come at once)                           limit_pending: 503

An IPv6 /64 is what one customer is given, so its addresses are free for the taking. Peers of unix
sockets have no address: the limit for each address does not count them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.handoff.connection_table import (
    CAPACITY_COUNT,
    FIRST_WORKER,
    LAST_WORKER,
    TICKET_NONE,
    ConnectionTable,
    Tickets,
)

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_NETWORK_BYTES = 8  # a /64


class Hosts(Protocol):
    """A set of hosts, such as TrustedHosts."""

    def __contains__(self, host: str, /) -> bool: ...


class Refusal(Enum):
    """Why a connection is turned away; the value is the name that it is counted under."""

    CONNECTIONS = "connections"
    CONNECTIONS_PER_IP = "connections_per_ip"
    CHANNELS = "websockets"
    ACCEPT_RATE = "accept_rate"


def address_key(peer: Any) -> str | bytes | None:
    """What connections from `peer` (as accept() gives it) are counted by; None: by nothing.

    The IPv4 address, written or mapped, as text; the /64 of an IPv6 address in 8 octets.
    """
    if not isinstance(peer, tuple) or not peer:
        return None
    host: str = peer[0]
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host  # from a PROXY header perhaps: as good a name as any
    if packed.startswith(_MAPPED):
        return socket.inet_ntoa(packed[len(_MAPPED) :])
    return packed[:_NETWORK_BYTES]


class TokenBucket:
    """`rate` tokens a second, at most one second's worth of them in stock. The caller's lock.

    Seconds are those of the caller's clock, which must not run backwards.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token."""
        self._fill(now)
        return max(0.0, (1.0 - self._tokens) / self._rate)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


class ConnectionLimits:
    """Decides who is let in. Any thread; one short lock, no system call under it.

    `exempt` holds hosts that the limit for each address does not count (proxies, which speak for
    many); for those that tell the true address later (PROXY protocol), see `identify`. `table` is
    made here unless workers need a shared one.
    """

    __slots__ = (
        "_config",
        "_exempt",
        "_lock",
        "_stream_count",
        "_tickets",
        "_workers",
        "end",
        "table",
    )

    def __init__(
        self,
        config: Config,
        *,
        exempt: Hosts = (),
        table: ConnectionTable | None = None,
    ) -> None:
        self._config = config
        self._exempt = exempt
        self._lock = threading.Lock()
        self.table = table or ConnectionTable(config.limit_connections or CAPACITY_COUNT)
        self._tickets = Tickets(self.table)
        self._stream_count = 0  # WebSockets that are streams of HTTP/2
        self._workers: set[int] = set()
        #: `end(ticket)`: the connection has ended. Exactly once, from any thread, without a lock.
        self.end: Callable[[int], None] = self.table.end

    @property
    def open_count(self) -> int:
        """Connections that are in, now."""
        with self._lock:
            self._tickets.collect()
            return self._tickets.open_count

    @property
    def websocket_count(self) -> int:
        """WebSockets, as far as `open_websocket` and `begin_stream` were called."""
        with self._lock:
            self._tickets.collect()
            streams = self._stream_count + self.table.stream_count
            return self._tickets.websocket_count + streams

    def enter(self, peer: Any) -> int | Refusal:
        """A ticket for a connection from `peer` (as accept() gives it), or why there is none.

        The holder of the connection calls `end(ticket)` when it is closed.
        """
        with self._lock:
            tickets, config = self._tickets, self._config
            limit = config.limit_connections
            if limit is not None and tickets.open_count >= limit:
                tickets.collect()
                if tickets.open_count >= limit:
                    return Refusal.CONNECTIONS
            key = None
            if config.limit_connections_per_ip is not None:
                key = self._key(peer)
                if self._is_full(key):
                    return Refusal.CONNECTIONS_PER_IP
            ticket = tickets.take(key)
            return Refusal.CONNECTIONS if ticket == TICKET_NONE else ticket

    def identify(self, ticket: int, peer: Any) -> Refusal | None:
        """The connection is really `peer`'s: a PROXY header said so. The ticket stays valid.

        Idempotent. Returns a Refusal if `peer` has its share already: answer, close, `end(ticket)`.
        """
        if self._config.limit_connections_per_ip is None:
            return None
        with self._lock:
            key = self._key(peer)
            if key == self._tickets.key(ticket):
                return None
            if self._is_full(key):
                return Refusal.CONNECTIONS_PER_IP
            self._tickets.set_key(ticket, key)
            return None

    def open_websocket(self, ticket: int) -> Refusal | None:
        """The connection asks to become a WebSocket. Counted until `end(ticket)`. Idempotent.

        For the reader of the request head in this process: a poller, or one of its loops.
        """
        limit = self._config.limit_channels
        if limit is None:
            return None
        with self._lock:
            tickets = self._tickets
            if tickets.is_websocket(ticket):
                return None
            if self._has_all_websockets(limit):
                return Refusal.CHANNELS
            tickets.set_websocket(ticket)
            return None

    def begin_stream(self) -> Refusal | None:
        """A stream of HTTP/2 asks to become a WebSocket: one of many on a connection, whose ticket
        says nothing of them. Counted until `end_stream`. For the loops of this process.
        """
        limit = self._config.limit_channels
        with self._lock:
            if limit is not None and self._has_all_websockets(limit):
                return Refusal.CHANNELS
            self._stream_count += 1
            return None

    def end_stream(self) -> None:
        """Such a WebSocket has ended. Once for each."""
        with self._lock:
            self._stream_count -= 1

    def _has_all_websockets(self, limit: int) -> bool:
        streams = self._stream_count + self.table.stream_count
        if self._tickets.websocket_count + streams < limit:
            return False
        self._tickets.collect()
        return self._tickets.websocket_count + streams >= limit

    def new_worker(self) -> int:
        """The number under which a worker process marks its tickets. OperatorFault if all are
        out.
        """
        with self._lock:
            for worker in range(FIRST_WORKER, LAST_WORKER + 1):
                if worker not in self._workers:
                    self._workers.add(worker)
                    return worker
        most = LAST_WORKER - FIRST_WORKER + 1
        raise OperatorFault(f"--workers: limits on connections can count {most} at once, no more")

    def worker_died(self, worker: int) -> int:
        """Forget everything that a dead worker process had; returns how many connections that was.

        After `table.take_back` for those that its lane gives back. The number is free again.
        """
        with self._lock:
            self._workers.discard(worker)
            self.table.count_websockets(worker, streams=0, others=0)
            return self._tickets.forget_worker(worker)

    def _key(self, peer: Any) -> str | bytes | None:
        if isinstance(peer, tuple) and peer and peer[0] in self._exempt:
            return None
        return address_key(peer)

    def _is_full(self, key: str | bytes | None) -> bool:
        limit = self._config.limit_connections_per_ip
        if key is None or limit is None or self._tickets.count(key) < limit:
            return False
        self._tickets.collect()
        return self._tickets.count(key) >= limit


def make_connection_limits(
    config: Config,
    *,
    exempt: Hosts = (),
    table: ConnectionTable | None = None,
) -> ConnectionLimits | None:
    """The ConnectionLimits of a configuration; None where it sets no limit, so that nothing is
    paid.
    """
    return ConnectionLimits(config, exempt=exempt, table=table) if has_limits(config) else None


def has_limits(config: Config) -> bool:
    """Whether there is any limit on connections."""
    return any(
        limit is not None
        for limit in (
            config.limit_connections,
            config.limit_connections_per_ip,
            config.limit_channels,
            config.limit_accept_rate,
        )
    )
