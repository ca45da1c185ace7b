"""Data cut in every way that a network may cut it, for tests without sockets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from hypothesis import strategies as st


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, byte by byte, and in two pieces split at every boundary."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def cut_at(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` in pieces that end at `places` (any order, repeats allowed)."""
    bounds = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[start:stop] for start, stop in pairwise(bounds)]


def places(length: int) -> st.SearchStrategy[list[int]]:
    """Where to cut something of `length` bytes."""
    return st.lists(st.integers(0, max(0, length - 1)), max_size=12)
