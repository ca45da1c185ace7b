"""DATA of WebSockets, which goes past h2: h2 as the client sees nothing wrong with it."""

from __future__ import annotations

import random

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.errors import Http2Fault
from asgi_poller.protocols.http1.parser import HeadLimits
from asgi_poller.protocols.http2.connection import Http2Connection
from asgi_poller.protocols.http2.events import BodyEnded, BodyReceived, RequestReceived
from asgi_poller.protocols.http2.frames import DATA, FLOW_CONTROL_ERROR, frame
from asgi_poller.protocols.http2.limits import Http2Limits

WINDOW = 70_000
CONNECT = [
    *((":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")),
    *((":path", "/"), (":authority", "a"), ("sec-websocket-version", "13")),
]


class Pair:
    """A server and h2 as its client, joined by memory; the client's bytes come in pieces."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        limits = Http2Limits(
            head=HeadLimits(),
            stream_count=100,
            stream_window_bytes=WINDOW,
            connection_window_bytes=100_000,
            websockets=True,
        )
        self.server = Http2Connection(limits)
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.client = h2.connection.H2Connection(config)
        self.client.initiate_connection()
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.to_client: dict[int, bytearray] = {}
        self.exchange()

    def open(self) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, CONNECT)
        return stream

    def exchange(self) -> None:
        """What both have to say, until both have heard it."""
        for _ in range(4):
            data = self.client.data_to_send()
            while data:
                size = self.random.choice((1, 8, 9, 10, 100, 20_000, 200_000))
                piece, data = data[:size], data[size:]
                self.take(piece)
            for event in self.client.receive_data(self.server.take_output()):
                if isinstance(event, h2.events.DataReceived):
                    stream = event.stream_id or 0
                    self.to_client.setdefault(stream, bytearray()).extend(event.data or b"")
                    used = event.flow_controlled_length or 0
                    self.client.acknowledge_received_data(used, stream)

    def take(self, data: bytes) -> None:
        for event in self.server.receive(data, 0.0):
            if isinstance(event, RequestReceived):
                status = [(b":status", b"200")]
                self.server.send_head(event.stream_id, status, is_last=False)
                self.received[event.stream_id] = bytearray()
            elif isinstance(event, BodyReceived):
                self.received[event.stream_id] += event.data
                self.server.credit(event.stream_id, event.window_bytes)
            elif isinstance(event, BodyEnded):
                self.ended.add(event.stream_id)


@given(st.integers(0, 2**32))
def test_what_goes_in_comes_out(seed: int) -> None:
    """Of many streams, padded and not, more than the windows, in pieces of any size; and back."""
    pair = Pair(seed)
    chance = pair.random
    sent: dict[int, bytearray] = {pair.open(): bytearray() for _ in range(3)}
    back: dict[int, bytearray] = {stream: bytearray() for stream in sent}
    for _ in range(60):
        stream = chance.choice(list(sent))
        room = min(pair.client.local_flow_control_window(stream), 16384) - 256
        data = bytes([chance.randrange(256)]) * min(chance.choice((0, 1, 100, 16_000)), room)
        padding = chance.choice((None, None, 0, 1, 255))
        pair.client.send_data(stream, data, pad_length=padding)
        sent[stream] += data
        if chance.random() < 0.5:
            pair.exchange()
            piece = data[: max(0, pair.server.room(stream))]
            if piece:
                pair.server.send_body(stream, piece, is_last=False)
                back[stream] += piece
    for stream in sent:
        pair.client.end_stream(stream)
        pair.exchange()
        pair.server.send_body(stream, b"", is_last=True)
    pair.exchange()
    assert pair.received == sent
    assert {stream: data for stream, data in pair.to_client.items() if data} == {
        stream: data for stream, data in back.items() if data
    }
    assert pair.ended == set(sent)


def test_more_than_the_window() -> None:
    pair = Pair()
    stream = pair.open()
    pair.exchange()
    for _ in range(WINDOW // 16384):
        pair.server.receive(frame(DATA, 0, stream, bytes(16384)), 0.0)
    with pytest.raises(Http2Fault) as fault:
        pair.server.receive(frame(DATA, 0, stream, bytes(16384)), 0.0)
    assert fault.value.code == FLOW_CONTROL_ERROR


@pytest.mark.parametrize("padded", [b"", b"\x01", b"\x05abcd"])
def test_padding_that_is_longer_than_its_frame(padded: bytes) -> None:
    pair = Pair()
    stream = pair.open()
    pair.exchange()
    with pytest.raises(Http2Fault):
        pair.server.receive(frame(DATA, 0x8, stream, padded), 0.0)


def test_nothing_comes_after_the_end() -> None:
    pair = Pair()
    stream = pair.open()
    pair.client.end_stream(stream)
    pair.exchange()
    pair.server.receive(frame(DATA, 0, stream, b"late"), 0.0)
    assert pair.received[stream] == b""
