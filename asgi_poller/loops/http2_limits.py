"""Whether a loop speaks HTTP/2, and what it holds its peers to."""

from __future__ import annotations

from asgi_poller.config import Config
from asgi_poller.loops.request_filter import head_limits
from asgi_poller.protocols.http2.limits import Http2Limits
from asgi_poller.settings.http2 import is_http2_spoken


def http2_limits(config: Config) -> Http2Limits | None:
    """None where HTTP/2 is not spoken. The h2 library, which takes a moment to load, is loaded
    before the first connection needs it.
    """
    if not is_http2_spoken(config.http):
        return None
    import asgi_poller.protocols.http2.connection  # noqa: F401

    return Http2Limits(
        head=head_limits(config),
        stream_count=config.http2_max_concurrent_streams,
        stream_window_bytes=config.http2_initial_stream_window_size,
        connection_window_bytes=config.http2_initial_connection_window_size,
        websockets=config.ws != "none",
    )
