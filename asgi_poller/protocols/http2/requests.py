"""Request heads from HTTP/2's fields (RFC 9113, 8.3), as strict as those of HTTP/1.1.

What is wrong with one request is its stream's trouble and not the connection's (RFC 9113, 8.1.1),
so h2 is told not to look, and all of it is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from asgi_poller.errors import HttpFault
from asgi_poller.protocols.http1.host import KNOWN_HOSTS, learn_host
from asgi_poller.protocols.http1.parser import LENGTH_DIGITS, Headers, HeadLimits, RequestHead

Field = tuple[bytes, bytes]

_COLON: Final = ord(":")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
# RFC 9113, 8.2.2: these are of HTTP/1.1 connections
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_NOTED: Final = frozenset(
    (
        *(b"cookie", b"content-length", b"expect", b"host", b"te"),
        *(b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"),
    )
)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")  # RFC 9113, 8.2.1: lower case
_BAD_VALUE = re.compile(rb"[\r\n\0]|^[ \t]|[ \t]\Z")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")  # as llhttp takes it
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 9.1
_SCHEMES: Final = frozenset((b"http", b"https"))
_METHODS: Final = {
    method.encode(): method
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}
_NAMES: dict[bytes, bytes] = {}  # one object for all requests
_NAMES_LIMIT = 1024
_FIELD_OVERHEAD_BYTES = 32  # RFC 9113, 10.5.1


def request_head(
    fields: Iterable[Field], limits: HeadLimits, *, is_complete: bool, websockets: bool
) -> RequestHead:
    """The head that `fields` are. `is_complete`: there is no body. With `websockets` an extended
    CONNECT (RFC 8441, 4) has `upgrade`, and GET for its method as ASGI's WebSockets have.

    Raises HttpFault.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    head = RequestHead("", b"", "2", headers)
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + _FIELD_OVERHEAD_BYTES
        if name[:1] == b":":
            if headers or name not in _PSEUDO or name in pseudo:
                raise HttpFault(400, "a pseudo-header field that may not be there")
            if _BAD_VALUE.search(value):
                raise HttpFault(400, "a pseudo-header field with an invalid value")
            pseudo[name] = value
            continue
        headers.append((_checked(name, value), value))
        if len(name) + len(value) > limits.field_bytes:
            raise HttpFault(431, "a header field is too large")
    if len(headers) > limits.field_count:
        raise HttpFault(431, "too many header fields")
    if size > limits.head_bytes:
        raise HttpFault(431, "the request head is too large")
    head.has_body = not is_complete
    _read_pseudo(head, pseudo, limits, websockets=websockets)
    _read_fields(head, pseudo.get(b":authority"), is_complete=is_complete)
    return head


def announced_bytes(head: RequestHead) -> int | None:
    """How long its body is to be, if it says so; the head is valid."""
    length = head.header(b"content-length") if head.has_body and not head.upgrade else None
    return None if length is None else int(length)


def check_trailers(fields: Iterable[Field]) -> None:
    """Those of a request (RFC 9113, 8.1); ASGI has no place for them. Raises HttpFault."""
    for name, value in fields:
        if name[:1] == b":":
            raise HttpFault(400, "a pseudo-header field in trailers")
        _checked(name, value)


def _checked(name: bytes, value: bytes) -> bytes:
    if name in _NAMES:
        name = _NAMES[name]
    else:
        if not _NAME.fullmatch(name):
            raise HttpFault(400, "an invalid field name")
        if name in _OF_CONNECTIONS:
            raise HttpFault(400, "a field that HTTP/2 does not have")
        if len(_NAMES) < _NAMES_LIMIT:
            _NAMES[name] = name
    if _BAD_VALUE.search(value):
        raise HttpFault(400, "an invalid field value")
    return name


def _read_pseudo(
    head: RequestHead, pseudo: dict[bytes, bytes], limits: HeadLimits, *, websockets: bool
) -> None:
    """RFC 9113, 8.3.1 and 8.5."""
    method = pseudo.get(b":method", b"")
    if not _METHOD.fullmatch(method):
        raise HttpFault(400, "invalid method")
    protocol = pseudo.get(b":protocol")
    if method == b"CONNECT":
        if protocol is None:
            raise HttpFault(501, "CONNECT is not supported")
        if not websockets or protocol.lower() != b"websocket":
            raise HttpFault(501, "this protocol is not supported")
        head.upgrade = b"websocket"
    elif protocol is not None:
        raise HttpFault(400, ":protocol is for CONNECT")
    head.method = _METHODS[method] if method in _METHODS else method.decode("latin-1")
    if pseudo.get(b":scheme", b"").lower() not in _SCHEMES:
        raise HttpFault(400, "the scheme is http or https")
    target = pseudo.get(b":path", b"")
    if len(target) > limits.line_bytes:
        raise HttpFault(414, "the request target is too long")
    if not _TARGET.fullmatch(target) or not (
        target[:1] == b"/" or (target == b"*" and method == b"OPTIONS")
    ):
        raise HttpFault(400, "the path is not valid")
    head.target = target


def _read_fields(head: RequestHead, authority: bytes | None, *, is_complete: bool) -> None:
    headers = head.headers
    host, length, cookies = None, None, 0
    for name, value in headers:
        if name not in _NOTED:
            if b"_" in name:
                head.has_underscores = True
        elif name == b"cookie":
            cookies += 1
        elif name == b"host":
            if host is not None:
                raise HttpFault(400, "exactly one Host header is needed")
            host = value
        elif name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > LENGTH_DIGITS:
                raise HttpFault(400, "the Content-Length is not valid")
            length = value
            if is_complete and int(value):
                raise HttpFault(400, "the body is shorter than its Content-Length")
        elif name == b"te":
            if value.lower() != b"trailers":  # RFC 9113, 8.2.2
                raise HttpFault(400, "TE is trailers in HTTP/2, or nothing")
            head.accepts_trailers = True
        elif name == b"expect":
            head.expects_continue = not is_complete and value.lower() == b"100-continue"
        else:
            head.is_forwarded = True
    _set_host(head, host, authority)
    if cookies > 1:
        _join_cookies(headers)


def _set_host(head: RequestHead, host: bytes | None, authority: bytes | None) -> None:
    """ASGI: HTTP, scope: :authority comes first and is called host; it replaces Host."""
    if authority is None:
        authority = host
    elif host is not None and host.lower() != authority.lower():  # RFC 9113, 8.3.1
        raise HttpFault(400, "Host and :authority are not the same")
    if not authority:
        raise HttpFault(400, "a host is needed")
    if authority not in KNOWN_HOSTS:
        learn_host(authority)
    if host is not None:
        head.headers[:] = [field for field in head.headers if field[0] != b"host"]
    head.headers.insert(0, (b"host", authority))


def _join_cookies(headers: Headers) -> None:
    """HTTP/2 may have a field for each cookie; applications know one (RFC 9113, 8.2.3)."""
    joined = b"; ".join(value for name, value in headers if name == b"cookie")
    at = next(at for at, field in enumerate(headers) if field[0] == b"cookie")
    rest = [field for field in headers[at:] if field[0] != b"cookie"]
    headers[at:] = [(b"cookie", joined), *rest]
