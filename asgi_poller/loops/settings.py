"""What a loop must know of the configuration, worked out once and handed to the connections in
small pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

from asgi_poller.config import Config
from asgi_poller.protocols.http1.parser import HeadLimits


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """HTTP connections. Seconds; a limit of None is no limit."""

    head_limits: HeadLimits
    first_octet_timeout_s: float
    header_timeout_s: float
    body_timeout_s: float | None
    keep_alive_s: float
    write_timeout_s: float | None
    concurrency_limit: int | None
    ws_enabled: bool


@dataclass(frozen=True, slots=True)
class WebSocketSettings:
    """WebSocket deadlines, in seconds; None is no deadline. `send_limit` is in octets."""

    ping_interval_s: float | None
    ping_timeout_s: float | None
    close_timeout_s: float
    accept_timeout_s: float | None
    send_limit: int = 65536
    slow_s: float | None = None  # None: slow peers are waited for
    lifetime_s: float | None = None
    lifetime_jitter_s: float = 0.0
    idle_s: float | None = None


def connection_settings(config: Config) -> ConnectionSettings:
    return ConnectionSettings(
        head_limits=HeadLimits(
            line_bytes=config.limit_request_line,
            field_count=config.limit_request_fields,
            field_bytes=config.limit_request_field_size,
            head_bytes=config.limit_request_head,
        ),
        first_octet_timeout_s=config.timeout_first_octet,
        header_timeout_s=config.timeout_request_header,
        body_timeout_s=config.timeout_request_body or None,
        keep_alive_s=config.timeout_keep_alive,
        write_timeout_s=config.timeout_write or None,
        concurrency_limit=config.limit_concurrency,
        ws_enabled=config.ws != "none",
    )


def websocket_settings(config: Config) -> WebSocketSettings:
    return WebSocketSettings(
        ping_interval_s=config.ws_ping_interval or None,
        ping_timeout_s=config.ws_ping_timeout or None,
        close_timeout_s=config.ws_close_timeout,
        accept_timeout_s=config.ws_accept_timeout or None,
        send_limit=config.ws_send_limit,
        slow_s=config.ws_slow_consumer_timeout if config.ws_slow_consumer == "close" else None,
        lifetime_s=config.ws_max_lifetime or None,
        lifetime_jitter_s=config.ws_max_lifetime_jitter,
        idle_s=config.ws_idle_timeout or None,
    )
