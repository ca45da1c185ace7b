"""The benchmark of few and many connections, for a moment: it asks, counts and paces itself."""

from __future__ import annotations

import os
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the clients use epoll", allow_module_level=True)

from benchmarks import turns


@pytest.mark.parametrize("kind", turns.KINDS, ids=["get", "json", "echo"])
def test_a_round(kind: turns.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "ROUND_S", 0.2)
    core = min(os.sched_getaffinity(0))
    with turns.started(turns.ROOT, kind.app, core) as server:
        for count, per_s in ((1, None), (3, None), (3, 100.0)):
            result = turns.measure(server, kind, count, per_s)
            assert result.per_s > 0
            assert 0 < result.p50_ms <= result.p99_ms
        assert result.per_s < 200, "it was to ask 100 times a second"
