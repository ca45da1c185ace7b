"""What an exchange writes its response to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from asgi_poller.protocols.http1.parser import RequestHead


class FileTransfer(Protocol):
    """A file on its way to the peer, without the exchange's help."""

    @property
    def done(self) -> asyncio.Future[None]:
        """Nothing more is sent; perhaps not all of it was."""

    @property
    def sent_bytes(self) -> int: ...

    def stop(self) -> None:
        """At once: its descriptor is not used any more. More than once does no harm."""


class FilePort(Protocol):
    """Where a file can be a piece of the body: `begin_file`, then its bytes, then `end_file`."""

    def begin_file(self, count: int, more_body: bool) -> bool:
        """`count` bytes follow, behind all that was sent before; whether the response has a body.
        Raises ApplicationFault, and writes nothing, where it does not have that length.
        """

    def send_file(
        self, fd: int, offset: int, count: int, *, note: Callable[[int], None] | None = None
    ) -> FileTransfer | None:
        """Let the kernel send them, `note` is told how many; None where it cannot."""

    def send_file_piece(self, data: bytes) -> None:
        """Those that the kernel did not send."""

    def end_file(self, count: int, more_body: bool) -> None:
        """All are sent."""


class ResponsePort(Protocol):
    """The connection as its exchange sees it: whatever version of HTTP it speaks encodes there.

    A response is `send_head`, any number of `send_body`, perhaps `send_trailers`, `end`; or
    `refuse` alone; or it breaks off with `abort`. What sends raises ApplicationFault, and writes
    nothing, for what cannot be encoded.
    """

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        """The head and the first piece of the body, which is all of it unless `more_body`."""

    def send_body(self, body: bytes, more_body: bool) -> None: ...

    def send_trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The end of a body that was sent with `more_body`, and fields behind it if there is a
        place for them (RFC 9110, 6.5).
        """

    def files(self) -> FilePort | None:
        """For bodies that are files; None where there are none."""

    def send_early_hint(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """103 Early Hints (RFC 8297), before the head."""

    def end(self) -> None:
        """The response is complete."""

    def abort(self) -> None:
        """The response cannot be completed: the peer must see that it breaks off."""

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        """A whole response that is ours and not the application's; nothing follows it."""

    def send_continue(self) -> None:
        """100 Continue (RFC 9110, 15.2.1)."""

    def set_reading(self, on: bool) -> None: ...
