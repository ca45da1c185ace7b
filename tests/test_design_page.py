"""docs/design.md speaks of what is there: states as the code names them, modules that exist."""

from __future__ import annotations

import enum
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
DIAGRAMS = re.findall(r"<!-- states: (\S+) -->\n```mermaid\n(.*?)```", PAGE, re.DOTALL)


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
    for path in (ROOT / "asgi_poller").rglob("*.py"):
        for name in re.findall(
            r"^class (State|Phase)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.add(f"{module}:{name}")
    assert {where for where, _ in DIAGRAMS} == found


def test_the_layers_are_those_of_the_package() -> None:
    block = re.search(r"## Layers.*?```text\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    named = " ".join(re.split(r" {2,}", line)[0] for line in block[1].splitlines())
    for name in re.findall(r"\b(\w+(?:\.py|/))", named):
        assert (ROOT / "asgi_poller" / name).exists(), name
