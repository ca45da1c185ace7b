"""A server in this process that counts, and what it has counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from asgi_poller.metrics.loop_counts import CLOSE_CODE_NAMES, CLOSED_BY, LoopValues
from asgi_poller.metrics.snapshot import LoopSnapshot, Snapshot
from tests.support.server import Site, serving
from tests.support.waiting import wait_until


@contextlib.contextmanager
def counting(application: Any, **options: Any) -> Iterator[Site]:
    """Serve with a monitor, on a free port each."""
    with serving(application, metrics="0", **options) as site:
        yield site


def snapshot(site: Site) -> Snapshot:
    """What is shown now."""
    return site.server._source()


def loops_of(site: Site) -> tuple[LoopSnapshot, ...]:
    """The loops, as they are shown now."""
    (worker,) = snapshot(site).workers
    return worker.loops


def settled(site: Site) -> Snapshot:
    """What is shown of all that has happened before this call: every loop has begun to publish
    since.
    """
    before = [loop.values.lag.count for loop in loops_of(site)]

    def all_have_published() -> bool:
        # the first of these may have begun before the call
        now = [loop.values.lag.count for loop in loops_of(site)]
        return all(new >= old + 2 for old, new in zip(before, now, strict=True))

    wait_until(all_have_published, "every loop has published")
    return snapshot(site)


def closes(values: LoopValues) -> dict[tuple[str, str], int]:
    """By code and by whom; those that are 0 left out."""
    pairs = [(code, by) for code in CLOSE_CODE_NAMES for by in CLOSED_BY]
    return {pair: count for pair, count in zip(pairs, values.closes, strict=True) if count}
