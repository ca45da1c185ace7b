"""What is fuzzed: every module of `protocols/`, each behind one function that takes any bytes.

A target returns, or lets out what is a bug: any exception but a peer fault, a result beyond its
limits, or two ways to the same result that differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from asgi_poller.errors import (
    ApplicationFault,
    Http2Fault,
    HttpFault,
    ProxyProtocolFault,
    WebSocketFault,
)
from asgi_poller.protocols import proxy_protocol
from asgi_poller.protocols.content_coding import preferred
from asgi_poller.protocols.host_origin import HostMatcher, OriginMatcher
from asgi_poller.protocols.http1.headers import encode_headers
from asgi_poller.protocols.http1.parser import (
    END,
    HeadLimits,
    RequestEvent,
    RequestHead,
    RequestParser,
)
from asgi_poller.protocols.http2.connection import Http2Connection
from asgi_poller.protocols.http2.events import (
    BodyReceived,
    RequestReceived,
    RequestRefused,
    WindowOpened,
)
from asgi_poller.protocols.http2.frames import GOAWAY, HEADER_BYTES
from asgi_poller.protocols.http2.limits import Http2Limits
from asgi_poller.protocols.preconditions import Validators, select
from asgi_poller.protocols.websocket.frames import decode_control
from asgi_poller.protocols.websocket.handshake import check_handshake
from asgi_poller.protocols.websocket.permessage_deflate import Deflate, negotiate
from asgi_poller.protocols.websocket.protocol import WebSocketWire
from asgi_poller.protocols.websocket.wsproto_full import WsprotoWebSocketWire

MAX_BYTES = 4096
_FAULT = "a fault"
LIMITS = HeadLimits(line_bytes=256, field_count=20, field_bytes=256, head_bytes=1024)
HOSTS = HostMatcher(["example.com", "*.example.org", "[::1]"])
ORIGINS = OriginMatcher(["https://example.com", "https://*.example.org", "same", "null"])


def pieces(data: bytes) -> Iterator[bytes]:
    """`data` cut into reads: its first byte says into how many, at most."""
    count = data[0] % 8 + 1 if data else 1
    data = data[1:]
    size = max(1, len(data) // count)
    for start in range(0, len(data), size):
        yield data[start : start + size]


def http1(data: bytes) -> None:
    """Requests, cut anywhere: the same events as in one read, or the same fault."""
    cut, whole = _requests(list(pieces(data))), _requests([data[1:]])
    assert cut == whole, (cut, whole)


def _requests(reads: list[bytes]) -> tuple[list[object], int]:
    """What was understood, pieces of bodies joined, and the status of the fault, or 0."""
    parser = RequestParser(LIMITS)
    found: list[object] = []
    try:
        for read in reads:
            if parser.leftover is not None:
                parser.leftover += read
                continue
            _note(parser.receive(read), found)
        if parser.leftover is not None:
            assert parser._upgrading is not None
            _shake_hands(parser._upgrading)
            found.append(parser.leftover)
    except HttpFault as fault:
        _note(parser.events, found)
        # how far a head may grow before it is too large depends on how it is read
        return found, 400 if fault.status in (414, 431) else fault.status
    return found, 0


def _note(events: list[RequestEvent], found: list[object]) -> None:
    for event in events:
        # every END has its head before it, and bodies stand between the two
        is_open = bool(found) and found[-1] is not END
        assert isinstance(event, RequestHead) is not is_open
        if isinstance(event, bytes):
            if found and isinstance(found[-1], bytes):
                found[-1] += event
            else:
                found.append(event)
        elif isinstance(event, RequestHead):
            found.append((event.method, event.target, event.http_version, event.headers))
            assert len(event.headers) <= LIMITS.field_count
            HOSTS.allows(event.header(b"host"))
            ORIGINS.allows(event.header(b"origin"), event.header(b"host"))
        else:
            found.append(event)


def _shake_hands(head: RequestHead) -> None:
    try:
        handshake = check_handshake(head)
    except HttpFault:
        return
    answer, _ = handshake.accept(
        subprotocol=handshake.subprotocols[0] if handshake.subprotocols else None,
        headers=(),
        default_headers=lambda given: b"",
        deflate="on",
    )
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.count(b"\r\n\r\n") == 1


def websocket(data: bytes) -> None:
    """Frames, cut anywhere, in both lanes: the same events."""
    compressed = bool(data) and data[0] & 0x80 != 0
    reads = list(pieces(data))
    whole = [data[1:]]
    fast = _events(WebSocketWire, reads, compressed)
    assert fast == _events(WebSocketWire, whole, compressed), "cut differently, read differently"
    careful = _events(WsprotoWebSocketWire, whole, compressed)
    assert fast == careful or _is_earlier(fast, careful) or _is_earlier(careful, fast), (
        fast,
        careful,
    )


def _is_earlier(one: list[object], other: list[object]) -> bool:
    """Of a frame that is not whole yet, one lane may know already that it is broken."""
    return bool(one) and one[:-1] == other and one[-1] is _FAULT


def _events(wire: type[WebSocketWire], reads: list[bytes], compressed: bool) -> list[object]:
    found: list[object] = []
    reader = wire(MAX_BYTES, Deflate() if compressed else None)
    for read in reads:
        events = list(reader.receive(read))
        while reader.has_buffered:
            events += reader.receive(b"")
        for event in events:
            if isinstance(event, str | bytes):
                assert len(event if isinstance(event, bytes) else event.encode()) <= MAX_BYTES
            # which of two faults is met first depends on how far wsproto may look
            found.append(event if not isinstance(event, WebSocketFault) else _FAULT)
        if reader.has_ended:
            break
    return found


def http2(data: bytes) -> None:
    """Frames, cut anywhere: the same events, or the same fault, whose GOAWAY is the last frame. And
    nothing else while requests are answered.
    """
    cut, whole = _http2(list(pieces(data))), _http2([data[1:]])
    assert cut[1] == whole[1], (cut, whole)
    if not cut[1]:
        assert cut == whole, (cut, whole)
    _http2(list(pieces(data)), answers=True)


def _http2(reads: list[bytes], *, answers: bool = False) -> tuple[list[object], int]:
    """What was understood, pieces of bodies joined by stream, and the fault's code, or 0."""
    limits = Http2Limits(head=LIMITS, stream_count=5, stream_window_bytes=70_000)
    connection = Http2Connection(limits)
    found: list[object] = []
    bodies: dict[int, bytes] = {}
    output = b""
    for read in reads:
        try:
            events = connection.receive(read, 0.0)
        except Http2Fault as fault:
            output += connection.take_output()
            assert _kinds(output)[-1] == GOAWAY
            return found, fault.code + 1
        for event in events:
            if isinstance(event, BodyReceived):
                bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
            elif isinstance(event, RequestReceived):
                head = event.head
                assert len(head.headers) <= LIMITS.field_count + 1  # the host is ours
                found.append((event.stream_id, head.method, head.target, head.headers))
                if answers:
                    _answer(connection, event)
            elif not isinstance(event, WindowOpened):
                found.append(event if not isinstance(event, RequestRefused) else event.fault.status)
        output += connection.take_output()
    _kinds(output)
    return [*found, bodies], 0


def _answer(connection: Http2Connection, event: RequestReceived) -> None:
    """As an application would that reads nothing."""
    stream_id = event.stream_id
    connection.send_head(stream_id, [(b":status", b"200")], is_last=False)
    body = b"x" * min(100, max(0, connection.room(stream_id)))
    connection.send_body(stream_id, body, is_last=True)
    if event.is_complete:
        connection.close_stream(stream_id)
    else:
        connection.reset(stream_id, 0)


def _kinds(output: bytes) -> list[int]:
    """Those of the frames, of which none is cut."""
    kinds, at = [], 0
    while at < len(output):
        kinds.append(output[at + 3])
        at += HEADER_BYTES + int.from_bytes(output[at : at + 3], "big")
    assert at == len(output)
    return kinds


def deflate(data: bytes) -> None:
    """Messages of permessage-deflate: inflated within the limit, or a fault."""
    for each in (Deflate(), negotiated_takeover()):
        try:
            inflated = each.decompress(data, MAX_BYTES)
        except WebSocketFault:
            continue
        assert len(inflated) <= MAX_BYTES
    negotiate(data.decode("latin-1"), takeover=True)
    negotiate(data.decode("latin-1"), takeover=False)


def negotiated_takeover() -> Deflate:
    agreed = negotiate("permessage-deflate", takeover=True)
    assert agreed is not None
    return agreed[1]


def frames(data: bytes) -> None:
    """Payloads of control frames: what they say, or a fault."""
    for first in (0x88, 0x89, 0x8A):
        with contextlib.suppress(WebSocketFault):
            decode_control(first, data[:125])


def proxy(data: bytes) -> None:
    """PROXY headers: more bytes never change what was understood."""
    try:
        parsed = proxy_protocol.parse(data)
    except ProxyProtocolFault:
        return
    if parsed is not None:
        assert 0 < parsed.consumed_bytes <= len(data)
        assert proxy_protocol.parse(data[: parsed.consumed_bytes]) == parsed


def origin(data: bytes) -> None:
    """Host and Origin."""
    value, _, host = data.partition(b"\n")
    HOSTS.allows(value)
    ORIGINS.allows(value, host)


def fields(data: bytes) -> None:
    """Header fields of applications: one line each, or a fault."""
    name, _, value = data.partition(b":")
    lines: list[bytes] = []
    try:
        encode_headers([(name, value)], lines)
    except ApplicationFault:
        return
    assert b"".join(lines).count(b"\n") == 1


def files(data: bytes) -> None:
    """Conditions, a range and Accept-Encoding of a request for a file: a part that the file has."""
    names = (b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match")
    headers = list(zip(names, data.split(b"\n"), strict=False))
    for size in (0, 1, MAX_BYTES):
        found = select("GET", headers, Validators(b'"a"', 784111777, True), size)
        assert found.status in (200, 206, 304, 412, 416)
        assert found.first >= 0
        assert found.length >= (found.status == 206)
        assert found.first + found.length <= size
    available = (b"br", b"gzip")
    assert preferred(data, available) in (None, *available)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "http1": http1,
    "http2": http2,
    "websocket": websocket,
    "deflate": deflate,
    "frames": frames,
    "proxy_protocol": proxy,
    "origin": origin,
    "fields": fields,
    "files": files,
}
