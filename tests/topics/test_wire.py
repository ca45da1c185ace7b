"""The bytes between a loop and its hub: any message, cut in any way, and bytes that are none."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.topics import wire
from asgi_poller.topics import wire_messages as said
from asgi_poller.topics.publication import BYTES, FORMS, Publication
from tests.support.cuts import cut_at, places

NUMBERS = st.integers(0, 2**32 - 1)
TOPICS = st.text(min_size=1, max_size=60).filter(lambda it: _is_utf8(it) and len(it.encode()) < 256)
IDS = st.text(max_size=60).filter(lambda it: _is_utf8(it))
PUBLICATIONS = st.one_of(
    st.builds(Publication, TOPICS, IDS, st.just(BYTES), st.binary(max_size=300)),
    st.builds(Publication, TOPICS, IDS, st.sampled_from(FORMS[::2]), IDS),
)
FORM = st.sampled_from(FORMS)


def _is_utf8(text: str) -> bool:
    try:
        return text.encode() is not None
    except UnicodeEncodeError:
        return False


def written(message: Any) -> bytes:
    """As its sender writes it."""
    if isinstance(message, Publication):
        return wire.publication(message)
    writers: dict[type, Any] = {
        said.Join: wire.join,
        said.Leave: wire.leave,
        said.Publish: wire.publish,
        said.Count: wire.count,
        said.Counted: wire.counted,
        said.Welcome: wire.welcome,
        said.Taken: wire.taken,
        said.Refused: wire.refused,
        said.MissedBegin: wire.missed,
        said.Joined: wire.joined,
        said.Gap: wire.gap,
        said.Ask: wire.ask,
        said.Counts: wire.counts,
    }
    made: bytes = writers[type(message)](*message)
    return made


TO_HUB = st.one_of(
    st.builds(said.Join, NUMBERS, TOPICS, st.none() | IDS),
    st.builds(said.Leave, TOPICS),
    st.builds(said.Publish, NUMBERS, TOPICS, FORM, st.binary(max_size=300)),
    st.builds(said.Count, NUMBERS, TOPICS),
    st.builds(said.Counted, NUMBERS, NUMBERS),
)
FROM_HUB = st.one_of(
    PUBLICATIONS,
    st.builds(said.Welcome, st.integers(0, 255)),
    st.builds(said.Taken, NUMBERS, IDS),
    st.builds(said.Refused, NUMBERS, IDS),
    st.builds(said.MissedBegin, NUMBERS),
    st.builds(said.Joined, NUMBERS, st.booleans(), IDS),
    st.builds(said.Gap, TOPICS, IDS),
    st.builds(said.Ask, NUMBERS, TOPICS),
    st.builds(said.Counts, NUMBERS, NUMBERS, NUMBERS),
)


def read(readers: wire.Readers, pieces: list[bytes]) -> list[Any]:
    decoder = wire.Decoder(readers)
    found = []
    for piece in pieces:
        decoder.feed(piece)
        while (message := decoder.next()) is not None:
            found.append(message)
    return found


@given(st.data(), st.booleans())
def test_however_it_is_cut_it_says_the_same(data: st.DataObject, is_to_hub: bool) -> None:
    messages = data.draw(st.lists(TO_HUB if is_to_hub else FROM_HUB, max_size=8))
    whole = b"".join(map(written, messages))
    pieces = cut_at(whole, data.draw(places(len(whole))))
    assert read(wire.TO_HUB if is_to_hub else wire.FROM_HUB, pieces) == messages


@given(st.data(), st.binary(max_size=200))
def test_nonsense_is_a_fault_or_waits_for_more(data: st.DataObject, noise: bytes) -> None:
    readers = data.draw(st.sampled_from([wire.TO_HUB, wire.FROM_HUB]))
    head = data.draw(st.sampled_from([b"", *(struct.pack("<IB", 9, kind) for kind in readers)]))
    try:
        messages = read(readers, [head + noise])
    except said.WireFault:
        return  # and no other exception
    assert all(written(message) for message in messages)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (bytes(4), "0 bytes"),
        (b"\xff" * 4, "4294967295 bytes"),
        (b"\1\0\0\0\xf0", "kind 240"),
        (struct.pack("<IBIHB", 8, 1, 1, 0xFFFF, 9), "longer than its message"),
        (struct.pack("<IB", 1, 2), "1 to 255 bytes"),
        (struct.pack("<IBB", 2, 2, 0xFF), "codec"),
        (struct.pack("<IBIBB", 7, 3, 1, 9, 0), "kind 3"),
        (struct.pack("<IBIII", 13, 5, 1, 2, 3), "length is wrong"),
    ],
)
def test_each_fault_says_what_it_is(data: bytes, problem: str) -> None:
    with pytest.raises(said.WireFault, match=problem):
        read(wire.TO_HUB, [data])


def test_a_length_that_cannot_be_is_refused_before_it_comes() -> None:
    decoder = wire.Decoder(wire.TO_HUB)
    decoder.feed(struct.pack("<I", wire.PUBLICATION_BYTES * 2))
    with pytest.raises(said.WireFault):
        decoder.next()


def test_a_publication_has_a_bound() -> None:
    with pytest.raises(ValueError, match="at most"):
        wire.publish(1, "a", BYTES, bytes(wire.PUBLICATION_BYTES + 1))


@pytest.mark.parametrize("since", ["\ud800", "x" * 300])
def test_what_can_be_no_id_is_sent_as_one_that_is_unknown(since: str) -> None:
    assert read(wire.TO_HUB, [wire.join(1, "a", since)]) == [said.Join(1, "a", "")]
