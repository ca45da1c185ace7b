"""A snapshot as JSON has it: for /status.json, the live page and the status command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from asgi_poller.metrics.histogram import BOUNDS_US, HistogramValue
from asgi_poller.metrics.loop_counts import (
    CLOSE_CODE_NAMES,
    CLOSED_BY,
    HISTOGRAMS,
    STATUS_CLASSES,
    LoopValues,
)
from asgi_poller.metrics.refusals import by_reason
from asgi_poller.metrics.snapshot import Snapshot

_QUANTILES = {"p50": 0.5, "p99": 0.99}


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """Every field of `snapshot` under its own name, and the `total` of all loops.

    A histogram is {"counts": [...], "sum_us": n}, with the upper bounds of all in "bounds_us" at
    the top; closes are a list of {"code", "by", "count"} without those that are 0, responses an
    object by status class, refusals one by reason. "quantiles" has p50 and p99 of lag, request and
    handshake of all loops, in seconds; null where there was none.
    """
    shown: dict[str, Any] = _plain(snapshot)
    total = snapshot.total
    shown["total"] = _plain(total)
    shown["bounds_us"] = list(BOUNDS_US)
    shown["quantiles"] = {
        name: {word: getattr(total, name).quantile_s(share) for word, share in _QUANTILES.items()}
        for name in HISTOGRAMS
    }
    return shown


def closes_of(values: LoopValues) -> list[tuple[str, str, int]]:
    """(close code, who closed, how many), for all that are counted."""
    pairs = [(code, by) for code in CLOSE_CODE_NAMES for by in CLOSED_BY]
    return [(*pair, count) for pair, count in zip(pairs, values.closes, strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, HistogramValue):
        return {"counts": list(value.counts), "sum_us": value.sum_us}
    if is_dataclass(value):
        shown = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, LoopValues):
            shown["responses"] = dict(zip(STATUS_CLASSES, value.responses, strict=True))
            shown["closes"] = [
                {"code": code, "by": by, "count": count}
                for code, by, count in closes_of(value)
                if count
            ]
            shown["refusals"] = dict(by_reason(value.refusals))
        return shown
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
