"""What is done otherwise than in h2 comes to the same: against h2 and hpack as they are."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_poller.protocols.http2 import h2_tuned, head_encoder
from asgi_poller.protocols.http2.h2_connection import made_h2
from asgi_poller.protocols.http2.h2_tuned import HeadDecoder
from asgi_poller.protocols.http2.head_encoder import HeadEncoder
from asgi_poller.protocols.http2.limits import Http2Limits

NAMES = st.sampled_from([b":status", b"content-type", b"x-own", b"set-cookie", b"date"])
FIELD = st.tuples(NAMES, st.sampled_from([b"200", b"text/plain", b""]) | st.binary(max_size=300))
HEADS = st.lists(st.lists(FIELD, max_size=12), max_size=8)


@given(HEADS, st.sampled_from([0, 100, 4096, 65536]), st.integers(0, 8))
@settings(max_examples=150, deadline=None)
def test_heads_are_read_as_they_were_said(heads: list[Any], allowed: int, at: int) -> None:
    """Also by a peer that allows another size of the table in the middle (RFC 7541, 4.2)."""
    encoder, decoder = HeadEncoder(), Decoder()
    for number, head in enumerate(heads):
        if number == at:
            decoder.max_allowed_table_size = allowed
            encoder.header_table_size = allowed
        assert list(decoder.decode(encoder.encode(head), raw=True)) == head
    assert len(head_encoder._FIELDS) <= head_encoder._KEPT_COUNT


def test_what_is_kept_has_a_bound() -> None:
    encoder, decoder = HeadEncoder(), Decoder()
    for number in range(3 * head_encoder._KEPT_COUNT):
        field = (b"etag", b"%d" % number)
        assert list(decoder.decode(encoder.encode([field]), raw=True)) == [field]
        assert len(head_encoder._FIELDS) <= head_encoder._KEPT_COUNT
    long = (b"set-cookie", bytes(1000))
    encoder.encode([long])
    assert long not in head_encoder._FIELDS


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([b":path", b"cookie", b"x-own"]),
        st.sampled_from([b"/", b"/other", b"", b"v" * 90]),
        st.booleans(),
    ),
    max_size=6,
)
SAID = st.lists(
    st.tuples(st.integers(0, 3), st.none() | st.sampled_from([0, 40, 120, 300, 4096])),
    min_size=1,
    max_size=40,
)


@given(st.lists(REQUESTS, min_size=4, max_size=4), SAID)
@settings(max_examples=300, deadline=None)
def test_what_is_said_again_means_the_same(heads: list[Any], said: list[Any]) -> None:
    """Whatever has come into the table since, and gone out of it."""
    encoder, plain, kept = Encoder(), Decoder(), HeadDecoder()
    blocks = []
    for which, size in said:
        if size is not None:
            encoder.header_table_size = size
        blocks.append(bytes(encoder.encode(heads[which])))
        assert kept.decode(blocks[-1], raw=True) == plain.decode(blocks[-1], raw=True)
    for block in blocks:  # without the encoder's care: any byte may mean another field now
        answers = [_decoded(each, block) for each in (plain, kept)]
        assert answers[0] == answers[1]
        assert list(plain.header_table.dynamic_entries) == list(kept.header_table.dynamic_entries)
        assert plain.header_table.maxsize == kept.header_table.maxsize


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=3), st.lists(st.integers(0, 2)))
@settings(max_examples=300, deadline=None)
def test_blocks_of_any_bytes_mean_the_same(blocks: list[bytes], order: list[int]) -> None:
    plain, kept = Decoder(), HeadDecoder()
    for which in order:
        block = blocks[which % len(blocks)]
        answers = [_decoded(each, block) for each in (plain, kept)]
        assert answers[0] == answers[1]


def _decoded(decoder: Decoder, block: bytes) -> Any:
    try:
        return list(decoder.decode(block, raw=True))
    except HPACKError as error:
        return str(error)


def test_blocks_that_are_kept_have_a_bound() -> None:
    encoder, decoder = HeadEncoder(), HeadDecoder()
    for number in range(3 * h2_tuned._KEPT_BLOCKS):
        decoder.decode(encoder.encode([(b"x", b"%d" % number)]), raw=True)
        assert len(decoder.kept) <= h2_tuned._KEPT_BLOCKS
    few = set(decoder.kept)
    decoder.decode(b"\x82" * (h2_tuned._KEPT_BLOCK_FIELDS + 1), raw=True)  # ":method: GET" each
    decoder.decode(encoder.encode([(b"x", bytes(h2_tuned._KEPT_BLOCK_BYTES))]), raw=True)
    assert set(decoder.kept) == few


HEAD = [(b":status", b"200"), (b"x-own", b"value")]
STEPS = st.lists(
    st.tuples(st.sampled_from("oerdw"), st.integers(0, 200)), min_size=20, max_size=250
)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_streams_live_and_end_as_in_h2(steps: list[tuple[str, int]]) -> None:
    """The same events for the same bytes, however the streams end, and none is kept long."""
    plain = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, header_encoding=None)
    )
    plain.update_settings({3: 2**31 - 1})
    made, _ = made_h2(Http2Limits(websockets=False))
    tuned: Any = made
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    plain.initiate_connection()
    opened: list[int] = []
    alive: set[int] = set()
    for step, number in steps:
        stream = opened[number % len(opened)] if opened else 0
        if step == "o":
            stream = client.get_next_available_stream_id()
            fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
            client.send_headers(stream, fields)
            opened.append(stream)
            alive.add(stream)
        elif stream in alive and step == "e":
            client.end_stream(stream)
            alive.discard(stream)
        elif stream in alive and step == "r":
            client.reset_stream(stream, 8)
            alive.discard(stream)
        elif stream in alive and step == "d":
            client.send_data(stream, b"body")
        elif stream in alive:
            client.increment_flow_control_window(100, stream)
        data = client.data_to_send()
        events = [repr(event) for event in plain.receive_data(data)]
        assert [repr(event) for event in tuned.receive_data(data)] == events
        for ended in _half_closed(plain):
            plain.send_headers(ended, HEAD)
            plain.send_data(ended, b"answer", end_stream=True)
        for ended in _half_closed(tuned):
            tuned.write_head(ended, [(b":status", b"103"), *HEAD[1:]], False)
            tuned.write_head(ended, HEAD, False)
            tuned.write_body(ended, b"answer", True)
            heard = client.receive_data(tuned.data_to_send())
            kinds = [
                type(event).__name__ for event in heard if getattr(event, "stream_id", 0) == ended
            ]
            assert kinds == [
                "InformationalResponseReceived",
                "ResponseReceived",
                "DataReceived",
                "StreamEnded",
            ]
        assert tuned.outbound_flow_control_window == plain.outbound_flow_control_window
    open_count = sum(stream.open for stream in tuned.streams.values())
    assert open_count == sum(stream.open for stream in plain.streams.values())
    assert len(tuned.streams) <= tuned._walk_at + 1


def _half_closed(server: Any) -> list[int]:
    """The streams whose requests have come to their end, and are not answered."""
    return [
        stream.stream_id
        for stream in server.streams.values()
        if stream.state_machine.state.name == "HALF_CLOSED_REMOTE"
    ]
