"""How much memory a process uses, on Linux and where ps has to say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_poller import platform
from asgi_poller.system.memory import resident_bytes


def test_memory_of_a_process_is_known_and_of_none_is_not() -> None:
    used_bytes = resident_bytes(os.getpid())
    assert used_bytes is not None
    assert 1 << 20 < used_bytes < 1 << 40
    assert resident_bytes(1 << 30) is None


def test_memory_can_be_asked_of_ps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "LINUX", False)
    fake = tmp_path / "ps"
    fake.write_text("#!/bin/sh\necho ' 2048'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert resident_bytes(1) == 2048 * 1024
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert resident_bytes(1) is None
