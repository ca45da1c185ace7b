"""Header fields that an application gives, as lines that are safe to send (RFC 9110, 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from asgi_poller.errors import ApplicationFault
from asgi_poller.protocols.http1.parser import LENGTH_DIGITS

# Fields that are the server's business too: they frame the message or would stand there twice.
_SHARED_NAMES = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"date", b"server"}
)
# What frames or routes a message, or says what its body is, comes before it (RFC 9110, 6.5.1).
_NOT_IN_TRAILERS = frozenset(
    {
        *(b"content-length", b"transfer-encoding", b"connection", b"trailer", b"te", b"host"),
        *(b"content-type", b"content-encoding", b"content-range", b"set-cookie"),
        *(b"authorization", b"www-authenticate", b"cache-control", b"expires", b"location"),
    }
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_BAD_VALUE = re.compile(rb"[\r\n\0]")  # RFC 9110, 5.5: what could split a message

# Applications send the same few fields again and again: once found valid, their lines are kept.
_LINES: dict[tuple[bytes, bytes], bytes] = {}
_LINES_LIMIT = 2048
_KEPT_VALUE_BYTES = 128
NO_HEADERS: Mapping[bytes, bytes] = MappingProxyType({})


def encode_headers(headers: Iterable[Iterable[Any]], lines: list[bytes]) -> Mapping[bytes, bytes]:
    """Append a line for each header to `lines`; returns those that are the server's business too,
    by lower-case name. `headers` are what an application gives: pairs of bytes, also as lists.

    Raises ApplicationFault for what is no header field, or could split the message.
    """
    shared = NO_HEADERS
    try:
        for name, value in headers:
            if name == b"content-length" and shared is NO_HEADERS and _is_length(value):
                shared = {name: value}
                lines.append(b"content-length: " + value + b"\r\n")
                continue
            field = name, value
            if field in _LINES:  # not dict.get(): without the GIL it takes a lock
                line = _LINES[field]
            else:
                lower = _checked_name(name).lower()
                value = _checked_value(name, value)
                if lower in _SHARED_NAMES:
                    shared = _add_shared(shared, lower, value)
                    # written in lower case: the server looks for it there
                    name = lower
                line = _encode(name, value, keep=lower not in _SHARED_NAMES)
            lines.append(line)
    except (TypeError, ValueError, AttributeError) as error:
        raise ApplicationFault(f"headers are pairs of bytes: {error}") from error
    return shared


def checked_trailers(headers: Iterable[Iterable[Any]]) -> list[tuple[bytes, bytes]]:
    """Trailer fields that an application gives, with names in lower case. Raises ApplicationFault
    for what is no field, or may not come behind a body (RFC 9110, 6.5.1).
    """
    try:
        given = [(name, value) for name, value in headers]
    except (TypeError, ValueError) as error:
        raise ApplicationFault(f"headers are pairs of bytes: {error}") from error
    encode_headers(given, [])  # raises for what is no header field
    fields = [(name.lower(), value) for name, value in given]
    for name, _ in fields:
        if name in _NOT_IN_TRAILERS:
            raise ApplicationFault(f"{name.decode()} cannot be a trailer (RFC 9110, 6.5.1)")
    return fields


def _encode(name: bytes, value: bytes, *, keep: bool) -> bytes:
    if _BAD_VALUE.search(value):
        raise ApplicationFault(f"the value of {name!r} has a CR, LF or NUL in it")
    line = bytes(name) + b": " + value + b"\r\n"
    if keep and len(value) <= _KEPT_VALUE_BYTES and len(_LINES) < _LINES_LIMIT:
        _LINES[bytes(name), value] = line
    return line


def _checked_name(name: object) -> bytes:
    if not isinstance(name, bytes):
        raise ApplicationFault(f"header names are bytes, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise ApplicationFault(f"{name!r} is not a header name")
    return name


def _checked_value(name: bytes, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ApplicationFault(f"the value of {name!r} is not bytes: {value!r}")
    return value


def _is_length(value: bytes) -> bool:
    """Whether `value` is a Content-Length: digits, and so few that int() takes them."""
    return value.isdigit() and len(value) <= LENGTH_DIGITS


def _add_shared(shared: Mapping[bytes, bytes], name: bytes, value: bytes) -> Mapping[bytes, bytes]:
    if name == b"content-length" and not _is_length(value):
        raise ApplicationFault(f"{value!r} is not a Content-Length")
    if name in shared:
        if name in (b"content-length", b"transfer-encoding"):  # clients refuse even equal ones
            raise ApplicationFault(f"more than one {name.decode()} header")
        value = shared[name] + b", " + value
    return {**shared, name: value}
