"""Imports go down only, and nowhere in a circle: every import in the package is parsed and held to
the layers.

Imports inside functions and under TYPE_CHECKING count: what is only needed for a type is still
knowledge of a layer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "asgi_poller"
ROOT = Path(__file__).parents[1] / PACKAGE

# The layer of each module or package; a module may import from its own and from layers below it.
LAYERS = {
    f"{PACKAGE}.errors": 0,
    f"{PACKAGE}.platform": 1,
    f"{PACKAGE}.settings": 2,
    f"{PACKAGE}.config": 3,
    f"{PACKAGE}.importer": 4,
    f"{PACKAGE}.logs": 4,
    f"{PACKAGE}.privileges": 4,
    f"{PACKAGE}.tls": 4,
    f"{PACKAGE}.metrics": 6,
    f"{PACKAGE}.protocols": 10,
    f"{PACKAGE}.asgi": 20,
    f"{PACKAGE}.topics": 25,
    f"{PACKAGE}.channels": 26,
    f"{PACKAGE}.loops": 30,
    f"{PACKAGE}.listeners": 32,
    f"{PACKAGE}.embedding": 33,
    f"{PACKAGE}.system": 34,
    f"{PACKAGE}.handoff": 36,
    f"{PACKAGE}.ipc": 38,
    f"{PACKAGE}.pollers": 40,
    f"{PACKAGE}.monitor": 42,
    f"{PACKAGE}.serve": 44,
    f"{PACKAGE}.worker": 47,
    f"{PACKAGE}.supervisor": 50,
    f"{PACKAGE}.serve_main": 55,
    f"{PACKAGE}.commands": 58,
    f"{PACKAGE}.cli": 60,
    f"{PACKAGE}.gunicorn": 60,
    f"{PACKAGE}.__main__": 61,
    f"{PACKAGE}": 60,
}
STORM = f"{PACKAGE}.storm"  # the load tester: uses nothing of ours, and we nothing of it

# What a layer must not know of: bytes in and events out have no clock and no socket.
FORBIDDEN = {
    f"{PACKAGE}.protocols": {
        "asyncio",
        "socket",
        "selectors",
        "ssl",
        "threading",
        "logging",
        "time",
        f"{PACKAGE}.config",
        f"{PACKAGE}.settings",
        f"{PACKAGE}.platform",
    },
    f"{PACKAGE}.asgi": {"socket", "selectors"},
    f"{PACKAGE}.settings": {"asyncio", "socket", "ssl", "threading", "click"},
    f"{PACKAGE}.config": {"asyncio", "socket", "ssl", "threading", "click"},
}


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported_names(name: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything that module `name` imports, `from a import b` as `a.b`."""
    package = (
        name
        if name not in MODULES or MODULES[name].name == "__init__.py"
        else name.rpartition(".")[0]
    )
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def owner_of(name: str) -> str | None:
    """The module of ours that an imported name is in, None for other packages."""
    while name.split(".")[0] == PACKAGE:
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


def imports_of(name: str) -> list[tuple[int, str]]:
    """(line, module of ours) for each import in one module."""
    source = MODULES[name].read_text(encoding="utf-8")
    owners = ((line, owner_of(imported)) for line, imported in imported_names(name, source))
    return [(line, owner) for line, owner in owners if owner is not None and owner != name]


def home_of(name: str) -> str:
    """The entry of LAYERS (or STORM) that a module belongs to."""
    for home in (*LAYERS, STORM):
        if name == home or (home != PACKAGE and name.startswith(f"{home}.")):
            return home
    raise AssertionError(f"{name} has no layer: give it one in {__file__}")


def complaint(importer: str, line: int, imported: str) -> str | None:
    """What is wrong with one import, if anything."""
    source, target = home_of(importer), home_of(imported)
    if source == target:
        return None
    where = f"{MODULES.get(importer, importer)}:{line}: {importer} imports {imported}"
    if STORM in (source, target):
        return f"{where}: the load tester stands alone"
    if LAYERS[target] >= LAYERS[source]:
        return f"{where}: not a layer below its own"
    return None


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name: str) -> None:
    complaints = [complaint(name, line, imported) for line, imported in imports_of(name)]
    assert [text for text in complaints if text] == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_layers_know_nothing_of_what_is_not_theirs(name: str) -> None:
    forbidden = FORBIDDEN.get(home_of(name), set())
    source = MODULES[name].read_text(encoding="utf-8")
    found = [
        f"{MODULES[name]}:{line}: {name} imports {imported}"
        for line, imported in imported_names(name, source)
        for module in forbidden
        if imported == module or imported.startswith(f"{module}.")
    ]
    assert found == []


def cycle_among(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports, as the names along it; empty if there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for imported in sorted(graph.get(name, ())):
            if found := walk(imported, [*path, name]):
                return found
        done.add(name)
        return []

    for name in sorted(graph):
        if found := walk(name, []):
            return found
    return []


def test_no_imports_in_a_circle() -> None:
    graph = {name: {imported for _, imported in imports_of(name)} for name in MODULES}
    assert " -> ".join(cycle_among(graph)) == ""


# The checks above would also pass if they saw nothing, so they are shown what they must see.


def test_imports_of_every_form_are_seen() -> None:
    source = (
        "import a.b, c as d\nfrom e import f\nfrom .g import h\nfrom .. import i\n"
        "if TYPE_CHECKING:\n    from j import k\ndef l():\n    from m import n\n"
    )
    names = [name for _, name in imported_names("asgi_poller.protocols.fake.inner", source)]
    package = "asgi_poller.protocols.fake.inner"
    assert names == [
        "a.b",
        "c",
        "e.f",
        f"{package}.g.h",
        f"{package.rpartition('.')[0]}.i",
        "j.k",
        "m.n",
    ]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("asgi_poller.errors", "asgi_poller.config"),
        ("asgi_poller.logs", "asgi_poller.importer"),
        ("asgi_poller.protocols.x", "asgi_poller.asgi.y"),
        ("asgi_poller.config", "asgi_poller"),
        ("asgi_poller.loops.x", "asgi_poller.handoff.y"),
        ("asgi_poller.handoff.x", "asgi_poller.pollers.y"),
        ("asgi_poller.serve.x", "asgi_poller.worker.y"),
        ("asgi_poller.worker.x", "asgi_poller.supervisor.y"),
        ("asgi_poller.supervisor.x", "asgi_poller.cli"),
        ("asgi_poller.commands.x", "asgi_poller.cli"),
        ("asgi_poller.storm.x", "asgi_poller.errors"),
        ("asgi_poller.cli", "asgi_poller.storm.x"),
    ],
)
def test_an_import_that_goes_up_is_found(importer: str, imported: str) -> None:
    assert complaint(importer, 1, imported) is not None


def test_an_import_that_goes_down_is_none() -> None:
    assert complaint("asgi_poller.asgi.x", 1, "asgi_poller.protocols.y") is None
    assert complaint("asgi_poller.protocols.x", 1, "asgi_poller.protocols.y") is None


def test_a_module_without_a_layer_is_found() -> None:
    with pytest.raises(AssertionError, match="has no layer"):
        home_of("asgi_poller.utils")


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}
    assert cycle_among(graph) == ["b", "c", "b"]
