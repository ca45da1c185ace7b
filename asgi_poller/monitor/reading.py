"""What a reader makes of /status.json: a Snapshot again, and rates and percentiles between two.

A server of another version may know more or less than this one: what is unknown here is left out.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from asgi_poller.metrics.histogram import BOUNDS_US, NO_DURATIONS, HistogramValue
from asgi_poller.metrics.loop_counts import (
    CLOSE_CODE_NAMES,
    CLOSED_BY,
    STATUS_CLASSES,
    LoopValues,
)
from asgi_poller.metrics.refusals import REFUSALS
from asgi_poller.metrics.snapshot import Snapshot


def read_status(data: object) -> Snapshot:
    """From what `as_json` makes. Raises ValueError for anything else."""
    try:
        assert isinstance(data, Mapping)
        same_bounds = tuple(data["bounds_us"]) == BOUNDS_US
        snapshot = _record(Snapshot, data, same_bounds)
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no status of asgi-poller: {error!r}") from None
    assert isinstance(snapshot, Snapshot)
    return snapshot


@cache
def _kinds(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def _record(kind: Any, data: Mapping[str, Any], same_bounds: bool) -> object:
    """An object of the dataclass `kind`. Raises TypeError where something without a default is
    missing.
    """
    values = {
        each.name: _value(_kinds(kind)[each.name], data[each.name], same_bounds)
        for each in fields(kind)
        if each.name in data and not (kind is LoopValues and each.name in _LISTS)
    }
    if kind is LoopValues:
        values |= {name: read(data.get(name, ())) for name, read in _LISTS.items()}
    return kind(**values)


def _value(kind: Any, data: Any, same_bounds: bool) -> Any:
    if kind is HistogramValue:
        # Counts of other buckets mean nothing here.
        return _record_of_histogram(data) if same_bounds else NO_DURATIONS
    if is_dataclass(kind):
        return _record(kind, data, same_bounds)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return tuple(_value(arguments[0], each, same_bounds) for each in data)
    if origin is types.UnionType:  # something, or None
        return None if data is None else _value(arguments[0], data, same_bounds)
    if origin is not None:  # a mapping by name
        return {str(key): _value(arguments[1], each, same_bounds) for key, each in data.items()}
    return kind(data)  # a number or a text


def _record_of_histogram(data: Mapping[str, Any]) -> HistogramValue:
    return HistogramValue(tuple(map(int, data["counts"])), int(data["sum_us"]))


def _responses(data: Any) -> tuple[int, ...]:
    return tuple(int(data[each]) if each in data else 0 for each in STATUS_CLASSES)


def _closes(data: Any) -> tuple[int, ...]:
    counts = dict.fromkeys(((code, by) for code in CLOSE_CODE_NAMES for by in CLOSED_BY), 0)
    for row in data:
        key = (str(row["code"]), str(row["by"]))
        if key in counts:
            counts[key] += int(row["count"])
    return tuple(counts.values())


def _refusals(data: Any) -> tuple[int, ...]:
    return tuple(int(data[each]) if each in data else 0 for each in REFUSALS)


_LISTS: dict[str, Callable[[Any], tuple[int, ...]]] = {
    "responses": _responses,
    "closes": _closes,
    "refusals": _refusals,
}


def accepted(snapshot: Snapshot) -> int:
    """Connections since the server's start."""
    if not snapshot.pollers:
        return snapshot.total.adopted  # gunicorn's workers accept by themselves
    return sum(poller.accepted for poller in snapshot.pollers)


def refusals(snapshot: Snapshot) -> dict[str, int]:
    """How often connections or requests were not served, by why; the words are the dashboard's."""
    pollers = snapshot.pollers
    return {
        **snapshot.refused,
        "accept() failed": sum(poller.failed for poller in pollers),
        "gone before accept()": sum(poller.aborted for poller in pollers),
        "no loop took it": sum(poller.dropped for poller in pollers),
    }


def closes(snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    """How many WebSockets have ended, by close code: one count for each of CLOSED_BY."""
    counts, width = snapshot.total.closes, len(CLOSED_BY)
    rows = {code: counts[at * width : (at + 1) * width] for at, code in enumerate(CLOSE_CODE_NAMES)}
    return {code: row for code, row in rows.items() if any(row)}


@dataclass(frozen=True, slots=True)
class Between:
    """Two snapshots of one server, the later one last. `before` is None where there is one only:
    then nothing is known of rates.
    """

    before: Snapshot | None
    after: Snapshot

    def rate(self, count: Callable[[Snapshot], int]) -> float | None:
        """How many of it in a second."""
        before = self._comparable
        if before is None:
            return None
        more = max(0, count(self.after) - count(before))  # a worker's end may show before its sum
        return more / (self.after.time - before.time)

    def quantile_s(
        self, durations: Callable[[Snapshot], HistogramValue], share: float
    ) -> float | None:
        """Seconds below which `share` of those in between are; without a snapshot from before, of
        all since the start. None: there was none.
        """
        after, before = durations(self.after), self._comparable
        if before is None:
            return after.quantile_s(share)
        earlier = durations(before).counts
        counts = _pairs_less(after.counts, earlier)
        return HistogramValue(counts).quantile_s(share)

    @property
    def _comparable(self) -> Snapshot | None:
        before, after = self.before, self.after
        if before is None or (before.pid, before.started_at) != (after.pid, after.started_at):
            return None  # another server: its counts begin at 0
        return before if before.time < after.time else None


def _pairs_less(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(0, more - less) for more, less in zip(left, right, strict=True))
