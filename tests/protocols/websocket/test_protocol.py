"""What a peer sends on a WebSocket is read the same by both implementations, however it is cut."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from asgi_poller.errors import WebSocketFault
from asgi_poller.protocols.websocket.frames import Close, Event, Ping, Pong
from asgi_poller.protocols.websocket.permessage_deflate import Deflate
from asgi_poller.protocols.websocket.protocol import WebSocketWire
from asgi_poller.protocols.websocket.wsproto_full import WsprotoWebSocketWire
from tests.support.cuts import cuts
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    binary,
    close,
    deflated,
    frame,
    header,
    text,
)

WIRES = (WebSocketWire, WsprotoWebSocketWire)
MAX = 1000
RSV1 = 4


def received(wire: WebSocketWire, pieces: Iterable[bytes]) -> list[Event]:
    """All that came of `pieces`, helpings asked for until there are no more."""
    events: list[Event] = []
    for piece in pieces:
        message = wire.parse_single(piece)  # as a channel does it: one short frame needs no more
        if message is not None:
            events.append(message)
            continue
        events += wire.receive(piece)
        while wire.has_buffered:
            events += wire.receive(b"")
    return events


def plain(events: Iterable[Event]) -> list[object]:
    """Faults by their code: the two lanes word them differently."""
    return [
        ("fault", event.code) if isinstance(event, WebSocketFault) else event for event in events
    ]


def fault(code: int) -> tuple[str, int]:
    return "fault", code


FRAMES: dict[str, tuple[bytes, list[object]]] = {
    "text": (text("héllo"), ["héllo"]),
    "binary": (binary(b"\0\xff"), [b"\0\xff"]),
    "empty text": (text(""), [""]),
    "empty binary": (binary(b""), [b""]),
    "125 bytes": (binary(b"x" * 125), [b"x" * 125]),
    "126 bytes": (binary(b"x" * 126), [b"x" * 126]),
    "as large as allowed": (text("é" * 500), ["é" * 500]),
    "many": (text("a") + binary(b"b") + text("c") * 3, ["a", b"b", "c", "c", "c"]),
    "ping": (frame(PING, b"are you there"), [Ping(b"are you there")]),
    "empty ping": (frame(PING), [Ping(b"")]),
    "ping of 125 bytes": (frame(PING, b"x" * 125), [Ping(b"x" * 125)]),
    "pong": (frame(PONG, b"yes"), [Pong(b"yes")]),
    "close": (close(1000, "bye"), [Close(1000, "bye")]),
    "close without a code": (close(), [Close(1005, "")]),
    "close 3000": (close(3000), [Close(3000, "")]),
    "close 4999": (close(4999, "é" * 61), [Close(4999, "é" * 61)]),
    "close 1012": (close(1012), [Close(1012, "")]),
    "nothing counts after a close": (close(1001) + text("a") + b"\xff\xff", [Close(1001, "")]),
    "fragments": (
        frame(TEXT, b"h", fin=False) + frame(0, b"\xc3", fin=False) + frame(0, b"\xa9"),
        ["hé"],
    ),
    "empty fragments": (
        frame(BINARY, fin=False) + frame(0, fin=False) + frame(0, b"a", fin=False) + frame(0),
        [b"a"],
    ),
    "control frames between fragments": (
        frame(TEXT, b"a", fin=False)
        + frame(PING, b"1")
        + frame(0, b"b", fin=False)
        + frame(PONG, b"2")
        + frame(0, b"c")
        + text("d"),
        [Ping(b"1"), Pong(b"2"), "abc", "d"],
    ),
    "a close between fragments": (
        frame(TEXT, b"a", fin=False) + close(1000) + frame(0, b"b"),
        [Close(1000, "")],
    ),
    "close 1014": (close(1014, "upstream"), [Close(1014, "upstream")]),
    "careful and fast in turns": (
        text("a") + frame(PING) + text("b") + frame(TEXT, fin=False) + frame(0, b"c") + text("d"),
        ["a", Ping(b""), "b", "c", "d"],
    ),
}
FAULTS: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(TEXT, b"a", mask=None), 1002),
    "a ping that is not masked": (frame(PING, mask=None), 1002),
    "RSV1 that was not agreed": (frame(TEXT, b"a", rsv=4), 1002),
    "RSV2": (frame(BINARY, b"a", rsv=2), 1002),
    "RSV3 in a ping": (frame(PING, rsv=1), 1002),
    "a reserved opcode": (frame(0x3, b"a"), 1002),
    "a reserved control opcode": (frame(0xB), 1002),
    "a fragmented ping": (frame(PING, fin=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"a"), 1002),
    "a message within a message": (frame(TEXT, b"a", fin=False) + text("b"), 1002),
    "a fragment that starts anew": (
        frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False),
        1002,
    ),
    "16 bits for a short length": (b"\x82\xfe\x00\x05mask", 1002),
    "64 bits for a short length": (b"\x82\xff" + (65535).to_bytes(8, "big") + b"mask", 1002),
    "a length of 2**63": (b"\x82\xff\x80" + bytes(7) + b"mask", 1002),
    "too large by one": (header(0x82, MAX + 1) + b"mask", 1009),
    "much too large": (header(0x81, 2**62) + b"mask", 1009),
    "too large, in two fragments": (
        frame(BINARY, b"x" * 600, fin=False) + header(0x80, 401) + b"mask",
        1009,
    ),
    "text that is not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "half a character": (frame(TEXT, b"a\xc3"), 1007),
    "half a character over fragments": (frame(TEXT, b"\xc3", fin=False) + frame(0, b""), 1007),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close 999": (close(999), 1002),
    "close 1004": (close(1004), 1002),
    "close 1005": (close(1005), 1002),
    "close 1006": (close(1006), 1002),
    "close 1015": (close(1015), 1002),
    "1014 with a reason that is not UTF-8": (frame(CLOSE, b"\x03\xf6\xff"), 1007),
    "close 1100": (close(1100), 1002),
    "close 5000": (close(5000), 1002),
    "a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a fragmented close": (frame(CLOSE, fin=False), 1002),
}


@pytest.mark.parametrize("make", WIRES)
@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_read_however_they_are_cut(name: str, make: type[WebSocketWire]) -> None:
    data, expected = FRAMES[name]
    for pieces in cuts(data):
        assert received(make(MAX), pieces) == expected, pieces


@pytest.mark.parametrize("make", WIRES)
@pytest.mark.parametrize("name", FRAMES)
def test_octets_of_the_next_frame_may_follow(name: str, make: type[WebSocketWire]) -> None:
    data, expected = FRAMES[name]
    has_closed = isinstance(expected[-1], Close)
    following = [] if has_closed else ["next"]
    for at in range(1, len(text("next"))):
        wire = make(MAX)
        events = received(wire, [data + text("next")[:at], text("next")[at:]])
        assert events == expected + following
        assert wire.has_ended is has_closed


@pytest.mark.parametrize("make", WIRES)
@pytest.mark.parametrize("name", FAULTS)
def test_what_breaks_the_rules_ends_the_channel(name: str, make: type[WebSocketWire]) -> None:
    data, code = FAULTS[name]
    for pieces in cuts(data):
        wire = make(MAX)
        assert plain(received(wire, pieces)) == [fault(code)], pieces
        assert wire.has_ended
        assert received(wire, [text("more"), b"\x81", b"junk"]) == []


@pytest.mark.parametrize("make", WIRES)
@pytest.mark.parametrize("name", FAULTS)
def test_messages_before_the_fault_are_given(name: str, make: type[WebSocketWire]) -> None:
    data, code = FAULTS[name]
    before = text("a") + frame(PING, b"b") + binary(b"c")
    for pieces in ([before + data], [before[:-1], before[-1:] + data], [before, data]):
        events = plain(received(make(MAX), pieces))
        assert events == ["a", Ping(b"b"), b"c", fault(code)]


@pytest.mark.parametrize("make", WIRES)
def test_large_messages(make: type[WebSocketWire]) -> None:
    message = os.urandom(200_000)
    data = frame(BINARY, message) + frame(BINARY, message[:70_000]) + text("end")
    for size in (len(data), 65536, 4097):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert received(make(1 << 20), pieces) == [message, message[:70_000], "end"]


@pytest.mark.parametrize("make", WIRES)
def test_fragments_of_next_to_nothing_cost_next_to_nothing(make: type[WebSocketWire]) -> None:
    """A million empty fragments, and a message in fragments of one byte."""
    wire = make(1 << 20)
    assert received(wire, [frame(BINARY, fin=False)]) == []
    empty = frame(0, fin=False) * 1000
    for _ in range(20):
        assert received(wire, [empty]) == []
    single = frame(0, b"ab", fin=False) * 1000
    for _ in range(5):
        assert received(wire, [single]) == []
    assert received(wire, [frame(0)]) == [b"ab" * 5000]


def test_a_burst_is_given_in_helpings() -> None:
    wire = WebSocketWire(MAX)
    first = wire.receive(text("a") * 1000)
    assert 0 < len(first) < 1000
    assert wire.has_buffered
    more = wire.receive(text("b"))  # what comes meanwhile waits behind it
    count = len(first) + len(more)
    while wire.has_buffered:
        events = wire.receive(b"")
        assert len(events) <= len(first)
        count += len(events)
        more = events
    assert count == 1001
    assert more[-1] == "b"


def test_a_burst_of_pings_is_given_in_helpings() -> None:
    wire = WebSocketWire(MAX)
    assert len(wire.receive(frame(PING) * 1000)) < 1000
    assert wire.has_buffered


# permessage-deflate


def compressed(message: bytes, opcode: int = BINARY, *, fin: bool = True) -> bytes:
    return frame(opcode, deflated(message), rsv=RSV1, fin=fin)


def with_deflate(make: type[WebSocketWire], max_bytes: int = MAX) -> WebSocketWire:
    return make(max_bytes, Deflate(), 0)


HELLO = deflated(b"Hello")
FINAL = bytes.fromhex("f348cdc9c90700")  # the same with BFINAL set
DEFLATED: dict[str, tuple[bytes, list[object]]] = {
    "binary": (compressed(b"a" * 900), [b"a" * 900]),
    "text": (compressed("é".encode() * 10, TEXT), ["é" * 10]),
    "nothing": (frame(TEXT, b"\0", rsv=RSV1), [""]),
    "an uncompressed one between": (
        compressed(b"a") + binary(b"b") + compressed(b"c"),
        [b"a", b"b", b"c"],
    ),
    "fragments": (
        frame(TEXT, HELLO[:3], rsv=RSV1, fin=False)
        + frame(PING, b"!")
        + frame(0, HELLO[3:4], fin=False)
        + frame(0, HELLO[4:])
        + text("next"),
        [Ping(b"!"), "Hello", "next"],
    ),
    "the last fragment is empty": (
        frame(TEXT, HELLO, rsv=RSV1, fin=False) + frame(0),
        ["Hello"],
    ),
    "a final block (RFC 7692, 7.2.3.4)": (
        frame(TEXT, FINAL + b"\0", rsv=RSV1) + text("next"),
        ["Hello", "next"],
    ),
    "a final block without its padding": (
        frame(TEXT, FINAL, rsv=RSV1) + compressed(b"next", TEXT),
        ["Hello", "next"],
    ),
    "blocks behind a final block": (
        frame(TEXT, FINAL + HELLO, rsv=RSV1),
        ["HelloHello"],
    ),
    "blocks behind a final block, in fragments": (
        frame(TEXT, FINAL, rsv=RSV1, fin=False) + frame(0, HELLO),
        ["HelloHello"],
    ),
    "two blocks (RFC 7692, 7.2.3.5)": (
        frame(TEXT, bytes.fromhex("f24805000000ffffcac9c90700"), rsv=RSV1),
        ["Hello"],
    ),
    "a block that is not compressed (RFC 7692, 7.2.3.3)": (
        frame(TEXT, bytes.fromhex("000500faff48656c6c6f00"), rsv=RSV1),
        ["Hello"],
    ),
    "as large as allowed": (compressed(b"x" * MAX), [b"x" * MAX]),
}
DEFLATE_FAULTS: dict[str, tuple[bytes, int]] = {
    "not deflate data": (frame(BINARY, b"\xff" * 8, rsv=RSV1), 1007),
    "not UTF-8 inside": (compressed(b"\xff", TEXT), 1007),
    "too large by one": (compressed(b"x" * (MAX + 1)), 1009),
    "a bomb": (compressed(b"x" * 1_000_000), 1009),
    "a bomb in fragments": (
        frame(BINARY, deflated(b"x" * 1_000_000)[:700], rsv=RSV1, fin=False)
        + frame(0, deflated(b"x" * 1_000_000)[700:]),
        1009,
    ),
    "RSV1 in a continuation": (
        frame(TEXT, HELLO[:3], rsv=RSV1, fin=False) + frame(0, HELLO[3:], rsv=RSV1),
        1002,
    ),
    "RSV1 in a ping": (frame(PING, rsv=RSV1), 1002),
    "RSV1 and RSV2": (frame(TEXT, HELLO, rsv=RSV1 | 2), 1002),
    "junk behind a final block": (
        frame(TEXT, FINAL + b"\xff\xff\xff", rsv=RSV1),
        1007,
    ),
    "final blocks without end": (frame(TEXT, b"\x03\x00" * 300, rsv=RSV1), 1007),
    "a bomb behind a final block": (
        frame(TEXT, FINAL + deflated(b"x" * 100_000), rsv=RSV1),
        1009,
    ),
}


@pytest.mark.parametrize("make", WIRES)
@pytest.mark.parametrize("name", [*DEFLATED, *DEFLATE_FAULTS])
def test_compressed_frames_are_read_however_they_are_cut(
    name: str, make: type[WebSocketWire]
) -> None:
    if name in DEFLATED:
        data, expected = DEFLATED[name]
    else:
        data, code = DEFLATE_FAULTS[name]
        expected = [fault(code)]
    for pieces in cuts(data):
        assert plain(received(with_deflate(make), pieces)) == expected, pieces


@pytest.mark.parametrize("make", WIRES)
def test_incompressible_messages_may_be_as_large_as_any(make: type[WebSocketWire]) -> None:
    """They grow by being compressed; the limit is for what they come to."""
    message = os.urandom(MAX)
    assert len(deflated(message)) > MAX
    assert received(with_deflate(make), [compressed(message)]) == [message]


@pytest.mark.parametrize("in_fragments", [False, True])
@pytest.mark.parametrize("make", WIRES)
def test_how_much_a_message_may_inflate(make: type[WebSocketWire], in_fragments: bool) -> None:
    """1 MiB in any case, and 64 times what came over the wire: 16 KiB must not cost 16 MiB."""

    def sent(message: bytes) -> list[bytes]:
        if not in_fragments:
            return [compressed(message)]
        payload = deflated(message)
        half = len(payload) // 2
        first = frame(BINARY, payload[:half], rsv=RSV1, fin=False)
        return [first, frame(0, payload[half:])]

    limit = 16 * 1024 * 1024
    free = bytes(1 << 20)
    assert received(with_deflate(make, limit), sent(free)) == [free]
    parts = [os.urandom(1500) + bytes(65536 - 1500) for _ in range(limit // 65536)]
    assert received(with_deflate(make, limit), sent(b"".join(parts))) == [b"".join(parts)]
    for bomb in (bytes(limit), bytes((1 << 20) + 70_000)):
        assert plain(received(with_deflate(make, limit), sent(bomb))) == [fault(1009)]
    too_big = b"".join(parts) + b"x"
    assert plain(received(with_deflate(make, limit), sent(too_big))) == [fault(1009)]


@pytest.mark.parametrize("in_fragments", [False, True])
@pytest.mark.parametrize("opcode", [BINARY, TEXT])
def test_a_large_message_is_inflated_piece_by_piece(opcode: int, in_fragments: bool) -> None:
    """The loop has its other work between two pieces, each of which comes to 1 MiB at most."""
    parts = [os.urandom(900).hex().encode() + bytes(65536 - 1800) for _ in range(256)]
    message = b"".join(parts)
    payload = deflated(message)
    assert len(payload) > 256 * 1024
    frames = [frame(opcode, payload, rsv=RSV1)]
    if in_fragments:
        frames = [
            frame(opcode, payload[:100_000], rsv=RSV1, fin=False),
            frame(0, payload[100_000:]),
        ]
    wire = with_deflate(WebSocketWire, len(message))
    events = wire.receive(b"".join(frames) + frame(PING, b"behind"))
    reads = 1
    while wire.has_buffered:
        assert events == []
        events = wire.receive(b"")
        reads += 1
        if events:
            break
    assert reads >= len(payload) // (16 * 1024)
    assert events == [message if opcode == BINARY else message.decode()]
    assert wire.receive(b"") == [Ping(b"behind")]
    assert not wire.has_buffered


@pytest.mark.parametrize("make", WIRES)
def test_small_frames_that_grow_are_given_one_helping_at_a_time(
    make: type[WebSocketWire],
) -> None:
    """Or one read could turn into gigabytes."""
    message = bytes(600_000)
    fragments = deflated(message)
    data = (
        compressed(message) * 4
        + (frame(BINARY, fragments[:9], rsv=RSV1, fin=False) + frame(0, fragments[9:])) * 4
    )
    wire = with_deflate(make, 1 << 20)
    events = wire.receive(data)
    helpings = [len(events)]
    while wire.has_buffered:
        events = wire.receive(b"")
        helpings.append(len(events))
    assert sum(helpings) == 8
    assert max(helpings) == 2


@pytest.mark.parametrize("make", WIRES)
def test_what_compression_does_not_make_smaller_goes_out_as_it_is(
    make: type[WebSocketWire],
) -> None:
    """1 MiB of random bytes grew to 1,051,142, which a client with a limit of 1 MiB refuses."""
    message = os.urandom(1 << 20)
    frame_ = make(1 << 21, Deflate(), 1).binary(message)
    assert frame_[0] == 0x82
    assert frame_.endswith(message)
    assert make(1 << 21, Deflate(), 1).binary(bytes(1 << 20))[0] == 0xC2
    assert make(1 << 21, Deflate(), 0).binary(message)[0] == 0xC2, "0 asks for all of them"
    # with context takeover the peer's window must see it
    takeover = make(1 << 21, Deflate(server_takeover=True), 1)
    assert takeover.binary(message)[0] == 0xC2
