"""For any bytes, however cut, our frame parser gives what wsproto gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_poller.errors import WebSocketFault
from asgi_poller.protocols.websocket.frames import Ping, Pong
from asgi_poller.protocols.websocket.permessage_deflate import Deflate
from asgi_poller.protocols.websocket.protocol import WebSocketWire
from asgi_poller.protocols.websocket.wsproto_full import WsprotoWebSocketWire
from tests.protocols.websocket.test_protocol import RSV1, fault, plain, received
from tests.support.cuts import cut_at, places
from tests.support.frames import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    binary,
    close,
    deflated,
    frame,
    text,
)

payloads = st.binary(max_size=140) | st.text(max_size=40).map(str.encode)
good_frames = st.builds(
    frame,
    st.sampled_from([TEXT, BINARY, CONTINUATION, PING, PONG]),
    payloads,
    fin=st.booleans(),
    mask=st.binary(min_size=4, max_size=4),
)
messages = st.one_of(
    st.text(max_size=40).map(text),
    payloads.map(binary),
    payloads.map(deflated).map(partial(frame, BINARY, rsv=RSV1)),
    st.tuples(payloads, payloads).map(
        lambda two: frame(BINARY, two[0], fin=False) + frame(PING, b"p") + frame(0, two[1])
    ),
    st.tuples(payloads, st.integers(0, 9)).map(
        lambda two: (
            frame(BINARY, deflated(two[0])[: two[1]], rsv=RSV1, fin=False)
            + frame(0, deflated(two[0])[two[1] :])
        )
    ),
    st.text(max_size=20).map(lambda message: frame(TEXT, deflated(message.encode()), rsv=RSV1)),
)
odd_frames = st.builds(
    frame,
    st.integers(0, 15),
    payloads,
    fin=st.booleans(),
    rsv=st.integers(0, 7),
    mask=st.none() | st.binary(min_size=4, max_size=4),
)
closes = st.builds(close, st.none() | st.integers(990, 5010), st.text(max_size=5))
stream = st.lists(
    st.one_of(messages, messages, good_frames, odd_frames, closes, st.binary(max_size=8)),
    max_size=10,
).map(b"".join)
good_stream = st.lists(messages | st.sampled_from([frame(PING), text("x") * 300]), max_size=8).map(
    b"".join
)
makers: list[Callable[[type[WebSocketWire]], WebSocketWire]] = [
    lambda make: make(300),
    lambda make: make(300, Deflate()),
    lambda make: make(300, Deflate(client_takeover=True)),
]


def ends_within_a_frame(slow: list[object], fast: list[object]) -> bool:
    """Where the bytes end within a frame, one lane may know already that it is at fault: the fast
    one does not need its mask for that, wsproto not all of its payload.
    """
    longer, shorter = (slow, fast) if len(slow) > len(fast) else (fast, slow)
    return longer[:-1] == shorter and longer[-1] in (fault(1002), fault(1007), fault(1009))


@pytest.mark.long
@settings(max_examples=500)
@given(data=stream, cut=st.data(), maker=st.sampled_from(makers))
def test_both_lanes_agree_on_any_octets_cut_anywhere(
    data: bytes, cut: st.DataObject, maker: Callable[[type[WebSocketWire]], WebSocketWire]
) -> None:
    pieces = cut_at(data, cut.draw(places(len(data))))
    fast = plain(received(maker(WebSocketWire), pieces))
    slow = plain(received(maker(WsprotoWebSocketWire), pieces))
    if fast != slow:
        assert ends_within_a_frame(slow, fast)
    assert plain(received(maker(WebSocketWire), [data])) == fast
    # events or a fault, nothing else, and nothing after the end
    assert all(isinstance(event, str | bytes | Ping | Pong) or event == fast[-1] for event in fast)


@settings(max_examples=300)
@given(data=good_stream, cut=st.data())
def test_both_lanes_agree_on_messages_cut_anywhere(data: bytes, cut: st.DataObject) -> None:
    pieces = cut_at(data, cut.draw(places(len(data))))
    fast = received(WebSocketWire(300, Deflate()), pieces)
    assert fast == received(WsprotoWebSocketWire(300, Deflate()), pieces)
    assert not any(isinstance(event, WebSocketFault) for event in fast)
