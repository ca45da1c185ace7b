"""The threat model names tests: each that it relies on exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "threat-model.md"
# In a row, what follows **open** is still to be written.
NAMED = re.compile(r"`(?:(tests/[\w/]+\.py)(?:::(\w+))?|(test_\w+))`")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_relies_on_exists() -> None:
    everywhere = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in functions_of(path)
    }
    missing = []
    relied_on = 0
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            continue
        for path, function, alone in NAMED.findall(line.partition("**open**")[0]):
            relied_on += 1
            if path and not (ROOT / path).is_file():
                missing.append(path)
            elif function and function not in functions_of(ROOT / path):
                missing.append(f"{path}::{function}")
            elif alone and alone not in everywhere:
                missing.append(alone)
    assert not missing
    assert relied_on > 30


def test_every_row_has_a_test_or_says_that_it_is_open() -> None:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = line.strip("|").split(" | ")
        if line.startswith("|") and len(cells) == 4 and not line.startswith("|---"):
            if cells[0].strip() in ("attack", "attack or fault"):
                continue
            assert NAMED.search(cells[3]) or "**open**" in cells[3], line
