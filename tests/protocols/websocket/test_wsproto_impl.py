"""The implementation with wsproto: what it adds, and what it is asked to send.

What it reads is tested beside the fast lane, in test_protocol.py.
"""

from __future__ import annotations

import pytest

from asgi_poller.errors import WebSocketFault
from asgi_poller.protocols.websocket.frames import Close, Event, Ping, encode_close
from asgi_poller.protocols.websocket.permessage_deflate import Deflate
from asgi_poller.protocols.websocket.protocol import FrameCache, WebSocketWire
from asgi_poller.protocols.websocket.wsproto_full import WsprotoWebSocketWire
from asgi_poller.protocols.websocket.wsproto_impl import WsprotoImpl
from tests.support.frames import BINARY, PING, TEXT, close, frame, inflated, server_frames


def test_the_end_of_input_is_told() -> None:
    lane = WsprotoImpl(100, None)
    events: list[Event] = []
    assert lane.receive(frame(TEXT, b"a"), events)
    assert not lane.receive(close(1000), events)
    assert events == ["a", Close(1000, "")]


def test_faults_are_not_taken_for_the_peers_close() -> None:
    for data, code, word in (
        (frame(BINARY, b"x" * 101), 1009, "too big"),
        (frame(TEXT, b"a", mask=None), 1002, "unmasked"),
        (frame(TEXT, b"\xff"), 1007, "utf-8"),
        (frame(TEXT, b"\xff\xff", rsv=4), 1007, "compressed"),
    ):
        events: list[Event] = []
        assert not WsprotoImpl(100, Deflate()).receive(data, events)
        (fault,) = events
        assert isinstance(fault, WebSocketFault)
        assert fault.code == code
        assert word in fault.reason


def test_sending_is_the_same_in_both_lanes() -> None:
    fast, careful = WebSocketWire(1000), WsprotoWebSocketWire(1000)
    for length in (0, 1, 125, 126, 65535, 65536):
        assert fast.text("x" * length) == careful.text("x" * length)
        assert fast.binary(b"x" * length) == careful.binary(b"x" * length)
    assert fast.text("é" * 100) == careful.text("é" * 100)
    for payload in (b"", b"a", b"x" * 125, b"x" * 200):
        assert fast.ping(payload) == careful.ping(payload)
    assert fast.pong(b"x" * 125) == careful.pong(b"x" * 125)


@pytest.mark.parametrize("code", [None, 1000, 1001, 1005, 1006, 1011, 1012, 3000, 4999])
@pytest.mark.parametrize("reason", ["", "bye", "é" * 100])
def test_closing_is_the_same_in_both_lanes(code: int | None, reason: str) -> None:
    expected = encode_close(code, reason)
    assert WebSocketWire(1000).close(code, reason) == expected
    assert WsprotoWebSocketWire(1000).close(code, reason) == expected
    answering = WsprotoWebSocketWire(1000)
    answering.receive(close(1000))
    assert answering.close(code, reason) == expected


def test_a_second_close_is_not_sent() -> None:
    wire = WsprotoWebSocketWire(1000)
    assert wire.close(1000)
    assert wire.close(1000) == b""


def test_the_peer_is_heard_after_our_close() -> None:
    wire = WsprotoWebSocketWire(1000)
    wire.close(1000)
    events = wire.receive(frame(TEXT, b"late") + frame(PING) + close(1000))
    assert events == ["late", Ping(b""), Close(1000, "")]


@pytest.mark.parametrize("make", [WebSocketWire, WsprotoWebSocketWire])
def test_the_threshold_counts_octets(make: type[WebSocketWire]) -> None:
    wire = make(1000, Deflate(), 10)
    (plain,) = server_frames(wire.text("é" * 4))
    assert (plain.rsv, plain.payload) == (0, "é".encode() * 4)
    (compressed,) = server_frames(wire.text("é" * 5))
    assert compressed.rsv == 4
    assert inflated(compressed.payload) == "é".encode() * 5
    (binary,) = server_frames(wire.binary(b"x" * 10))
    assert (binary.opcode, binary.rsv) == (BINARY, 4)


def test_one_message_for_many_is_compressed_once() -> None:
    cache = FrameCache()
    message = "the same for all " * 100
    wires = [WebSocketWire(1000, Deflate(), 0, cache) for _ in range(3)]
    frames = [wire.text(message) for wire in wires]
    assert frames[0] is frames[1] is frames[2]
    other = "another " * 100
    assert inflated(server_frames(wires[0].text(other))[0].payload) == other.encode()
    as_bytes = message.encode()
    assert server_frames(wires[0].binary(as_bytes))[0].opcode == BINARY


@pytest.mark.parametrize("special", [Deflate(server_bits=9), Deflate(server_takeover=True)])
def test_a_compressed_frame_is_not_shared_where_it_would_not_do(special: Deflate) -> None:
    """A peer with a window of 512 bytes cannot inflate what was made for 4096."""
    cache = FrameCache()
    page = bytes(range(256)) * 2
    message = page + b"x" * 1000 + page
    WebSocketWire(10_000, Deflate(), 0, cache).binary(message)
    wire = WebSocketWire(10_000, special, 0, cache)
    for _ in range(2):
        (sent,) = server_frames(wire.binary(message))
        if special.server_bits == 9:
            assert inflated(sent.payload, 9) == message
    first, second = wire.binary(message), wire.binary(message)
    assert (first == second) is not special.server_takeover
