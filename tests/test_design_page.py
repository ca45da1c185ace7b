"""docs/design.md is the map of the code: each path and state on it exists, and every folder and
module of the package can be found from it.
"""

from __future__ import annotations

import ast
import enum
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "asgi_poller"
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
DIAGRAMS = re.findall(r"<!-- states: (\S+) -->\n```mermaid\n(.*?)```", PAGE, re.DOTALL)
MODULES = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize(("where", "diagram"), DIAGRAMS, ids=[where for where, _ in DIAGRAMS])
def test_diagrams_have_the_states_of_the_code(where: str, diagram: str) -> None:
    module, _, name = where.partition(":")
    states = getattr(importlib.import_module(module), name)
    assert issubclass(states, enum.Enum)
    drawn = set(re.findall(r"\b[A-Z]{2,}\b(?= -->|:|$)", diagram, re.MULTILINE))
    assert drawn == {state.name for state in states}


def test_every_machine_is_drawn() -> None:
    """Enums called State or Phase are the states of something."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(
            r"^class (State|Phase)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.add(f"{module}:{name}")
    assert {where for where, _ in DIAGRAMS} == found


def tree() -> list[str]:
    """The files and folders of the tree at the top of the page, as it has them."""
    block = re.search(r"## The tree.*?```text\nasgi_poller/\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    entries = (re.split(r" {2,}", line.strip())[0] for line in block[1].splitlines())
    return [name for entry in entries for name in entry.split()]


def paths() -> set[str]:
    """Every path below asgi_poller/ that stands in backquotes."""
    return {
        path
        for path in re.findall(r"`([\w/]+(?:\.py|/))`", PAGE)
        if not path.startswith(("tests/", "asgi_poller/"))
    }


def imports_of(module: str) -> set[str]:
    """The modules of its own folder that a module imports."""
    found: set[str] = set()
    text = (PACKAGE / module).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asgi_poller."):
            name = (node.module or "").removeprefix("asgi_poller.").replace(".", "/")
            found |= {f"{name}.py", *(f"{name}/{alias.name}.py" for alias in node.names)}
    return {path for path in found & MODULES if Path(path).parent == Path(module).parent}


def test_every_path_exists() -> None:
    table = re.search(r"## If you want to change X.*?\n## ", PAGE, re.DOTALL)
    assert table is not None
    assert len(re.findall(r"^\| [^*\n]+ \| ", table[0], re.MULTILINE)) >= 30
    missing = [path for path in (*tree(), *paths()) if not (PACKAGE / path).exists()]
    assert missing == [], "docs/design.md names what is not there"


def test_the_tree_has_every_folder_and_every_module_at_the_top() -> None:
    top = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in PACKAGE.iterdir()
        if (path.is_dir() and (path / "__init__.py").exists()) or path.suffix == ".py"
    }
    assert sorted(tree()) == sorted(top)


def test_every_module_can_be_found_from_the_page() -> None:
    """It is named, or a named module of its folder imports it."""
    found = {path for path in (*tree(), *paths()) if path.endswith(".py")}
    wanted = {path for path in MODULES if Path(path).name not in ("__init__.py", "__main__.py")}
    new = found
    while new:
        new = {path for module in new for path in imports_of(module)} - found
        found |= new
    assert sorted(wanted - found) == [], "docs/design.md has no way to these"


def test_the_words_name_classes_of_the_code() -> None:
    words = re.search(r"## Words.*?\n## ", PAGE, re.DOTALL)
    assert words is not None
    ours = [line.split(" | ")[1] for line in words[0].splitlines() if line.startswith("| ")]
    named = {name for cell in ours for name in re.findall(r"`([A-Z]\w+)`", cell)}
    assert len(named) > 10
    code = "\n".join((PACKAGE / module).read_text(encoding="utf-8") for module in MODULES)
    assert named - set(re.findall(r"^class (\w+)", code, re.MULTILINE)) == set()
