"""Rules for all Python here: sizes, names, tests that do not sleep."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import ROOT

FOLDERS = ("asgi_poller", "benchmarks", "docs", "examples", "tests")
FILES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
}
PACKAGE = {name: text for name, text in FILES.items() if name.startswith("asgi_poller/")}
TESTS = {name: text for name, text in FILES.items() if name.startswith("tests/")}

FILE_LINES = 450
FUNCTION_LINES = 50  # without the docstring
POSITIONAL_PARAMETERS = 4  # besides self; further ones by keyword

# Homes and work directories of somebody's machine.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w|(?<![\w.])/tmp/w/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(files: dict[str, str]) -> Iterator[tuple[str, Function]]:
    """Where each function is, and the function."""
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                yield f"{name}:{node.lineno} {node.name}", node


def line_count(function: Function) -> int:
    first = function.body[1 if ast.get_docstring(function) and function.body[1:] else 0]
    return (function.end_lineno or 0) - first.lineno + 1


def test_files_can_be_read_in_one_go() -> None:
    sizes = {name: len(text.splitlines()) for name, text in FILES.items()}
    assert {name: size for name, size in sizes.items() if size > FILE_LINES} == {}


def test_so_can_functions() -> None:
    sizes = {where: line_count(function) for where, function in functions(PACKAGE)}
    assert {where: size for where, size in sizes.items() if size > FUNCTION_LINES} == {}


def test_many_parameters_are_given_by_name() -> None:
    too_many = []
    for where, function in functions(PACKAGE):
        parameters = [*function.args.posonlyargs, *function.args.args]
        if sum(each.arg not in ("self", "cls") for each in parameters) > POSITIONAL_PARAMETERS:
            too_many.append(where)
    assert too_many == []


def test_tests_wait_for_what_they_wait_for() -> None:
    """Applications that are served may sleep, and `asyncio.sleep(0)` is no wait."""
    sleeping = []
    for where, function in functions(TESTS):
        calls = [ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.Call)]
        if function.name.startswith("test_") and any(
            re.match(r"(time|asyncio)\.sleep\((?!0\))", call) for call in calls
        ):
            sleeping.append(where)
    assert sleeping == []


def test_no_machine_is_named() -> None:
    found = {name: MACHINE_PATH.search(text) for name, text in FILES.items()}
    del found[str(Path(__file__).relative_to(ROOT))]  # it holds the pattern
    assert {name: match[0] for name, match in found.items() if match} == {}


def test_no_module_is_a_drawer_for_the_rest() -> None:
    assert [name for name in FILES if Path(name).stem in ("utils", "helpers", "common")] == []


def test_every_test_file_says_first_what_it_attacks() -> None:
    silent = [
        name
        for name, text in TESTS.items()
        if Path(name).name.startswith("test_") and not text.startswith('"""')
    ]
    assert silent == []
