"""docs/threat-model.md promises nothing that is not shown: its tests exist and run, they set the
settings that it names, and its defaults are the code's.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

from asgi_poller.settings.table import SETTINGS
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
# In a row, what follows **open** is still to be written.
NAMED = re.compile(r"`(?:(tests/[\w/]+\.py)(?:::(\w+))?|(test_\w+))`")
SETTING = re.compile(r"`--([\w-]+)`")
BY_SWITCH = {option.switch: option for option in SETTINGS.values()}


class Function(NamedTuple):
    """A test function: what runs it, and its text."""

    decorators: str
    text: str


def functions_of(path: Path) -> dict[str, Function]:
    text = path.read_text(encoding="utf-8")
    return {
        node.name: Function(" ".join(map(ast.unparse, node.decorator_list)), ast.unparse(node))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


FILES = {str(path.relative_to(ROOT)): path for path in (ROOT / "tests").rglob("test_*.py")}
TESTS = {name: functions_of(path) for name, path in FILES.items()}


class Row(NamedTuple):
    """A row of the page: its settings, and the tests that it names as (file, function or "")."""

    line: str
    settings: str
    tests: list[tuple[str, str]]


def rows() -> list[Row]:
    found = []
    for line in PAGE.splitlines():
        cells = line.strip("|").split(" | ")
        if not line.startswith("|") or len(cells) != 4 or cells[3].strip(" |") in ("test", "---"):
            continue
        named, file = [], ""
        for path, function, alone in NAMED.findall(cells[3].partition("**open**")[0]):
            file = path or file
            named.append((file, function or alone))
        found.append(Row(line, cells[2], named))
    return found


def named_test(file: str, function: str) -> Function | None:
    """The test that is meant: one without a file is in the file before it, or in any."""
    everywhere = [file, *TESTS] if file in TESTS else list(TESTS)
    return next((TESTS[name][function] for name in everywhere if function in TESTS[name]), None)


def test_every_row_has_a_test_or_says_that_it_is_open() -> None:
    assert len(rows()) > 30
    assert [row.line for row in rows() if not row.tests and "**open**" not in row.line] == []


def test_every_test_that_the_page_relies_on_exists_and_runs() -> None:
    missing = []
    for row in rows():
        for file, function in row.tests:
            found = named_test(file, function) if function else None
            if function and found is None:
                missing.append(f"{file}::{function}")
            elif not function and file not in TESTS:
                missing.append(file)
            elif found is not None and re.search(r"xfail|mark\.skip\(", found.decorators):
                missing.append(f"{function} is skipped")
    assert missing == []


def test_a_setting_that_is_off_by_default_is_set_by_a_test_of_its_row() -> None:
    """Else they show something else. Where a row names a file alone, all of it counts."""
    unset = []
    for row in rows():
        for switch in SETTING.findall(row.settings):
            option = BY_SWITCH.get(f"--{switch}")
            if option is None or option.shown_default not in ("none", "off", "any"):
                continue
            texts = [FILES[file].read_text() for file, name in row.tests if not name]
            texts += [it.text for file, name in row.tests if (it := named_test(file, name))]
            if not any(option.name in text or option.switch in text for text in texts):
                unset.append((option.switch, row.line[:60]))
    assert unset == []


def test_the_defaults_are_the_code_s() -> None:
    wrong = {}
    compared = 0
    for row in rows():
        for names, default in re.findall(
            r"((?:`--[\w-]+`, )+)([^;`(]+?)(?=[;(]|$|\. )", row.settings
        ):
            shown = default.strip(" |").removesuffix(" each").replace(" ", "").replace(",", "")
            for switch in SETTING.findall(names):
                option = BY_SWITCH[f"--{switch}"]
                compared += 1
                if shown.replace("any", "none") != option.shown_default.replace(",", ""):
                    wrong[option.switch] = (shown, option.shown_default)
    assert wrong == {}
    assert compared > 20
