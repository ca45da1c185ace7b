"""Options: which versions of HTTP are spoken, and HTTP/2."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from asgi_poller.settings.kinds import choice, integer, optional, seconds, size
from asgi_poller.settings.option import option

KIB = 1024
MIB = 1024 * 1024
_LEAST_BYTES = 65535  # RFC 9113, 6.9.2
_MOST_BYTES = 2**31 - 1  # RFC 9113, 6.9.1

#: The answer to HTTP/1.1 with `--http 2` (RFC 9110, 15.6.6).
ONLY_HTTP2 = "only HTTP/2 is spoken here"


def is_http2_spoken(http: str) -> bool:
    """Whether the option `http` means HTTP/2 too: auto does where the library is installed."""
    return http != "1" and importlib.util.find_spec("h2") is not None


@dataclass(frozen=True, kw_only=True, init=False)
class Http2:
    """HTTP/2."""

    __slots__ = ()

    http: str = option(
        "auto",
        choice("auto", "1", "2", also=("httptools", "h11", "zttp")),
        "Versions of HTTP. auto: 1.1, and 2 where h2 is installed.",
        note="HTTP/2 needs `pip install 'asgi-poller[http2]'`. Clients choose it by ALPN on TLS, "
        "and by prior knowledge on plain connections. uvicorn's option of this name chooses a "
        "parser: its httptools is 1.",
        uvicorn="auto",
    )
    http2_max_concurrent_streams: int = option(
        100,
        integer(1, 2**31 - 1),
        "HTTP/2: requests and WebSockets at once on a connection. Further ones are refused.",
    )
    http2_initial_stream_window_size: int = option(
        256 * KIB,
        size(_LEAST_BYTES, _MOST_BYTES),
        "HTTP/2: bytes of a request's body, or of WebSocket messages, that may wait to be read.",
    )
    http2_initial_connection_window_size: int = option(
        1 * MIB,
        size(_LEAST_BYTES, _MOST_BYTES),
        "HTTP/2: bytes that all streams of a connection may have on their way.",
    )
    http2_keep_alive_interval: float | None = option(
        None,
        optional(seconds(), zero_is_none=True),
        "HTTP/2: seconds between PINGs to a client. 0: none.",
    )
    http2_keep_alive_timeout: float = option(
        20.0,
        seconds(0.001),
        "HTTP/2: seconds in which something must come after a PING; else the connection ends.",
    )
