"""Responses from an ASGI message to HTTP/2's fields (RFC 9113, 8.3.2), with HTTP/1.1's checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, TypeAlias

from asgi_poller.errors import ApplicationFault
from asgi_poller.protocols.http1.headers import encode_headers
from asgi_poller.protocols.http1.parser import RequestHead

Field = tuple[bytes, bytes]
DefaultFields: TypeAlias = Callable[[Collection[bytes]], Iterable[Field]]
"""Gives the fields that every response has, but for those that the application gives itself (by
lower-case name)."""

_BODILESS: Final = frozenset((204, 304))  # RFC 9110, 6.4.1
_STATUSES: Final = {status: b"%d" % status for status in range(100, 600)}
# RFC 9113, 8.2.2: what an application says of an HTTP/1.1 connection, HTTP/2 has no place for
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)

# Applications send the same few fields again and again: once found valid, they are kept.
_FIELDS: dict[Field, Field] = {}
_FIELDS_LIMIT = 2048
_KEPT_VALUE_BYTES = 128


def response_fields(headers: Iterable[Iterable[Any]]) -> list[Field]:
    """What an application gives, checked, names in lower case. Raises ApplicationFault."""
    fields: list[Field] = []
    try:
        for name, value in headers:
            given = name, value
            if given in _FIELDS:
                fields.append(_FIELDS[given])
                continue
            encode_headers((given,), [])  # raises for what is no header field
            lower = name.lower()
            if lower in _OF_CONNECTIONS:
                continue
            field = lower, value.strip(b" \t")
            if len(value) <= _KEPT_VALUE_BYTES and len(_FIELDS) < _FIELDS_LIMIT:
                _FIELDS[given] = field
            fields.append(field)
    except (TypeError, ValueError, AttributeError) as error:
        raise ApplicationFault(f"headers are pairs of bytes: {error}") from error
    return fields


class ResponseBody:
    """What may follow a response's head: how much, or nothing."""

    __slots__ = ("_left_bytes", "is_allowed")

    def __init__(self, is_allowed: bool, expected_bytes: int | None) -> None:
        self.is_allowed = is_allowed
        self._left_bytes = expected_bytes if is_allowed else None

    def take(self, body: bytes, more_body: bool) -> bytes:
        """The next piece as it is to be sent. Raises ApplicationFault where the body does not have
        the length that its head says.
        """
        if not self.is_allowed:
            return b""
        self.expect(len(body), more_body)
        return body

    def expect(self, body_bytes: int, more_body: bool) -> None:
        """So many bytes of it come next. Raises ApplicationFault, as `take` does."""
        if self.is_allowed and self._left_bytes is not None:
            left = self._left_bytes = self._left_bytes - body_bytes
            if left < 0 or (left and not more_body):
                word = "longer" if left < 0 else "shorter"
                raise ApplicationFault(f"response body is {word} than its Content-Length")


def response_head(
    request: RequestHead,
    status: int,
    headers: Iterable[Iterable[Any]],
    *,
    default_fields: DefaultFields,
    body_bytes: int | None,
) -> tuple[list[Field], ResponseBody]:
    """The fields of a response's head, and what may follow. `body_bytes` is the length of a body
    that is known in whole, None for one that is streamed. Raises ApplicationFault.
    """
    fields = response_fields(headers)
    names = {name for name, _ in fields}
    has_body = status not in _BODILESS and request.method != "HEAD"
    expected = None
    if b"content-length" in names:
        lengths = [value for name, value in fields if name == b"content-length"]
        if len(lengths) > 1:
            raise ApplicationFault("more than one content-length header")
        expected = int(lengths[0])
        if status in _BODILESS:  # RFC 9110, 8.6: a length would be of a body
            fields = [field for field in fields if field[0] != b"content-length"]
    elif has_body and body_bytes is not None:
        fields.append((b"content-length", b"%d" % body_bytes))
    head = [(b":status", _STATUSES[status]), *fields, *default_fields(names)]
    return head, ResponseBody(has_body, expected)
