"""Responses that carry their request's id (`--request-id`), unless the application gives one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from asgi_poller.asgi.request_id import HEADER
from asgi_poller.asgi.scope import Peer
from asgi_poller.loops.http_responses import HttpResponses, Owner
from asgi_poller.loops.server_state import ServerState
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import DefaultHeaders, ResponseEncoder


class IdentifiedHeaders:
    """The header lines that every response has, and the id of the one at hand. Owned by the loop's
    thread.
    """

    __slots__ = ("_default_headers", "_line")

    def __init__(self, default_headers: DefaultHeaders) -> None:
        self._default_headers = default_headers
        self._line = b""

    def __call__(self, given: Mapping[bytes, bytes]) -> bytes:
        """Whole lines; `given` are the application's fields that the server may set too."""
        return self._default_headers(given) + self._line

    def identify(
        self, request_id: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> Iterable[tuple[bytes, bytes]]:
        """The next response is to this request, and has these headers: gives them back."""
        fields = list(headers)
        self._line = b"" if _has_id(fields) else HEADER + b": " + request_id + b"\r\n"
        return fields


def _has_id(fields: list[tuple[bytes, bytes]]) -> bool:
    try:
        return any(name.lower() == HEADER for name, _ in fields)
    except (AttributeError, TypeError, ValueError):  # no header fields: the encoder says so
        return False


class IdentifiedResponses(HttpResponses):
    """See HttpResponses; each request has its `request_id`."""

    __slots__ = ("_headers",)

    def __init__(
        self, owner: Owner, peer: Peer, transport: asyncio.Transport, server: ServerState
    ) -> None:
        super().__init__(owner, peer, transport, server)
        self._headers = IdentifiedHeaders(server.default_headers)
        self._encoder = ResponseEncoder(self._headers)

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        headers = self._headers.identify(request.request_id, headers)
        super().send_head(request, status, headers, body=body, more_body=more_body)

    def _fields_of_refusal(self, request: RequestHead) -> tuple[tuple[bytes, bytes], ...]:
        return ((HEADER, request.request_id),)


def responses_of(
    owner: Owner, peer: Peer, transport: asyncio.Transport, server: ServerState
) -> HttpResponses:
    """What a connection writes its responses with."""
    if server.scopes.id_proxies is None:
        return HttpResponses(owner, peer, transport, server)
    return IdentifiedResponses(owner, peer, transport, server)
