"""HTTP/1.1 responses from an ASGI message to octets (RFC 9112): heads, chunks, and the answers we
give ourselves.
"""

from __future__ import annotations

import http
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from asgi_poller.errors import ApplicationFault
from asgi_poller.wire.http1 import RequestHead

DefaultFields: TypeAlias = Callable[[Mapping[bytes, bytes]], tuple[bytes, int]]
"""Gives the header lines that every response has, and how many they are, but for those that the
application gives itself (by lower-case name)."""

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


class Framing(NamedTuple):
    """How a response's body ends (RFC 9112, 6.3) and what happens to its connection.

    `expected_octets` is the Content-Length, None without one; `has_body` is False where there must
    be none, whatever the application sends (RFC 9110, 6.4.1).
    """

    has_body: bool
    is_chunked: bool
    expected_octets: int | None
    keep_alive: bool


def encode_head(
    request: RequestHead,
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    default_fields: DefaultFields,
    body_octets: int | None,
) -> tuple[bytes, Framing]:
    """The head of a response to `request`, and how its body is to be framed.

    `body_octets` is the length of a body that is known in whole, None for one that is streamed.
    Raises ApplicationFault for headers that are not valid, contradict each other, or could split
    the response (RFC 9110, 5.5).
    """
    lines = [status_line(status), b""]
    given = encode_fields(headers, lines)
    lines[1], count = default_fields(given)
    has_body = status not in _BODILESS and request.method != "HEAD"
    keep_alive = request.keep_alive
    is_chunked = False
    expected = None
    if given:
        expected = _content_length(given)
        if len(given) > 1 or expected is None:
            is_chunked = _is_chunked(given)
            if b"close" in given.get(b"connection", b"").lower():
                keep_alive = False
    if has_body and expected is None and not is_chunked:
        if body_octets is not None:
            lines.append(b"content-length: %d\r\n" % body_octets)
        elif request.http_version == "1.1":
            is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            keep_alive = False  # the body ends with the connection
    if not keep_alive:
        if b"connection" not in given:
            lines.append(b"connection: close\r\n")
    elif request.http_version == "1.0" and b"connection" not in given:
        lines.append(b"connection: keep-alive\r\n")
    lines.append(b"\r\n")
    head = b"".join(lines)
    check_lines(head, len(lines) - 1 + count)
    if has_body and not is_chunked and body_octets is not None and expected in (None, body_octets):
        return head, WHOLE_KEPT if keep_alive else _WHOLE_CLOSED
    return head, Framing(has_body, is_chunked, expected if has_body else None, keep_alive)


def encode_fields(
    headers: Iterable[tuple[bytes, bytes]], lines: list[bytes]
) -> Mapping[bytes, bytes]:
    """Append a line for each header to `lines`; returns those fields that are the server's business
    too, by lower-case name. Raises ApplicationFault for a name that is none.
    """
    given: dict[bytes, bytes] | None = None
    for name, value in headers:
        prefix = _KNOWN_NAMES.get(name) or _learn_name(name)
        lines.append(prefix + value + b"\r\n")
        if prefix in _SHARED_PREFIXES:
            if given is None:
                given = {}
            shared = prefix[:-2].lower()
            if shared == b"content-length" and given.get(shared, value) != value:
                raise ApplicationFault("two different Content-Length headers")
            given[shared] = value
    return _NOTHING if given is None else given


def check_lines(head: bytes, count: int) -> None:
    """Raise ApplicationFault unless `head` has exactly `count` line ends and no stray CR, LF, NUL.

    One count over the whole head is what validating each value comes to, at a tenth of the cost.
    """
    if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head:
        raise ApplicationFault("a header value has a CR, LF or NUL in it")


def _content_length(given: Mapping[bytes, bytes]) -> int | None:
    value = given.get(b"content-length")
    if value is None:
        return None
    if not value.isdigit():
        raise ApplicationFault(f"{value!r} is not a Content-Length")
    return int(value)


def _is_chunked(given: Mapping[bytes, bytes]) -> bool:
    value = given.get(b"transfer-encoding")
    if value is None:
        return False
    if value.lower() != b"chunked":
        raise ApplicationFault(f"transfer coding {value!r} is not supported")
    if b"content-length" in given:
        raise ApplicationFault("Content-Length and Transfer-Encoding exclude each other")
    return True


# What nearly every response is: whole, its length known and right.
WHOLE_KEPT = Framing(True, False, None, True)
_WHOLE_CLOSED = Framing(True, False, None, False)
_BODILESS = frozenset({204, 304, *range(100, 200)})  # RFC 9110, 6.4.1
_NOTHING: Mapping[bytes, bytes] = MappingProxyType({})
_SHARED_NAMES = (b"content-length", b"transfer-encoding", b"connection", b"date", b"server")
_SHARED_PREFIXES = frozenset(
    spelled + b": " for name in _SHARED_NAMES for spelled in (name, name.title(), name.upper())
)


def _learn_name(name: bytes) -> bytes:
    if not isinstance(name, bytes):
        raise ApplicationFault(f"header names are bytes, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise ApplicationFault(f"{name!r} is not a header name")
    lower = name.lower()
    # an odd spelling (Content-LENGTH) is written in lower case, so that framing names are always
    # recognised
    prefix = (lower if lower in _SHARED_NAMES else name) + b": "
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
