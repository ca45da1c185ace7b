"""The build switch: a wheel is pure unless it is asked for, and what would be compiled exists. What
a compiled wheel does, all tests say when `.ci/compiled` runs them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hatch_build import FOLDERS, INTERPRETED, PACKAGE, MypycHook, can_be_compiled, hot_modules
from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE_S

FILES = ("hatch_build.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what a wheel is made of, without compiled modules."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    left_out = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=left_out)
    return tmp_path


def built(source: Path, variables: dict[str, str]) -> Path:
    """The wheel that the build backend makes."""
    script = "import hatchling.build; print(hatchling.build.build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=source,
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    return source / "dist" / done.stdout.split()[-1]


@pytest.mark.parametrize("variables", [{}, {"ASGI_POLLER_COMPILE": "0"}])
def test_a_wheel_is_pure_and_complete(source: Path, variables: dict[str, str]) -> None:
    wheel = built(source, variables)
    assert wheel.name.endswith("-py3-none-any.whl")
    files = {
        path.relative_to(source).as_posix()
        for path in (source / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_an_editable_install_is_pure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASGI_POLLER_COMPILE", "1")
    unused: Any = None
    hook = MypycHook(str(ROOT), {}, unused, unused, "", "wheel")
    build_data: dict[str, Any] = {}
    hook.initialize("editable", build_data)
    assert build_data == {}


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_only_the_compiled_build_needs_a_compiler(source: Path, wanted: str) -> None:
    script = "import hatchling.build; print(*hatchling.build.get_requires_for_build_wheel())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=source,
        env={**os.environ, "ASGI_POLLER_COMPILE": wanted},
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ("mypy" in done.stdout) == (wanted == "1" and can_be_compiled())


def test_what_is_compiled() -> None:
    hot = hot_modules(ROOT)
    assert f"{PACKAGE}/protocols/websocket/protocol.py" in hot
    assert f"{PACKAGE}/asgi/http.py" in hot
    for name in INTERPRETED:
        assert (ROOT / PACKAGE / name).is_file(), f"{name} is on the list and does not exist"
        assert f"{PACKAGE}/{name}" not in hot
        assert name.startswith(FOLDERS)
