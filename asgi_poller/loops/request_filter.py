"""Rules that every request must keep before an application sees it: `--allow-hosts`,
`--ws-allow-origins`, `--limit-request-body`.

Loops apply them to each request; pollers that read request heads (`pollers/head_reader.py`) apply
the same ones to the first request of a connection, before an event loop is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from asgi_poller.config import Config
from asgi_poller.errors import HttpFault
from asgi_poller.protocols.host_origin import HostMatcher, OriginMatcher
from asgi_poller.protocols.http1.parser import HeadLimits, RequestHead


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Immutable: any thread. None: anything goes. `body_bytes` bounds a request's body."""

    hosts: HostMatcher | None = None
    origins: OriginMatcher | None = None
    body_bytes: int | None = None

    def __bool__(self) -> bool:
        """Whether there is any rule that concerns requests that are no WebSocket."""
        return self.hosts is not None or self.body_bytes is not None

    def check(self, head: RequestHead) -> None:
        """Raises HttpFault for a request that is not to be served."""
        if self.hosts is not None and not self.hosts.allows(head.header(b"host")):
            raise HttpFault(400, "this host is not served here")
        if self.body_bytes is not None and head.has_body:
            length = head.header(b"content-length")
            # few digits: the parser has refused all others
            if length is not None and int(length) > self.body_bytes:
                raise HttpFault(413, "the request body is too large")

    def check_websocket(self, head: RequestHead) -> None:
        """Raises HttpFault for a WebSocket handshake that is not to be served."""
        self.check(head)
        if self.origins is None:
            return
        origins = [value for name, value in head.headers if name == b"origin"]
        origin = b",".join(origins) if origins else None
        if not self.origins.allows(origin, head.header(b"host")):
            raise HttpFault(403, "this origin may not open WebSockets here")


def request_filter(config: Config) -> RequestFilter:
    """The rules that the configuration gives. Raises ConfigError for a bad pattern."""
    return RequestFilter(
        HostMatcher(config.allow_hosts) if config.allow_hosts else None,
        OriginMatcher(config.ws_allow_origins) if config.ws_allow_origins else None,
        config.limit_request_body,
    )


def head_limits(config: Config) -> HeadLimits:
    """How large a request's head may be."""
    return HeadLimits(
        line_bytes=config.limit_request_line,
        field_count=config.limit_request_fields,
        field_bytes=config.limit_request_field_size,
        head_bytes=config.limit_request_head,
    )
