"""What is counted: a histogram with logarithmic buckets and a tally of outcomes. Both merge, and
both travel as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# 64 buckets to an octave: a value read back is within 1.6 % of the one recorded.
PRECISION_BITS = 7
HALF = 1 << (PRECISION_BITS - 1)
LONGEST_BITS = 46  # of nanoseconds: about 19 hours
BUCKET_COUNT = (LONGEST_BITS - PRECISION_BITS) * HALF + 2 * HALF

# Every attempt ends as opened or by exactly one of these.
CAUSES = (
    "refused",  # the kernel answered the SYN with RST
    "reset",  # RST later, before the handshake's answer
    "timeout",  # no verdict within --timeout (or the kernel's own)
    "status",  # an HTTP answer other than 101
    "protocol",  # an answer that is none, or a wrong one
    "closed",  # the server closed before it had answered
    "tls",  # the TLS handshake failed
    "local",  # this side could not: descriptors, addresses, routes
    "interrupted",  # still under way when the run was ended
)


def bucket_of(nanoseconds: int) -> int:
    """The bucket's index. Hot paths have this line inline."""
    shift = nanoseconds.bit_length() - PRECISION_BITS
    return (shift << (PRECISION_BITS - 1)) + (nanoseconds >> shift) if shift > 0 else nanoseconds


def bounds_of(index: int) -> tuple[int, int]:
    """The half-open range of nanoseconds that bucket `index` holds."""
    if index < 2 * HALF:
        return index, index + 1
    shift = (index >> (PRECISION_BITS - 1)) - 1
    low = (index - (shift << (PRECISION_BITS - 1))) << shift
    return low, low + (1 << shift)


class Histogram:
    """Durations in nanoseconds, counted in log buckets. One thread's."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * BUCKET_COUNT

    def record(self, nanoseconds: int, weight: int = 1) -> None:
        """Count `weight` durations."""
        self.counts[min(bucket_of(max(0, nanoseconds)), BUCKET_COUNT - 1)] += weight

    def merge(self, sparse: dict[str, int]) -> None:
        """Add what `sparse()` of another one gave."""
        for index, count in sparse.items():
            self.counts[int(index)] += count

    def sparse(self) -> dict[str, int]:
        """The buckets that hold something, as JSON can carry them."""
        return {str(index): count for index, count in enumerate(self.counts) if count}

    @property
    def total(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    def percentile_ms(self, fraction: float) -> float:
        """The duration in milliseconds below which `fraction` (0 to 1) of them lie; 0 where none
        was counted.
        """
        total = self.total
        if not total:
            return 0.0
        rank = min(total, int(fraction * total) + 1)
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                low, high = bounds_of(index)
                return (low + high) / 2e6
        raise AssertionError("unreachable: rank is at most the total")

    def mean_ms(self) -> float:
        """The mean in milliseconds, of bucket middles."""
        total = self.total
        weighed = sum(
            count * sum(bounds_of(index)) / 2 for index, count in enumerate(self.counts) if count
        )
        return weighed / total / 1e6 if total else 0.0

    def octaves(self, parts: int = 4) -> Iterator[tuple[float, float, int]]:
        """(from ms, to ms, count) in `parts` steps to an octave, from the first that holds
        something to the last.
        """
        step = HALF // parts
        groups = [sum(self.counts[at : at + step]) for at in range(0, BUCKET_COUNT, step)]
        used = [place for place, count in enumerate(groups) if count]
        for place in range(used[0], used[-1] + 1) if used else ():
            low, high = bounds_of(place * step)[0], bounds_of((place + 1) * step - 1)[1]
            yield low / 1e6, high / 1e6, groups[place]

    def summary(self) -> dict[str, Any]:
        """What the JSON report says of it; all in milliseconds."""
        points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "max": 1.0}
        return {
            "count": self.total,
            "mean": round(self.mean_ms(), 4),
            **{name: round(self.percentile_ms(fraction), 4) for name, fraction in points.items()},
            "histogram": [
                [round(low, 4), round(high, 4), count] for low, high, count in self.octaves()
            ],
        }


@dataclass(slots=True)
class Tally:
    """Counts of one client process, or of all. `attempted` = `opened` + the sum of `failed` + those
    under way.

    `lost` are channels that opened and later ended without our doing, by cause. `live` sockets are
    open now; `throttled` processes had to wait for descriptors; `deflated` channels agreed to
    permessage-deflate. `per_channel` counts, at the end of a hold, the channels by how many
    messages they received. Times are those of the monotonic clock in seconds; 0 where nothing
    happened yet.
    """

    attempted: int = 0
    opened: int = 0
    live: int = 0
    messages: int = 0
    throttled: int = 0
    deflated: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    per_channel: Counter[str] = field(default_factory=Counter)
    first_dial_s: float = 0.0
    last_outcome_s: float = 0.0

    @property
    def failures(self) -> int:
        """Attempts that failed."""
        return self.failed.total()

    @property
    def pending(self) -> int:
        """Attempts without an outcome yet."""
        return self.attempted - self.opened - self.failures

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            name: dict(value) if isinstance(value := getattr(self, name), Counter) else value
            for name in self.__slots__
        }

    def add(self, other: dict[str, Any]) -> None:
        """Add what another's `as_dict()` gave."""
        for name, value in other.items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            elif name == "first_dial_s":
                self.first_dial_s = min(filter(None, (mine, value)), default=0.0)
            elif name == "last_outcome_s":
                self.last_outcome_s = max(mine, value)
            else:
                setattr(self, name, mine + value)
