"""What a reader makes of /status.json: the snapshot again, and what lies between two of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from asgi_poller.metrics.histogram import BOUNDS_US, BUCKETS, NO_DURATIONS, HistogramValue
from asgi_poller.metrics.loop_counts import LoopValues
from asgi_poller.monitor.as_json import as_json
from asgi_poller.monitor.reading import Between, accepted, closes, read_status, refusals
from tests.monitor.sources import loop, snapshot, worker


def sent(**changes: Any) -> Any:
    """What comes over the wire."""
    return json.loads(json.dumps(as_json(snapshot(**changes))))


def test_what_is_read_is_what_was_shown() -> None:
    assert read_status(sent()) == snapshot()
    assert read_status(sent(listen_drops=None, workers=())) == snapshot(
        listen_drops=None, workers=()
    )


def test_a_newer_server_may_say_more() -> None:
    data = sent()
    data["weather"] = "fine"
    data["workers"][0]["loops"][0]["values"]["colour"] = 7
    data["retired"]["closes"].append({"code": "5xxx", "by": "nobody", "count": 1})
    assert read_status(data) == snapshot()


def test_buckets_of_another_version_are_not_taken_for_ours() -> None:
    data = sent()
    data["bounds_us"][0] = 1
    read = read_status(data)
    assert read.total.lag == NO_DURATIONS
    assert read.total.messages_received == 1200


@pytest.mark.parametrize(
    "data", [None, [], "x", {}, {"bounds_us": 1}, {"bounds_us": list(BOUNDS_US), "time": 1}]
)
def test_what_is_no_status_is_said_to_be_none(data: object) -> None:
    with pytest.raises(ValueError, match="no status"):
        read_status(data)


def later(seconds: float, **counts: int) -> Any:
    """The snapshot so much later, its first loop having counted these."""
    first = worker(1, loop(connections_open=3, **counts))
    base = snapshot()
    return dataclasses.replace(base, time=base.time + seconds, workers=(first, worker(2)))


def test_rates_are_of_the_time_between() -> None:
    between = Between(snapshot(), later(2.0, messages_received=150))
    assert between.rate(lambda each: each.total.messages_received) == 25.0
    assert between.rate(accepted) == 0.0


def test_a_count_that_seems_to_fall_is_no_negative_rate() -> None:
    between = Between(snapshot(), later(2.0, messages_received=50))
    assert between.rate(lambda each: each.total.messages_received) == 0.0


def test_another_process_has_no_rate_yet() -> None:
    for change in ({"pid": 1}, {"started_at": 1.0}, {"time": snapshot().time}):
        between = Between(snapshot(), dataclasses.replace(later(2.0), **change))
        assert between.rate(accepted) is None
    assert Between(None, snapshot()).rate(accepted) is None


def test_percentiles_are_of_what_came_between() -> None:
    before = HistogramValue((0,) * (BUCKETS - 1) + (1000,), 0)  # a thousand slow ones, long ago
    after = before + HistogramValue((0, 10) + (0,) * (BUCKETS - 2), 0)  # ten of up to 1 ms
    earlier = snapshot(workers=(), retired=LoopValues(lag=before))
    now = dataclasses.replace(earlier, time=earlier.time + 1, retired=LoopValues(lag=after))
    assert Between(earlier, now).quantile_s(lambda each: each.total.lag, 0.5) == 0.00075
    assert Between(None, now).quantile_s(lambda each: each.total.lag, 0.5) == 30.0
    assert Between(now, dataclasses.replace(now, time=now.time + 1)).quantile_s(
        lambda each: each.total.lag, 0.5
    ) is None  # fmt: skip


def test_who_was_refused_and_who_closed() -> None:
    assert refusals(snapshot()) == {
        "503": 6,
        "tls": 1,
        "accept() failed": 2,
        "gone before accept()": 1,
        "no loop took it": 4,
    }
    assert closes(snapshot()) == {"1000": (21, 0, 0)}  # seven by each of two loops, and retired


def test_where_nobody_polls_what_loops_adopted_was_accepted() -> None:
    shown = snapshot(pollers=(), workers=(worker(1, loop(adopted=5)),))
    assert accepted(shown) == 5
