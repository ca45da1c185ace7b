"""What HTTP/2 peers may do at most."""

from __future__ import annotations

from dataclasses import dataclass, field

from asgi_poller.protocols.http1.parser import HeadLimits


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Windows are bytes that may be sent before we say more (RFC 9113, 5.2); a stream's is also
    what may wait for an application. `websockets`: WebSockets are taken (RFC 8441).
    """

    head: HeadLimits = field(default_factory=HeadLimits)
    stream_count: int = 100
    stream_window_bytes: int = 262144
    connection_window_bytes: int = 1048576
    websockets: bool = True
