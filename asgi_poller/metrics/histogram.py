"""A histogram of durations in plain integers."""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

#: Upper bounds of the buckets, in microseconds; what is longer counts in one more bucket. From the
#: turn of an idle loop to a client that has given up.
BOUNDS_US: tuple[int, ...] = (
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
)  # fmt: skip
#: Counts of a histogram, with the one for what is longer than all bounds.
BUCKETS = len(BOUNDS_US) + 1


class Histogram:
    """Durations by bucket. Owned by one thread; any may read."""

    __slots__ = ("counts", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_us = 0

    def observe(self, seconds: float, times: int = 1) -> None:
        """It took so long, so many times. What a clock gives below zero counts as zero."""
        took_us = int(seconds * 1_000_000)
        if took_us < 0:
            took_us = 0
        self.counts[bisect_left(BOUNDS_US, took_us)] += times
        self.sum_us += took_us * times


@dataclass(frozen=True, slots=True)
class HistogramValue:
    """A histogram as it was at one moment: counts by bucket (not cumulative), and the sum."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    sum_us: int = 0

    def __add__(self, other: HistogramValue) -> HistogramValue:
        counts = tuple(map(operator.add, self.counts, other.counts))
        return HistogramValue(counts, self.sum_us + other.sum_us)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile_s(self, share: float) -> float | None:
        """Seconds below which `share` (0 to 1) of them are, by interpolation within a bucket, as
        Prometheus' histogram_quantile does. None: there is none.
        """
        total = self.count
        if not total:
            return None
        rank, below = share * total, 0
        for index, count in enumerate(self.counts):
            if count and below + count >= rank:
                if index == len(BOUNDS_US):
                    break
                start_us = BOUNDS_US[index - 1] if index else 0
                width_us = BOUNDS_US[index] - start_us
                return (start_us + width_us * (rank - below) / count) / 1_000_000
            below += count
        return BOUNDS_US[-1] / 1_000_000


NO_DURATIONS = HistogramValue()


def value_of(histogram: Histogram) -> HistogramValue:
    """What `histogram` has now."""
    return HistogramValue(tuple(histogram.counts), histogram.sum_us)


def value_in(cells: Sequence[int]) -> HistogramValue:
    """From BUCKETS + 1 cells: the counts, then the sum."""
    return HistogramValue(tuple(cells[:BUCKETS]), cells[BUCKETS])
