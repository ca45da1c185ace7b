"""What stands between accept() and the lanes: limits, PROXY headers, and who reads request heads,
put together as the configuration says. Where nothing is asked for there is nothing.
"""

from __future__ import annotations

import os
from typing import Any

from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.handoff.connection_table import CAPACITY_COUNT, ConnectionTable
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.loops.request_filter import request_filter
from asgi_poller.loops.settings import connection_settings
from asgi_poller.pollers.connection_limits import (
    ConnectionLimits,
    LimitSettings,
    make_connection_limits,
)
from asgi_poller.pollers.head_reader import HeadReaderSettings
from asgi_poller.pollers.master_poller import Admit
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.pollers.rate_limit import RateLimiter

_POSIX = os.name == "posix"


class LocalCounter:
    """The door of cores in the pollers' process: they count exactly. Any thread."""

    def __init__(self, connection_limits: ConnectionLimits) -> None:
        self._connection_limits = connection_limits
        self.end = connection_limits.end

    def open_websocket(self, ticket: int) -> bool:
        return ticket < 0 or self._connection_limits.open_websocket(ticket) is None

    def identify(self, ticket: int, peer: Any) -> bool:
        return self._connection_limits.identify(ticket, peer) is None


class SharedCounter:
    """The door of cores in workers: ends cross to the pollers' process, questions do not. Those are
    the head reader's, or a core's share. Any thread.
    """

    def __init__(self, table: ConnectionTable) -> None:
        self.end = table.end

    def open_websocket(self, ticket: int) -> bool:
        return True

    def identify(self, ticket: int, peer: Any) -> bool:
        return True


class LimitsWiring:
    """Made before the poller pool, which gets `admit`, `end_ticket` and `head_reader`; `start`
    before the poller pool, `stop` after it. `workers`: cores are in other processes.
    """

    def __init__(
        self, config: Config, listeners: tuple[ListenerInfo, ...], *, workers: bool
    ) -> None:
        limits = limit_settings(config)
        trusted = TrustedHosts(config.forwarded_allow_ips)
        table = None
        if workers and limits:
            table = ConnectionTable(limits.limit_connections or CAPACITY_COUNT, inheritable=True)
        self.connection_limits = make_connection_limits(limits, exempt=trusted, table=table)
        self._rate_limiter: RateLimiter | None = None
        if self.connection_limits is not None:
            self._rate_limiter = RateLimiter(
                self.connection_limits, limits, listeners, stamp=_stamp, ticket_of=_ticket_of
            )
        self.head_reader: HeadReaderSettings | None = None
        if reads_heads(config, workers=workers):
            settings = connection_settings(config)
            self.head_reader = HeadReaderSettings(
                limits=settings.head_limits,
                first_octet_s=settings.first_octet_timeout_s,
                timeout_s=settings.header_timeout_s,
                rules=request_filter(config),
                ws_enabled=settings.ws_enabled,
                proxies=trusted if config.proxy_protocol else None,
                connection_limits=self.connection_limits,
                hands_parser=not workers,
            )

    @property
    def admit(self) -> Admit | None:
        """For the poller pool: decides on each connection."""
        return self._rate_limiter

    def end_ticket(self, ticket: int) -> None:
        """For whoever closes a connection that no core has. Any thread."""
        if self.connection_limits is not None:
            self.connection_limits.end(ticket)

    def start(self, poller_pool: PollerPool) -> None:
        """Let go on what is held back, at its rate."""
        if self._rate_limiter is not None:
            self._rate_limiter.start(poller_pool.receive)

    def stop(self) -> None:
        """Close what is held back. Idempotent."""
        if self._rate_limiter is not None:
            self._rate_limiter.stop()


def limit_settings(config: Config) -> LimitSettings:
    """The part of the configuration that limits connections."""
    return LimitSettings(
        limit_connections=config.limit_connections,
        limit_connections_per_ip=config.limit_connections_per_ip,
        limit_channels=config.limit_channels,
        limit_accept_rate=config.limit_accept_rate,
        limit_pending=config.limit_pending,
    )


def reads_heads(config: Config, *, workers: bool) -> bool:
    """`--direct-handshake`. Not said: only where workers could not keep a limit otherwise, which
    must be counted in one process and needs the request's head, or the PROXY header before it.

    Raises ConfigError where a system cannot do it.
    """
    wanted = config.direct_handshake
    if wanted and not _POSIX:
        raise ConfigError("--direct-handshake", "not on this system; leave it out")
    if wanted is not None:
        return wanted
    by_client = config.proxy_protocol and config.limit_connections_per_ip is not None
    return _POSIX and workers and (config.limit_channels is not None or by_client)


def _stamp(accepted: Accepted, ticket: int) -> Accepted:
    return accepted._replace(ticket=ticket)


def _ticket_of(accepted: Accepted) -> int:
    return accepted.ticket
