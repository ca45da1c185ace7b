"""When a worker is to be replaced: its age, its memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.supervisor import health_monitor


def test_memory_of_a_process_is_known_and_of_none_is_not() -> None:
    used_bytes = health_monitor.resident_bytes(os.getpid())
    assert used_bytes is not None
    assert 1 << 20 < used_bytes < 1 << 40
    assert health_monitor.resident_bytes(1 << 30) is None


def test_memory_can_be_asked_of_ps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "LINUX", False)
    fake = tmp_path / "ps"
    fake.write_text("#!/bin/sh\necho ' 2048'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert health_monitor.resident_bytes(1) == 2048 * 1024
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert health_monitor.resident_bytes(1) is None


def test_reasons_to_recycle() -> None:
    config = Config("main:app", worker_max_lifetime=10, worker_max_memory="1MiB")
    assert "it has served for 10 s" in str(
        health_monitor.reason_to_recycle(config, pid=os.getpid(), age_s=10.0)
    )
    assert "(--worker-max-memory)" in str(
        health_monitor.reason_to_recycle(config, pid=os.getpid(), age_s=1.0)
    )
    assert health_monitor.reason_to_recycle(Config("main:app"), pid=1, age_s=1e9) is None
