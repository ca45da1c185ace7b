"""HTTP/1.1 responses from an ASGI message to octets (RFC 9112): heads, chunks, and the answers we
give ourselves.
"""

from __future__ import annotations

import http
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from asgi_poller.errors import ApplicationFault
from asgi_poller.protocols.http1.headers import NO_HEADERS, encode_headers
from asgi_poller.protocols.http1.parser import RequestHead

DefaultHeaders: TypeAlias = Callable[[Mapping[bytes, bytes]], bytes]
"""Gives the header lines that every response has, but for those that the application gives itself
(by lower-case name)."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\n"

_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_STATUS_LINES: dict[object, bytes] = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b""))
    for status in range(200, 600)
}


def phrase(status: int) -> bytes:
    """The reason phrase of `status`, empty if it has none (RFC 9110, 15)."""
    return _PHRASES.get(status, b"")


def status_line(status: object) -> bytes:
    """Of what an application gives. Raises ApplicationFault for a status that a response cannot
    have: 1xx are no responses.
    """
    try:
        return _STATUS_LINES[status]
    except (KeyError, TypeError):
        raise ApplicationFault(f"{status!r} is not the status of a response") from None


class Framing(NamedTuple):
    """How a response's body ends (RFC 9112, 6.3) and what happens to its connection.

    `expected_bytes` is the Content-Length, None without one; `has_body` is False where there must
    be none, whatever the application sends (RFC 9110, 6.4.1).
    """

    has_body: bool
    is_chunked: bool
    expected_bytes: int | None
    keep_alive: bool


def encode_head(
    request: RequestHead,
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    default_headers: DefaultHeaders,
    body_bytes: int | None,
) -> tuple[bytes, Framing]:
    """The head of a response to `request`, and how its body is to be framed.

    `body_bytes` is the length of a body that is known in whole, None for one that is streamed.
    Raises ApplicationFault for headers that are not valid, contradict each other, or could split
    the response (RFC 9110, 5.5).
    """
    lines = [status_line(status), b""]
    given = encode_headers(headers, lines)
    lines[1] = default_headers(given)
    has_body = status not in _BODILESS and request.method != "HEAD"
    keep_alive = request.keep_alive
    is_chunked = False
    expected = None
    if given:
        if status in _BODILESS:  # RFC 9110, 8.6 and 15.4.5: a length would be of a body
            given = _without_framing(given, lines)
        if b"content-length" in given:
            expected = int(given[b"content-length"])
        if expected is None or len(given) > 1:
            is_chunked = _is_chunked(given)
            if is_chunked and request.http_version == "1.0":
                # RFC 9112, 6.1: such a client does not know it
                lines.remove(b"transfer-encoding: " + given[b"transfer-encoding"] + b"\r\n")
                is_chunked = False
            if b"close" in given.get(b"connection", b"").lower():
                keep_alive = False
    if has_body and expected is None and not is_chunked:
        if body_bytes is not None:
            lines.append(b"content-length: %d\r\n" % body_bytes)
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
    if has_body and not is_chunked and body_bytes is not None and expected in (None, body_bytes):
        return head, WHOLE_KEPT if keep_alive else _WHOLE_CLOSED
    return head, Framing(has_body, is_chunked, expected if has_body else None, keep_alive)


def _without_framing(given: Mapping[bytes, bytes], lines: list[bytes]) -> Mapping[bytes, bytes]:
    names = (b"content-length", b"transfer-encoding")
    for name in names:
        if name in given:
            lines.remove(name + b": " + given[name] + b"\r\n")
    return {name: value for name, value in given.items() if name not in names}


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
_BODILESS = frozenset({204, 304})  # RFC 9110, 6.4.1


def encode_chunk(body: bytes) -> bytes:
    """One chunk (RFC 9112, 7.1); `body` must not be empty, since an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def encode_early_hint(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An interim response (RFC 8297). Raises ApplicationFault for headers that are not valid."""
    lines = [_EARLY_HINTS]
    encode_headers(headers, lines)
    lines.append(b"\r\n")
    return b"".join(lines)


# The heads of the last responses, by all that they are made of: within a second, whose Date is one
# of these things, most are like one before. All are forgotten when there are too many.
_HEADS: dict[tuple[object, ...], tuple[bytes, Framing]] = {}
_HEADS_LIMIT = 512
_KEPT_HEAD_BYTES = 1024


class ResponseEncoder:
    """The responses on one connection, one after the other, each from its head to its last piece.

    `default_headers` gives the header lines that every response has.
    """

    __slots__ = ("_default_headers", "_expected_bytes", "_framing", "keep_alive")

    def __init__(self, default_headers: DefaultHeaders) -> None:
        self._default_headers = default_headers
        self._framing = WHOLE_KEPT
        self._expected_bytes: int | None = None  # of the body at hand, still to come
        self.keep_alive = True  # after the response at hand the connection may serve another one

    def head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> bytes:
        """The head of the next response and the first piece of its body. Raises ApplicationFault,
        as `encode_head` and `body` do.
        """
        body_bytes = None if more_body else len(body)
        default_headers = self._default_headers
        fields = _as_tuple(headers)
        key = (
            default_headers(NO_HEADERS),
            status,
            fields,
            body_bytes,
            request.keep_alive,
            request.http_version,
            request.method,
            default_headers,
        )
        try:
            head, framing = _HEADS[key]
        except (KeyError, TypeError) as error:
            head, framing = encode_head(
                request, status, fields, default_headers=default_headers, body_bytes=body_bytes
            )
            if isinstance(error, KeyError) and len(head) <= _KEPT_HEAD_BYTES:
                if len(_HEADS) >= _HEADS_LIMIT:
                    _HEADS.clear()
                _HEADS[key] = head, framing
        self._framing = framing
        self.keep_alive = framing.keep_alive
        if framing is not WHOLE_KEPT:
            self._expected_bytes = framing.expected_bytes
            body = self.body(body, more_body)
        return head + body if body else head

    def body(self, body: bytes, more_body: bool) -> bytes:
        """A piece of the body as it goes on the wire, perhaps nothing. Raises ApplicationFault
        where the body does not have the length that its head says.
        """
        framing = self._framing
        if not framing.has_body:
            return b""
        if self._expected_bytes is not None:
            self._expect(len(body), more_body)
        if framing.is_chunked:
            body = encode_chunk(body) if body else b""
            if not more_body:
                body += LAST_CHUNK
        return body

    def _expect(self, body_bytes: int, more_body: bool) -> None:
        if self._expected_bytes is not None:
            left = self._expected_bytes = self._expected_bytes - body_bytes
            if left < 0 or (left and not more_body):
                word = "longer" if left < 0 else "shorter"
                raise ApplicationFault(f"response body is {word} than its Content-Length")

    def begin_file(self, count: int, more_body: bool) -> bytes | None:
        """What comes before `count` bytes of the body, which are one chunk; None where there must
        be no body. Raises ApplicationFault, as `body` does.
        """
        if not self._framing.has_body:
            return None
        self._expect(count, more_body)
        return b"%x\r\n" % count if count and self._framing.is_chunked else b""

    def end_file(self, count: int, more_body: bool) -> bytes:
        """What comes behind them."""
        if not (self._framing.has_body and self._framing.is_chunked):
            return b""
        return (b"\r\n" if count else b"") + (b"" if more_body else LAST_CHUNK)

    def trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The end of a body all of whose pieces were given with `more_body`: a chunked one's with
        trailer fields (RFC 9112, 7.1.2), nothing where there is no place for them. Raises
        ApplicationFault where the body is shorter than its head says.
        """
        if self._expected_bytes and self._framing.has_body:
            raise ApplicationFault("response body is shorter than its Content-Length")
        if not (self._framing.is_chunked and self._framing.has_body):
            return b""
        lines = [b"0\r\n"]
        encode_headers(headers, lines)
        lines.append(b"\r\n")
        return b"".join(lines)


def _as_tuple(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    try:
        return tuple(headers)
    except TypeError as error:
        raise ApplicationFault(f"headers are pairs of bytes: {error}") from error


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
