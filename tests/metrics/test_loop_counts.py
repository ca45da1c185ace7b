"""A row of cells gives back what a loop has counted, and totals never shrink."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.metrics.histogram import BOUNDS_US, Histogram, HistogramValue, value_of
from asgi_poller.metrics.loop_counts import (
    CELLS,
    CLOSE_CODE_NAMES,
    CLOSED_BY,
    OPEN,
    LoopCounts,
    LoopValues,
    close_index,
)

NAMES = [field.name for field in fields(LoopValues)]


def row() -> memoryview[int]:
    return memoryview(bytearray(8 * CELLS)).cast("q")


def filled() -> LoopCounts:
    """Each count with a value of its own."""
    counts = LoopCounts()
    for number, name in enumerate(NAMES, 1):
        value = getattr(counts, name)
        if isinstance(value, int):
            setattr(counts, name, number)
        elif isinstance(value, Histogram):
            value.observe(number / 1000)
        else:
            value[:] = range(number, number + len(value))
    return counts


def test_every_count_arrives_by_its_name() -> None:
    cells, counts = row(), filled()
    counts.publish(cells)
    values = LoopValues.read(cells)
    for name in NAMES:
        had = getattr(counts, name)
        want = value_of(had) if isinstance(had, Histogram) else had
        assert getattr(values, name) == (tuple(want) if isinstance(want, list) else want), name


def test_what_is_open_ends_with_its_loop_and_the_rest_stays() -> None:
    cells = row()
    filled().publish(cells)
    values = LoopValues.read(cells)
    assert [getattr(values.ended, name) for name in OPEN] == [0] * len(OPEN)
    assert values.ended.messages_sent == values.messages_sent
    both = values + values.ended
    assert both.messages_sent == 2 * values.messages_sent
    assert both.connections_open == values.connections_open
    assert both.lag.count == 2


@pytest.mark.parametrize(
    ("code", "shown"),
    [(1000, "1000"), (1014, "1014"), (1004, "other"), (2999, "other"), (3000, "3xxx"),
     (3999, "3xxx"), (4000, "4xxx"), (4999, "4xxx"), (5000, "other"), (0, "other")],
)  # fmt: skip
def test_close_codes_have_a_place(code: int, shown: str) -> None:
    for number, by in enumerate(CLOSED_BY):
        assert close_index(code, by) == CLOSE_CODE_NAMES.index(shown) * len(CLOSED_BY) + number


@given(st.lists(st.floats(min_value=-1, max_value=1e5), min_size=1))
def test_a_quantile_is_in_the_bucket_of_the_value(seconds: list[float]) -> None:
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    value = value_of(histogram)
    assert value.count == len(seconds)
    shown = value.quantile_s(1.0)
    largest_us = int(max(0.0, *seconds) * 1_000_000) if seconds else 0
    bound_us = next((bound for bound in BOUNDS_US if largest_us <= bound), BOUNDS_US[-1])
    assert shown == pytest.approx(bound_us / 1_000_000)


def test_no_quantile_of_nothing() -> None:
    assert HistogramValue().quantile_s(0.5) is None
