"""h2spec's sections, case by case, over a real socket: what is sent, and what RFC 9113 lets a
server answer. The numbers are those of h2spec 2.6 (of RFC 7540, whose sections RFC 9113 has kept).

Where RFC 9113 knows an error of a stream, the connection goes on. A request that is not valid is
answered 400 (RFC 9113, 8.1.1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import hpack
import pytest

from tests.support.http2_frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    block,
    frame,
    headers,
    raw_peer,
    reset,
    settings,
    window,
)
from tests.support.server import Site, serving

REQUEST = headers(1)
OPEN = headers(1, POST, END_HEADERS)  # its body is to come
TRAILERS = END_HEADERS | END_STREAM
HEAD = block()
WAITING = headers(1, [*GET[:3], (":path", "/wait")])  # it is not answered


class Answered(NamedTuple):
    """Stream 1 gets a response with this status; the connection goes on."""

    status: int = 200


class Reset(NamedTuple):
    """A stream is reset with one of these codes; the connection goes on."""

    codes: tuple[int, ...]
    stream: int = 1


class Ended(NamedTuple):
    """GOAWAY with one of these codes."""

    codes: tuple[int, ...]


class Broken(NamedTuple):
    """One of the two: h2 knows of some closed streams no longer how they were closed."""

    codes: tuple[int, ...]


class Goes(NamedTuple):
    """Nothing but that the connection goes on."""


Outcome = Answered | Reset | Ended | Broken | Goes
OK, PROTOCOL = Answered(), Ended((PROTOCOL_ERROR,))
LATE = Broken((STREAM_CLOSED, PROTOCOL_ERROR))
CLOSED = Ended((STREAM_CLOSED, PROTOCOL_ERROR))
SIZE = Ended((FRAME_SIZE_ERROR, PROTOCOL_ERROR))
COMPRESSION = Ended((COMPRESSION_ERROR, PROTOCOL_ERROR))
BAD = Answered(400)


def priority(stream: int, depends_on: int = 0, weight: int = 15) -> bytes:
    return frame(PRIORITY, 0, stream, struct.pack(">LB", depends_on, weight))


def with_fields(*fields: tuple[str, str], pseudo: Any = GET) -> bytes:
    return headers(1, [*pseudo, *fields])


def without(name: str) -> bytes:
    return headers(1, [field for field in GET if field[0] != name])


def encoded(data: bytes) -> bytes:
    return frame(HEADERS, TRAILERS, 1, HEAD + data)


def padded(kind: int, flags: int, payload: bytes, pad: int) -> bytes:
    return frame(kind, flags | PADDED, 1, bytes([pad]) + payload + bytes(pad))


CASES: dict[str, tuple[bytes, Outcome]] = {
    # Generic
    "generic 2.1 PRIORITY on an idle stream": (priority(1) + REQUEST, OK),
    "generic 2.2 WINDOW_UPDATE on a half-closed stream": (REQUEST + window(1, 1), OK),
    "generic 2.3 PRIORITY on a half-closed stream": (REQUEST + priority(1), OK),
    "generic 2.4 RST_STREAM on a half-closed stream": (REQUEST + reset(1), Goes()),
    "generic 2.5 PRIORITY on a closed stream": (OPEN + reset(1) + priority(1), Goes()),
    "generic 3.1 DATA": (OPEN + frame(DATA, END_STREAM, 1, b"a"), OK),
    "generic 3.2 more than one DATA": (
        OPEN + frame(DATA, 0, 1, b"a") + frame(DATA, END_STREAM, 1, b"b"),
        OK,
    ),
    "generic 3.3 DATA with padding": (OPEN + padded(DATA, END_STREAM, b"a", 9), OK),
    "generic 3.4 HEADERS": (REQUEST, OK),
    "generic 3.5 HEADERS with padding": (padded(HEADERS, TRAILERS, HEAD, 9), OK),
    "generic 3.6 HEADERS with a priority": (
        frame(HEADERS, TRAILERS | PRIORITIZED, 1, struct.pack(">LB", 0, 255) + HEAD),
        OK,
    ),
    "generic 3.8 PRIORITY with weight 1": (priority(1, weight=0) + REQUEST, OK),
    "generic 3.9 PRIORITY with weight 256": (priority(1, weight=255) + REQUEST, OK),
    "generic 3.10 PRIORITY that depends on a stream": (priority(1, 3) + REQUEST, OK),
    "generic 3.11 PRIORITY that is exclusive": (priority(1, 1 << 31 | 3) + REQUEST, OK),
    "generic 3.12 RST_STREAM": (OPEN + reset(1), Goes()),
    "generic 3.13 SETTINGS": (settings((3, 100)) + REQUEST, OK),
    "generic 3.14 PING": (frame(PING, 0, 0, bytes(8)) + REQUEST, OK),
    "generic 3.15 GOAWAY": (OPEN + frame(GOAWAY, 0, 0, bytes(8)), Goes()),
    "generic 3.16 WINDOW_UPDATE of the connection": (window(0, 1) + REQUEST, OK),
    "generic 3.17 WINDOW_UPDATE of a stream": (OPEN + window(1, 1), Goes()),
    "generic 3.18 CONTINUATION": (
        frame(HEADERS, END_STREAM, 1, HEAD[:9]) + frame(CONTINUATION, END_HEADERS, 1, HEAD[9:]),
        OK,
    ),
    "generic 4.2 HEAD": (headers(1, [(":method", "HEAD"), *GET[1:]]), OK),
    "generic 4.4 trailers": (
        OPEN + frame(DATA, 0, 1, b"a") + headers(1, [("x", "y")]),
        OK,
    ),
    "generic 5.1 an indexed field": (encoded(b"\x90"), OK),
    "generic 5.2 a literal with indexing": (encoded(b"\x40\x01x\x01y\xbe"), OK),
    "generic 5.5 a literal without indexing, in Huffman's code": (
        encoded(b"\x00\x01x\x81\x1f"),
        OK,
    ),
    "generic 5.8 a literal that is never indexed": (encoded(b"\x10\x01x\x01y"), OK),
    "generic 5.11 a table size update": (
        frame(HEADERS, TRAILERS, 1, b"\x20\x3f\xe1\x1f" + HEAD),
        OK,
    ),
    # 4: frames
    "4.1.1 a frame of an unknown kind": (frame(0x77, 0, 0, bytes(8)) + REQUEST, OK),
    "4.1.2 flags that are not defined": (frame(PING, 0x16, 0, bytes(8)) + REQUEST, OK),
    "4.1.3 the reserved bit": (frame(PING, 0, 1 << 31, bytes(8)) + REQUEST, OK),
    "4.2.1 DATA of 2^14 bytes": (OPEN + frame(DATA, END_STREAM, 1, bytes(16384)), OK),
    "4.2.2 DATA of more": (OPEN + frame(DATA, END_STREAM, 1, bytes(16385)), SIZE),
    "4.2.3 HEADERS of more": (frame(HEADERS, TRAILERS, 1, HEAD + bytes(16384)), SIZE),
    "4.3.1 a header block that is not valid": (encoded(b"\xff\xff\xff\xff\xff"), COMPRESSION),
    "4.3.2 PRIORITY within a header block": (
        frame(HEADERS, END_STREAM, 1, HEAD[:9]) + priority(1),
        PROTOCOL,
    ),
    "4.3.3 HEADERS of another stream within one": (
        frame(HEADERS, END_STREAM, 1, HEAD[:9]) + headers(3),
        PROTOCOL,
    ),
    # 5.1: states of streams
    "5.1.1 idle: DATA": (frame(DATA, END_STREAM, 1, b"a"), PROTOCOL),
    "5.1.2 idle: RST_STREAM": (reset(1), PROTOCOL),
    "5.1.3 idle: WINDOW_UPDATE": (window(1, 1), PROTOCOL),
    "5.1.4 idle: CONTINUATION": (frame(CONTINUATION, END_HEADERS, 1, HEAD), PROTOCOL),
    "5.1.5 half-closed: DATA": (WAITING + frame(DATA, END_STREAM, 1, b"a"), LATE),
    "5.1.6 half-closed: HEADERS": (WAITING + REQUEST, LATE),
    "5.1.8 closed: DATA": (OPEN + reset(1) + frame(DATA, END_STREAM, 1, b"a"), LATE),
    "5.1.9 closed: HEADERS": (OPEN + reset(1) + REQUEST, LATE),
    "5.1.7 half-closed: CONTINUATION": (REQUEST + frame(CONTINUATION, 4, 1, HEAD), CLOSED),
    "5.1.10 closed: CONTINUATION": (
        OPEN + reset(1) + frame(CONTINUATION, END_HEADERS, 1, HEAD),
        CLOSED,
    ),
    "5.1.1.1 an even number": (headers(2), PROTOCOL),
    "5.1.1.2 a number below the last": (headers(5) + headers(3), CLOSED),
    # 5.3: priorities
    "5.3.1.1 HEADERS that depend on themselves": (
        frame(HEADERS, TRAILERS | PRIORITIZED, 1, struct.pack(">LB", 1, 255) + HEAD),
        PROTOCOL,
    ),
    "5.3.1.2 PRIORITY on itself": (priority(1, 1), PROTOCOL),
    # 5.5: extensions
    "5.5.1 an unknown frame": (frame(0x16, 0, 0, bytes(8)) + REQUEST, OK),
    "5.5.2 one within a header block": (
        frame(HEADERS, END_STREAM, 1, HEAD[:9]) + frame(0x16, 0, 0, bytes(8)),
        PROTOCOL,
    ),
    # 6: kinds of frames
    "6.1.1 DATA of stream 0": (frame(DATA, END_STREAM, 0, b"a"), PROTOCOL),
    "6.1.3 DATA with more padding than it has": (
        OPEN + frame(DATA, END_STREAM | PADDED, 1, b"\x09abc"),
        PROTOCOL,
    ),
    "6.2.3 HEADERS of stream 0": (headers(0), PROTOCOL),
    "6.2.4 HEADERS with more padding than they have": (
        frame(HEADERS, TRAILERS | PADDED, 1, b"\xff" + HEAD),
        PROTOCOL,
    ),
    "6.3.1 PRIORITY of stream 0": (priority(0), PROTOCOL),
    "6.3.2 PRIORITY of another length": (OPEN + frame(PRIORITY, 0, 1, bytes(4)), SIZE),
    "6.4.1 RST_STREAM of stream 0": (reset(0), PROTOCOL),
    "6.4.3 RST_STREAM of another length": (OPEN + frame(RST_STREAM, 0, 1, bytes(3)), SIZE),
    "6.5.1 SETTINGS with ACK and a payload": (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    "6.5.2 SETTINGS of a stream": (frame(SETTINGS, 0, 1, bytes(6)), PROTOCOL),
    "6.5.3 SETTINGS of another length": (frame(SETTINGS, 0, 0, bytes(3)), SIZE),
    "6.5.2.1 ENABLE_PUSH of 2": (settings((2, 2)), PROTOCOL),
    "6.5.2.2 INITIAL_WINDOW_SIZE of 2^31": (settings((4, 2**31)), Ended((FLOW_CONTROL_ERROR,))),
    "6.5.2.3 MAX_FRAME_SIZE below 2^14": (settings((5, 16383)), PROTOCOL),
    "6.5.2.4 MAX_FRAME_SIZE of 2^24": (settings((5, 2**24)), PROTOCOL),
    "6.5.2.5 a setting that nobody knows": (settings((0xFF, 1)) + REQUEST, OK),
    "6.7.2 PING with ACK": (frame(PING, ACK, 0, b"unasked!") + REQUEST, OK),
    "6.7.3 PING of a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL),
    "6.7.4 PING of another length": (frame(PING, 0, 0, bytes(6)), SIZE),
    "6.8.1 GOAWAY of a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "6.9.1 WINDOW_UPDATE of 0": (window(0, 0), PROTOCOL),
    "6.9.2 WINDOW_UPDATE of 0 on a stream": (OPEN + window(1, 0), PROTOCOL),
    "6.9.3 WINDOW_UPDATE of another length": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "6.9.1.2 a window above 2^31 - 1": (
        window(0, 2**31 - 1) * 2,
        Ended((FLOW_CONTROL_ERROR,)),
    ),
    "6.9.1.3 one of a stream": (
        OPEN + window(1, 2**31 - 1) * 2,
        Reset((FLOW_CONTROL_ERROR,)),
    ),
    "6.10.1 many CONTINUATION frames": (
        frame(HEADERS, END_STREAM, 1, HEAD[:4])
        + frame(CONTINUATION, 0, 1, HEAD[4:9])
        + frame(CONTINUATION, END_HEADERS, 1, HEAD[9:]),
        OK,
    ),
    "6.10.2 another frame between them": (
        frame(HEADERS, END_STREAM, 1, HEAD[:4])
        + frame(CONTINUATION, 0, 1, HEAD[4:9])
        + frame(DATA, 0, 1, b"a"),
        PROTOCOL,
    ),
    "6.10.3 CONTINUATION of stream 0": (
        frame(HEADERS, END_STREAM, 1, HEAD[:4]) + frame(CONTINUATION, END_HEADERS, 0, HEAD[4:]),
        PROTOCOL,
    ),
    "6.10.6 CONTINUATION behind DATA": (
        OPEN + frame(DATA, 0, 1, b"a") + frame(CONTINUATION, END_HEADERS, 1, HEAD),
        PROTOCOL,
    ),
    "7.1 GOAWAY with a code that nobody knows": (
        OPEN + frame(GOAWAY, 0, 0, struct.pack(">LL", 0, 0xFF)),
        Goes(),
    ),
    "7.2 RST_STREAM with a code that nobody knows": (OPEN + reset(1, 0xFF), Goes()),
    # 8: requests
    "8.1.1 HEADERS without an end behind others": (
        OPEN + headers(1, [("x", "y")], END_HEADERS),
        PROTOCOL,
    ),
    "8.1.2.1 a name in upper case": (with_fields(("X-Test", "a")), BAD),
    "8.1.2.1.1 a pseudo-header field that nobody knows": (with_fields((":test", "a")), BAD),
    "8.1.2.1.2 one of responses": (with_fields((":status", "200")), BAD),
    "8.1.2.1.3 one in trailers": (
        OPEN + headers(1, [(":method", "GET")]),
        Reset((PROTOCOL_ERROR,)),
    ),
    "8.1.2.1.4 one behind another field": (headers(1, [("x", "y"), *GET]), BAD),
    "8.1.2.2.1 a field of connections": (with_fields(("connection", "keep-alive")), BAD),
    "8.1.2.2.2 TE that is not trailers": (with_fields(("te", "trailers, deflate")), BAD),
    "8.1.2.3.1 an empty path": (headers(1, [*GET[:3], (":path", "")]), BAD),
    "8.1.2.3.2 no method": (without(":method"), BAD),
    "8.1.2.3.3 no scheme": (without(":scheme"), BAD),
    "8.1.2.3.4 no path": (without(":path"), BAD),
    "8.1.2.3.5 two methods": (headers(1, [GET[0], *GET]), BAD),
    "8.1.2.3.6 two schemes": (headers(1, [GET[1], *GET]), BAD),
    "8.1.2.3.7 two paths": (headers(1, [GET[3], *GET]), BAD),
    "8.1.2.6.1 a length that the body does not have": (
        headers(1, [*POST, ("content-length", "9")], END_HEADERS)
        + frame(DATA, END_STREAM, 1, b"a"),
        Reset((PROTOCOL_ERROR,)),
    ),
    "8.1.2.6.2 the same in more than one piece": (
        headers(1, [*POST, ("content-length", "9")], END_HEADERS)
        + frame(DATA, 0, 1, b"a")
        + frame(DATA, END_STREAM, 1, b"b"),
        Reset((PROTOCOL_ERROR,)),
    ),
    "8.2.1 PUSH_PROMISE": (
        OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">L", 2) + HEAD),
        PROTOCOL,
    ),
    # HPACK (RFC 7541)
    "hpack 2.3.3.1 an index beyond the table": (encoded(b"\xc6"), COMPRESSION),
    "hpack 2.3.3.2 the same for a name": (encoded(b"\x7f\x07\x01y"), COMPRESSION),
    "hpack 4.2.1 a table size update at the end": (encoded(b"\x20"), COMPRESSION),
    "hpack 5.2.1 padding of more than 7 bits": (encoded(b"\x00\x01x\x82\x1f\xff"), COMPRESSION),
    "hpack 5.2.3 Huffman's EOS": (encoded(b"\x00\x01x\x84\xff\xff\xff\xff"), COMPRESSION),
    "hpack 6.1.1 index 0": (encoded(b"\x80"), COMPRESSION),
    "hpack 6.3.1 a table size above the limit": (
        frame(HEADERS, TRAILERS, 1, b"\x3f\xff\xff\x03" + HEAD),
        COMPRESSION,
    ),
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    more = True
    while more or scope["path"] == "/wait":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(app, lifespan="off") as site:
        yield site


@pytest.mark.parametrize("name", CASES)
def test_a_case(site: Site, name: str) -> None:
    data, outcome = CASES[name]
    with raw_peer(site.port) as peer:
        peer.send(data)
        if isinstance(outcome, Ended):
            assert peer.goaway_code() in outcome.codes
            return
        if isinstance(outcome, Broken):
            while (found := peer.read()) is not None and found.kind not in (RST_STREAM, GOAWAY):
                pass
            assert found is not None
            assert found.code in outcome.codes
            return
        if isinstance(outcome, Answered):
            fields: Any = list(hpack.Decoder().decode(peer.wait(HEADERS, 1).payload))
            assert fields[0] == (":status", str(outcome.status))
        elif isinstance(outcome, Reset):
            assert peer.wait(RST_STREAM, outcome.stream).code in outcome.codes
        assert peer.answers()


@pytest.mark.parametrize("number", ["5.1.11 DATA", "5.1.12 HEADERS", "5.1.13 CONTINUATION"])
def test_a_stream_that_has_ended(site: Site, number: str) -> None:
    late = {
        "DATA": frame(DATA, END_STREAM, 1, b"a"),
        "HEADERS": REQUEST,
        "CONTINUATION": frame(CONTINUATION, END_HEADERS, 1, HEAD),
    }
    with raw_peer(site.port) as peer:
        peer.send(REQUEST)
        while not (last := peer.wait(DATA, 1)).flags & END_STREAM:
            pass
        assert last.payload == b"ok"
        peer.send(late[number.split()[1]])
        found = peer.read()
        while found is not None and found.kind not in (RST_STREAM, GOAWAY):
            found = peer.read()
        assert found is not None
        assert found.code in (STREAM_CLOSED, PROTOCOL_ERROR)


def test_6_9_2_windows_that_change(site: Site) -> None:
    """6.9.1.1, 6.9.2.1 and 6.9.2.2: smaller than what was sent, and larger again."""
    with raw_peer(site.port) as peer:
        peer.send(settings((4, 1)) + REQUEST)
        assert peer.wait(DATA, 1).payload == b"o"
        peer.send(settings((4, 0)))  # the window is -1 now
        assert peer.answers()
        peer.send(settings((4, 2)))
        rest = peer.wait(DATA, 1)
        assert rest.payload == b"k"


@pytest.mark.parametrize("begin", [b"INVALID CONNECTION PREFACE\r\n\r\n", PREFACE[:-2] + b"XX"])
def test_3_5_2_a_preface_that_is_none(site: Site, begin: bytes) -> None:
    with raw_peer(site.port, begin) as peer:
        assert peer.socket.recv(9)[:4] in (b"HTTP", b"")


def test_3_5_1_a_preface(site: Site) -> None:
    with raw_peer(site.port, PREFACE + settings()) as peer:
        first = peer.read()
        assert first is not None
        assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
        assert peer.wait(SETTINGS).flags == ACK
