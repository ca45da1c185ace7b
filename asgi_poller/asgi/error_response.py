"""The answers that are ours and not an application's: refusals, faults, failures."""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate

from asgi_poller.protocols.http1.response import simple_response

#: Seconds after which a client may try again (RFC 9110, 10.2.3).
RETRY_AFTER_S = 1
_TRY_AGAIN = frozenset({429, 503})


def error_response(
    status: int,
    detail: str,
    extra: Iterable[tuple[bytes, bytes]] = (),
    *,
    head_only: bool = False,
    retry_after_s: int = RETRY_AFTER_S,
) -> bytes:
    """A whole HTTP/1.1 response; the connection is to be closed after it. Any thread.

    It carries Date, which 4xx need (RFC 9110, 6.6.1), and with 429 and 503 Retry-After.
    """
    fields = _fields(status, extra, retry_after_s)
    return simple_response(status, detail, fields, head_only=head_only)


def error_fields(
    status: int, detail: str, extra: Iterable[tuple[bytes, bytes]] = ()
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The same for HTTP/2: its fields, and its body."""
    body = detail.encode("ascii", "replace")
    fields = [
        (b":status", b"%d" % status),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        *_fields(status, extra, RETRY_AFTER_S),
    ]
    return fields, body


def _fields(
    status: int, extra: Iterable[tuple[bytes, bytes]], retry_after_s: int
) -> list[tuple[bytes, bytes]]:
    fields = [(b"date", formatdate(time.time(), usegmt=True).encode()), *extra]
    if status in _TRY_AGAIN:
        fields.append((b"retry-after", b"%d" % retry_after_s))
    return fields
