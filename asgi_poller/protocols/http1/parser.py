"""HTTP/1.1 requests from octets to events (RFC 9112), on httptools (llhttp in strict mode).

llhttp rejects what requests are smuggled with: conflicting or repeated length headers, bad chunk
sizes, bare CR or LF, blanks before a colon, folded lines. What it lets pass and should not is
refused here: a missing, repeated or malformed Host, transfer codings that we do not decode,
versions we do not speak, and heads and trailers beyond the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import httptools

from asgi_poller.errors import HttpFault
from asgi_poller.protocols.http1.host import KNOWN_HOSTS, learn_host, take_host_of_target

Headers = list[tuple[bytes, bytes]]

#: Digits of a Content-Length, in requests and responses: enough for 2**63 octets. int() takes no
#: more than 4,300, and raises ValueError beyond.
LENGTH_DIGITS = 19


class _End(Enum):
    END = "end"


END: Final = _End.END  # the request is complete, body and all


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Limits of a request's head, and the answer beyond them (RFC 9112, 3; RFC 6585, 5)."""

    line_bytes: int = 16384  # the request target: 414
    field_count: int = 100  # header fields: 431
    field_bytes: int = 32768  # one field, name and value: 431
    head_bytes: int = 65536  # all of the head: 431


class RequestHead:
    """A request's line and header fields. `target` is as received; names in `headers` are lower
    case.
    """

    __slots__ = (
        "accepts_trailers",
        "expects_continue",
        "has_body",
        "has_underscores",
        "headers",
        "http_version",
        "is_forwarded",
        "keep_alive",
        "method",
        "request_id",
        "target",
        "upgrade",
    )
    request_id: bytes  # there only with --request-id

    def __init__(self, method: str, target: bytes, http_version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.http_version = http_version
        self.headers = headers
        self.keep_alive = True
        self.has_body = False
        self.has_underscores = False  # in the name of a field
        self.is_forwarded = False  # a proxy's header fields are among them
        self.expects_continue = False  # RFC 9110, 10.1.1
        self.accepts_trailers = False  # RFC 9110, 6.5.1: "TE: trailers" says so
        # RFC 9110, 7.8: the protocol that the connection is to change to; b"" for none
        self.upgrade = b""

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field called `name` (lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


RequestEvent = RequestHead | bytes | _End

# Every request repeats a few dozen names. Interning them saves a lower() each, and memory for as
# long as a scope lives.
_COMMON_NAMES = (
    b"Accept Accept-Encoding Accept-Language Authorization Cache-Control Connection "
    b"Content-Length Content-Type Cookie  DNT Expect Forwarded Host If-Modified-Since "
    b"If-None-Match Origin Pragma Priority Range Referer Sec-CH-UA  Sec-CH-UA-Mobile "
    b"Sec-CH-UA-Platform Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User "
    b"Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol Sec-WebSocket-Version TE "
    b"Transfer-Encoding  Upgrade Upgrade-Insecure-Requests User-Agent Via X-Forwarded-For "
    b"X-Forwarded-Host X-Forwarded-Port  X-Forwarded-Proto X-Real-IP X-Request-ID "
).split()
_NAMES: dict[bytes, bytes] = {}
for _name in _COMMON_NAMES:
    _lower = _name.lower()
    _NAMES[_name] = _NAMES[_lower] = _NAMES[_name.title()] = _lower
# Values that most heads carry: one object for all of them.
_VALUES = {
    value: value
    for value in (
        b"websocket",
        b"Upgrade",
        b"upgrade",
        b"keep-alive",
        b"keep-alive, Upgrade",
        b"13",
        b"permessage-deflate",
        b"permessage-deflate; client_max_window_bits",
        b"gzip, deflate",
        b"gzip, deflate, br",
        b"gzip, deflate, br, zstd",
        b"*/*",
        b"no-cache",
    )
}
_FORWARDING_NAMES = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"})
_NOTED_NAMES = _FORWARDING_NAMES | {
    b"host",
    b"upgrade",
    b"expect",
    b"transfer-encoding",
    b"content-length",
    b"connection",
    b"te",
}
_KEPT = frozenset({b"Upgrade", b"upgrade", b"keep-alive", b"keep-alive, Upgrade"})
_VERSIONS = frozenset({"1.1", "1.0"})
_METHODS = {
    method.encode(): method
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}
_VERSION_1_1 = b" HTTP/1.1\r\n"
_TLS_RECORD = b"\x16\x03"  # a handshake's, RFC 8446, 5.1
_TLS_HERE = "TLS on a port for plain HTTP"
_ORIGIN_FORM = (b"/", b"*")  # RFC 9112, 3.2.1 and 3.2.4
_BAD_VERSION = "Invalid HTTP version"  # llhttp's words for digits that are no version it knows


class RequestParser:
    """One connection's requests. Feed `receive`; it returns heads, pieces of bodies (bytes) and
    END, in order.

    Owned by the connection's loop. Raises HttpFault; what was parsed before the fault is in
    `events` then, and nothing more may be fed. After a head with `upgrade` set, which only
    `websockets` allows, nothing more may be fed either: `leftover` holds the bytes behind it. Other
    upgrades are as if they were not asked for (RFC 9110, 7.8: a server may ignore them). `close` it
    when nothing more comes.
    """

    __slots__ = (
        "_field_count",
        "_first_read",
        "_has_underscores",
        "_head",
        "_head_bytes",
        "_headers",
        "_is_over",
        "_is_small",
        "_limits",
        "_parser",
        "_small_bytes",
        "_target",
        "_upgrading",
        "_websockets",
        "events",
        "leftover",
    )

    def __init__(self, limits: HeadLimits, *, websockets: bool = True) -> None:
        self._limits = limits
        self._websockets = websockets
        self._field_count = limits.field_count
        # a read this small cannot hold a line or field beyond the limits, not even with the first
        # letters of a method, which may have come before it
        self._small_bytes = min(limits.line_bytes, limits.field_bytes, limits.head_bytes) - 16
        self._parser: Any = httptools.HttpRequestParser(self)
        self._head: RequestHead | None = None  # complete; its body is being read
        # read since a head began, or since the last piece of a body: what the parser may hold
        self._head_bytes = 0
        self._headers: Headers = []
        self._has_underscores = False
        self._target = b""
        self._first_read = b""  # the read at hand, if it begins with a request
        self._is_small = True  # the read at hand cannot hold a head that is too large
        self._is_over = False  # the last request said close: what follows is not read
        self._upgrading: RequestHead | None = None  # llhttp reads nothing behind this head
        self.events: list[RequestEvent] = []
        self.leftover: bytes | None = None

    @property
    def is_mid_head(self) -> bool:
        """Whether a request's head has begun and is not complete."""
        return self._head is None and self._head_bytes > 0

    def receive(self, data: bytes) -> list[RequestEvent]:
        """The events that `data` completes."""
        events: list[RequestEvent] = []
        self.events = events
        if self._is_over:
            return events
        is_new = self._head is None and not self._head_bytes
        self._first_read = data if is_new else b""
        self._is_small = is_new and len(data) <= self._small_bytes
        unread: bytes | memoryview = data
        while unread:
            try:
                self._parser.feed_data(unread)
                break
            except httptools.HttpParserUpgrade as upgrade:
                head = self._upgrading
                if self._is_over or head is None:  # it is one that nobody asked to be read
                    return events
                unread = memoryview(unread)[upgrade.args[0] :]
                if head.upgrade:
                    self.leftover = bytes(unread)
                    return events
                self._go_on(head)
            except httptools.HttpParserCallbackError as error:
                cause = error.__context__
                raise (
                    cause if isinstance(cause, HttpFault) else HttpFault(400, "bad request")
                ) from error
            except httptools.HttpParserError as error:
                if not self._is_over:
                    is_tls = data.startswith(_TLS_RECORD)
                    raise (HttpFault(400, _TLS_HERE) if is_tls else self._fault(error)) from error
                break
        if not events:  # of a head; or of a chunk's size line, or trailers: the limit is for all
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                raise HttpFault(431, "the request head is too large")
        return events

    def _go_on(self, head: RequestHead) -> None:
        """Read on behind an upgrade that we do not offer."""
        self._parser = httptools.HttpRequestParser(self)
        if head.has_body:
            # llhttp takes an upgrade's body for the new protocol's bytes. A fresh parser that is
            # given the same framing finds the body's end.
            framing = [
                name + b": " + value
                for name, value in head.headers
                if name in (b"content-length", b"transfer-encoding")
            ]
            self._is_over = True  # nothing of this made-up head is an event
            self._parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *framing, b"", b""]))
            self._is_over = False
            self._upgrading = None
            self._head = head
            self._headers, self._target = [], b""

    def close(self) -> None:
        """Nothing more will be fed. This and httptools' parser hold each other: left alone, both
        would stay, with the last head and all it holds, until the garbage collector finds them.
        """
        self._parser = None

    # httptools' callbacks

    def on_url(self, url: bytes) -> None:
        if not self._head_bytes:
            self._head_bytes = 1  # at least: it may have begun in the middle of a read
        self._target = self._target + url if self._target else url
        if len(self._target) > self._limits.line_bytes:
            raise HttpFault(414, "the request target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            return  # a trailer field (RFC 9112, 7.1.2): ASGI has no place for it in a request
        headers = self._headers
        # not dict.get(): without the GIL it takes a lock, which pollers and loops would wait for
        try:
            name = _NAMES[name]
        except KeyError:
            name = name.lower()
            if b"_" in name:
                self._has_underscores = True
        # llhttp leaves blanks at the end, which are not part of the value (RFC 9112, 5.1)
        headers.append((name, _VALUES[value] if value in _VALUES else value.rstrip()))
        if len(headers) > self._field_count:
            raise HttpFault(431, "too many header fields")

    def on_headers_complete(self) -> None:
        if self._is_over:
            return
        parser, target = self._parser, self._target
        method = parser.get_method()
        version = "1.1"  # nearly always; to look is ten times as quick as to ask
        if not self._first_read.startswith(_VERSION_1_1, len(method) + 1 + len(target)):
            version = parser.get_http_version()
            if version not in _VERSIONS:
                raise HttpFault(505, "HTTP/1.1 is spoken here")
        self._first_read = b""
        name = _METHODS[method] if method in _METHODS else method.decode()
        head = RequestHead(name, target, version, self._headers)
        self._headers, self._target = [], b""
        head.has_underscores = self._has_underscores
        self._has_underscores = False
        head.keep_alive = parser.should_keep_alive()
        _read_framing(head)
        if parser.should_upgrade():
            self._upgrading = head
            if head.upgrade != b"websocket" or not self._websockets:
                head.upgrade = b""
        else:
            self._upgrading = None
            head.upgrade = b""
        if target[:1] not in _ORIGIN_FORM:
            take_host_of_target(target, head.headers)
        if not self._is_small:
            self._check_sizes(head)
        self._head = head
        self._head_bytes = 0
        self.events.append(head)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self.events.append(body)

    def on_message_complete(self) -> None:
        head = self._head
        if head is None:
            return
        self._head_bytes = 0
        if self._upgrading is not None and head.has_body:
            self._head = None  # llhttp has not read the body
            return
        if not (head.keep_alive or head.upgrade):
            self._is_over = True
        self._head = None
        self.events.append(END)

    def _check_sizes(self, head: RequestHead) -> None:
        limits = self._limits
        octets = len(head.target)
        for name, value in head.headers:
            size = len(name) + len(value)
            if size > limits.field_bytes:
                raise HttpFault(431, "a header field is too large")
            octets += size + 4
        if octets > limits.head_bytes:
            raise HttpFault(431, "the request head is too large")

    def _fault(self, error: Exception) -> HttpFault:
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            return HttpFault(400, "invalid method")
        problem = str(error) or "bad request"
        if problem == _BAD_VERSION or (
            self._target == b"*" and self._parser.get_http_version() == "2.0"
        ):
            return HttpFault(505, "HTTP/1.1 is spoken here")
        return HttpFault(400, problem)


def _read_framing(head: RequestHead) -> None:
    """Take what decides the connection's fate from the header fields."""
    hosts = 0
    for name, value in head.headers:
        if name not in _NOTED_NAMES:
            continue
        if name == b"host":
            hosts += 1
            if value not in KNOWN_HOSTS:
                learn_host(value)
        elif name == b"content-length":
            if len(value) > LENGTH_DIGITS:  # llhttp lets any number of leading zeros pass
                raise HttpFault(400, "the Content-Length has too many digits")
            head.has_body = head.has_body or value.strip(b" \t0") != b""
        elif name == b"transfer-encoding":
            head.has_body = True
            if head.http_version == "1.0":
                raise HttpFault(400, "Transfer-Encoding in HTTP/1.0")  # RFC 9112, 6.1
            if value.lower() != b"chunked":
                raise HttpFault(501, "only the chunked transfer coding is understood")
        elif name == b"expect":
            # RFC 9110, 10.1.1: in HTTP/1.0 it is ignored
            if head.http_version == "1.1" and value.lower() == b"100-continue":
                head.expects_continue = True
        elif name == b"upgrade":
            value = value.lower()
            head.upgrade = head.upgrade + b", " + value if head.upgrade else value
        elif name == b"connection":
            if head.keep_alive and value not in _KEPT and b"close" in value.lower():
                options = [option.strip() for option in value.lower().split(b",")]
                head.keep_alive = b"close" not in options  # RFC 9112, 9.3: close comes first
        elif name == b"te":
            if head.http_version == "1.1" and _has_trailers(value):
                head.accepts_trailers = True
        else:
            head.is_forwarded = True
    if not head.has_body:
        head.expects_continue = False  # nothing is waiting to be sent
    # RFC 9112, 3.2: exactly one Host in HTTP/1.1
    if hosts != 1 and (hosts or head.http_version == "1.1"):
        raise HttpFault(400, "exactly one Host header is needed")
    if head.method == "CONNECT":
        raise HttpFault(501, "CONNECT is not supported")


def _has_trailers(value: bytes) -> bool:
    """Whether a TE field says that trailers are taken (RFC 9110, 10.1.4)."""
    return b"trailers" in [coding.strip() for coding in value.lower().split(b",")]
