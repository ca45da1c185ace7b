"""docs/settings.md has the table of options, and other pages have the numbers of the code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from asgi_poller.settings.table import OPTIONS
from tests.support.command import run_python
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "settings.md"
SCRIPT = ROOT / "docs" / "generate_settings.py"
NUMBERS = ROOT / "docs" / "generate_numbers.py"


def test_the_page_is_up_to_date() -> None:
    done = run_python(str(SCRIPT), "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_option_has_its_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for option in OPTIONS.values():
        assert f"\n| `{option.switch}`" in text, option.name


def test_every_row_has_its_four_cells() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:4] == "| `-"]
    assert len(rows) == len(OPTIONS)
    for row in rows:
        assert row.replace("\\|", "").count("|") == 5, row


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    script = Path(shutil.copy(SCRIPT, tmp_path))
    assert run_python(str(script), "--check").returncode == 1, "there is no page yet"
    assert run_python(str(script)).returncode == 0
    assert run_python(str(script), "--check").returncode == 0
    page = tmp_path / "settings.md"
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    page.write_text(page.read_text(encoding="utf-8").replace("16MiB", "17MiB"), encoding="utf-8")
    stale = run_python(str(script), "--check")
    assert stale.returncode == 1
    assert "is out of date" in stale.stderr


def test_the_numbers_of_the_pages_are_those_of_the_code() -> None:
    done = run_python(str(NUMBERS), "--check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("page", "right", "wrong", "says"),
    [
        ("process-model.md", "503 after 60 s", "503 after 10 s", "has other numbers"),
        ("process-model.md", "503 after 60 s", "503 soon", "has '503 after N s without' 0 times"),
        ("behaviour.md", "`--timeout-keep-alive` (5 s)", "`--timeout-keep-alive` (75 s)", "5 s"),
    ],
)
def test_a_wrong_number_is_noticed(
    tmp_path: Path, page: str, right: str, wrong: str, says: str
) -> None:
    for path in NUMBERS.parent.glob("*.*"):
        shutil.copy(path, tmp_path)
    script = tmp_path / NUMBERS.name
    text = (tmp_path / page).read_text(encoding="utf-8")
    (tmp_path / page).write_text(text.replace(right, wrong), encoding="utf-8")
    stale = run_python(str(script), "--check")
    assert stale.returncode == 1
    assert says in stale.stderr
    if "times" not in says:
        assert run_python(str(script)).returncode == 0
        assert (tmp_path / page).read_text(encoding="utf-8") == text
