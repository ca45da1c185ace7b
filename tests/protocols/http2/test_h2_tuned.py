"""What is done otherwise than in h2 comes to the same: against h2 and hpack as they are."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
from hpack import Decoder
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_poller.protocols.http2 import h2_tuned
from asgi_poller.protocols.http2.h2_connection import made_h2
from asgi_poller.protocols.http2.h2_tuned import HeadEncoder
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
    assert len(h2_tuned._FIELDS) <= h2_tuned._KEPT_COUNT


def test_what_is_kept_has_a_bound() -> None:
    encoder, decoder = HeadEncoder(), Decoder()
    for number in range(3 * h2_tuned._KEPT_COUNT):
        field = (b"etag", b"%d" % number)
        assert list(decoder.decode(encoder.encode([field]), raw=True)) == [field]
        assert len(h2_tuned._FIELDS) <= h2_tuned._KEPT_COUNT
    long = (b"set-cookie", bytes(1000))
    encoder.encode([long])
    assert long not in h2_tuned._FIELDS


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
        for server in (plain, tuned):  # answers each request whose end has come
            for ended in list(server.streams.values()):
                if ended.state_machine.state.name == "HALF_CLOSED_REMOTE":
                    server.send_headers(ended.stream_id, [(b":status", b"200")], end_stream=True)
    open_count = sum(stream.open for stream in tuned.streams.values())
    assert open_count == sum(stream.open for stream in plain.streams.values())
    assert len(tuned.streams) <= tuned._walk_at + 1
