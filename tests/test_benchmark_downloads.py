"""The benchmark of downloads, for a moment: both ways give the same file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("servers are pinned to cores", allow_module_level=True)

from benchmarks import downloads


def test_both_ways(tmp_path: Path) -> None:
    (tmp_path / "300000").write_bytes(bytes(300_000))
    cores = frozenset(os.sched_getaffinity(0))
    with downloads.started(tmp_path, cores) as server:
        row = downloads.compare(server, 300_000, 2, rounds=1)
        assert row.size == 300_000
        assert min(row.read_us, row.announced_us) >= 0
