"""/healthz and /readyz: what each state of a server means to those who ask."""

from __future__ import annotations

import pytest

from asgi_poller.monitor.health import illness, obstacle
from tests.monitor.sources import loop, snapshot, worker

LIMIT_S = 60.0


@pytest.mark.parametrize(
    ("changes", "ill", "unready"),
    [
        ({}, None, None),
        ({"state": "starting", "workers": ()}, None, "starting"),
        ({"state": "draining"}, None, "draining"),
        ({"workers": ()}, "no worker lives", "no worker lives"),
        ({"workers": (worker(1, state="starting"),)}, None, "no worker serves"),
        ({"workers": (worker(1, state="draining"), worker(2))}, None, None),
        ({"workers": (worker(1, loop(silent_s=61.0)), worker(2, loop()))}, None, None),
        (
            {"workers": (worker(1, loop(silent_s=61.0)), worker(2, loop(silent_s=90.0)))},
            "all event loops have been blocked for 61 s",
            "all event loops have been blocked for 61 s",
        ),
    ],
)
def test_verdicts(changes: dict[str, object], ill: str | None, unready: str | None) -> None:
    shown = snapshot(**changes)
    assert illness(shown, LIMIT_S) == ill
    assert obstacle(shown, LIMIT_S) == unready


def test_without_a_limit_a_blocked_loop_may_take_its_time() -> None:
    assert illness(snapshot(workers=(worker(1, loop(silent_s=1e6)),)), 0.0) is None
