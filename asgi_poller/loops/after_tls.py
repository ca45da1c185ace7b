"""Makes a connection after its TLS handshake, which says what protocol it will speak (RFC 7301)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Made(Protocol):
    """The connection, as this module sees it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...


class AfterTls(asyncio.Protocol):
    """Stands for a connection during the handshake. `make` gets the protocol that ALPN chose, None
    where the client offered none.
    """

    __slots__ = ("_make", "is_made")

    def __init__(self, make: Callable[[str | None], Made]) -> None:
        self._make = make
        self.is_made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        protocol = self._make(tls.selected_alpn_protocol())
        self.is_made = True
        transport.set_protocol(protocol)  # type: ignore[arg-type]  # it has the methods
        protocol.connection_made(transport)
