"""Limits, PROXY headers and reading of request heads, put together for the pollers of a process as
the configuration says. Without such an option nothing is made.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.handoff.connection_table import CAPACITY_COUNT, ConnectionTable
from asgi_poller.loops.accepted_socket import ListenerInfo
from asgi_poller.loops.request_filter import request_filter
from asgi_poller.pollers.connection_limits import (
    ConnectionLimits,
    has_limits,
    make_connection_limits,
)
from asgi_poller.pollers.head_reader import HeadReaderSettings
from asgi_poller.pollers.rate_limit import Admit, HeldBack, RateLimiter

_POSIX = os.name == "posix"


class LocalCounter:
    """For loops in the pollers' process: they count exactly. Any thread."""

    def __init__(self, connection_limits: ConnectionLimits) -> None:
        self._connection_limits = connection_limits
        self.end = connection_limits.end
        self.end_stream = connection_limits.end_stream

    def open_websocket(self, ticket: int) -> bool:
        return ticket < 0 or self._connection_limits.open_websocket(ticket) is None

    def begin_stream(self) -> bool:
        return self._connection_limits.begin_stream() is None

    def identify(self, ticket: int, peer: Any) -> bool:
        return self._connection_limits.identify(ticket, peer) is None


class SharedCounter:
    """For loops in workers: the ends of connections are counted in the pollers' process. What is to
    be refused is refused there, or by each loop's share of --limit-channels; but for WebSockets
    that are streams of HTTP/2, which only the worker sees. Any thread.

    `worker` is one of its numbers in the table, `limit` is --limit-channels.
    """

    def __init__(self, table: ConnectionTable, worker: int, limit: int | None) -> None:
        self._table = table
        self._worker = worker
        self._limit = limit
        self._lock = threading.Lock()
        self._websockets: set[int] = set()  # tickets of those that are no streams
        self._stream_count = 0

    def end(self, ticket: int) -> None:
        if ticket in self._websockets:
            with self._lock:
                self._websockets.discard(ticket)
                self._publish()
        self._table.end(ticket)

    def open_websocket(self, ticket: int) -> bool:
        if ticket >= 0 and self._limit is not None:
            with self._lock:
                self._websockets.add(ticket)
                self._publish()
        return True

    def begin_stream(self) -> bool:
        """Counted before it is looked whether there is room: of two workers that take the last
        place at once both may be refused, and never both let in.
        """
        with self._lock:
            self._stream_count += 1
            self._publish()
            if self._limit is None or self._table.websocket_count <= self._limit:
                return True
            self._stream_count -= 1
            self._publish()
            return False

    def end_stream(self) -> None:
        with self._lock:
            self._stream_count -= 1
            self._publish()

    def _publish(self) -> None:
        self._table.count_websockets(
            self._worker, streams=self._stream_count, others=len(self._websockets)
        )

    def identify(self, ticket: int, peer: Any) -> bool:
        return True


class LimitsWiring:
    """Made before the poller pool, which gets `admit`, `held_back`, `end_ticket` and `head_reader`;
    `stop` after it. `workers`: the loops are in other processes.
    """

    def __init__(
        self, config: Config, listeners: tuple[ListenerInfo, ...], *, workers: bool
    ) -> None:
        trusted = TrustedHosts(config.forwarded_allow_ips)
        table = None
        if workers and has_limits(config):
            table = ConnectionTable(config.limit_connections or CAPACITY_COUNT, inheritable=True)
        self.connection_limits = make_connection_limits(config, exempt=trusted, table=table)
        self._has_rate = config.limit_accept_rate is not None
        self._rate_limiter: RateLimiter | None = None
        if self.connection_limits is not None:
            self._rate_limiter = RateLimiter(self.connection_limits, config)
        self.head_reader: HeadReaderSettings | None = None
        if reads_heads(config, workers=workers):
            self.head_reader = HeadReaderSettings(
                config=config,
                rules=request_filter(config),
                proxies=trusted if config.proxy_protocol else None,
                connection_limits=self.connection_limits,
                hands_parser=not workers,
            )

    @property
    def admit(self) -> Admit | None:
        """For the poller pool: decides on each connection."""
        return self._rate_limiter

    @property
    def held_back(self) -> HeldBack | None:
        """For the poller pool: what waits for --limit-accept-rate."""
        return self._rate_limiter if self._has_rate else None

    def end_ticket(self, ticket: int) -> None:
        """Called for each connection that is closed and that no loop has. Any thread."""
        if self.connection_limits is not None:
            self.connection_limits.end(ticket)

    def stop(self) -> None:
        """Close what is held back. Idempotent."""
        if self._rate_limiter is not None:
            self._rate_limiter.stop()


def reads_heads(config: Config, *, workers: bool) -> bool:
    """Whether pollers read request heads: `--direct-handshake`. Without the option, only where
    workers could not keep a limit otherwise: it takes the head, or the PROXY header before it.

    Raises ConfigError where a system cannot do it.
    """
    wanted = config.direct_handshake
    if wanted and not _POSIX:
        raise ConfigError("--direct-handshake", "not on this system; leave it out")
    if wanted is not None:
        return wanted
    by_client = config.proxy_protocol and config.limit_connections_per_ip is not None
    return _POSIX and workers and (config.limit_channels is not None or by_client)
