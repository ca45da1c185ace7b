"""HTTP/1.1 responses from an ASGI message to octets (RFC 9112): heads, chunks, and the answers we
give ourselves.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable

from asgi_poller.errors import ApplicationFault

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b""))
    for status in range(100, 600)
}
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_KNOWN_NAMES: dict[bytes, bytes] = {}  # names that were found valid, with their colon
_KNOWN_NAMES_LIMIT = 1024  # an application that makes names up must not fill the memory


def phrase(status: int) -> bytes:
    """The reason phrase of `status`, empty if it has none (RFC 9110, 15)."""
    return _PHRASES.get(status, b"")


def status_line(status: int) -> bytes:
    """Raises ApplicationFault for a status that is not one."""
    try:
        return _STATUS_LINES[status]
    except (KeyError, TypeError):
        raise ApplicationFault(f"{status!r} is not an HTTP status") from None


def encode_fields(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[bytes], frozenset[bytes]]:
    """Header fields as pieces to join, and the lower-case names among them that framing depends on.

    Raises ApplicationFault for names and values that could split the response (RFC 9110, 5.5).
    """
    pieces: list[bytes] = []
    framing = _NO_FRAMING
    for name, value in headers:
        prefix = _KNOWN_NAMES.get(name) or _learn_name(name)
        if prefix in _FRAMING_PREFIXES:
            framing |= {prefix[:-2].lower()}
        pieces.append(prefix)
        pieces.append(value)
        pieces.append(b"\r\n")
    return pieces, framing


def check_head(head: bytes, lines: int) -> None:
    """Raise ApplicationFault unless `head` has exactly `lines` line ends and no stray CR, LF or
    NUL.

    One count over the whole head is what validating each value comes to, at a tenth of the cost.
    """
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise ApplicationFault("a header value has a CR, LF or NUL in it")


_NO_FRAMING: frozenset[bytes] = frozenset()
_FRAMING_NAMES = (b"content-length", b"transfer-encoding", b"connection", b"date", b"server")
_FRAMING_PREFIXES = frozenset(
    spelled + b": " for name in _FRAMING_NAMES for spelled in (name, name.title(), name.upper())
)


def _learn_name(name: bytes) -> bytes:
    if not isinstance(name, bytes):
        raise ApplicationFault(f"header names are bytes, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise ApplicationFault(f"{name!r} is not a header name")
    lower = name.lower()
    # an odd spelling (Content-LENGTH) is written in lower case, so that framing names are always
    # recognised
    prefix = (lower if lower in _FRAMING_NAMES else name) + b": "
    if len(_KNOWN_NAMES) < _KNOWN_NAMES_LIMIT:
        _KNOWN_NAMES[bytes(name)] = prefix
    return prefix


def encode_chunk(body: bytes) -> bytes:
    """One chunk (RFC 9112, 7.1); `body` must not be empty, since an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def simple_response(
    status: int, detail: str, extra: Iterable[tuple[bytes, bytes]] = (), *, head_only: bool = False
) -> bytes:
    """A whole plain-text answer that also ends the connection: what peers get from us, not from an
    application.
    """
    body = detail.encode("ascii", "replace")
    fields = b"".join(b"%b: %b\r\n" % field for field in extra)
    head = (
        b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: %d\r\n%b\r\n" % (status, phrase(status), len(body), fields)
    )
    return head if head_only else head + body
