"""The pages: links lead somewhere, options exist, and the tutorial's code runs."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from asgi_poller import Server
from asgi_poller.settings.table import BY_SPELLING
from tests.support.processes import ROOT
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# Options of our command that are in no table, and those of other programs on these pages.
OURS = {"all", "config", "format", "help", "json", "token", "version", "watch"}
FOREIGN = {
    "docs/deployment.md": {
        "cpus",
        "cpuset-cpus",
        "init",
        "native",
        "no-cache-dir",
        "sysctl",
        "ulimit",
    },
    "docs/performance.md": {"quick", "goals", "connections", "burst", "interval", "only", "peers"},
    "docs/free-threading.md": {"disable-gil", "only", "peers", "python"},
    "docs/logging.md": {"kill-whom", "log-opt", "since"},
    "docs/topics.md": {"subscribers"},
    "README.md": {"quick"},
    "CONTRIBUTING.md": {"server-name", "quick", "only", "peers"},
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def options_of_gunicorn() -> set[str]:
    config = pytest.importorskip("gunicorn.config", reason="gunicorn is not for Windows")
    switches = (switch for each in config.KNOWN_SETTINGS for switch in each.cli or ())
    return {switch.removeprefix("--") for switch in switches}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_are_spelled_as_they_are(page: Path) -> None:
    named = set(
        re.findall(r"(?<![\w-])--([a-z][a-z_-]*[a-z])(?![\w-])", page.read_text(encoding="utf-8"))
    )
    known = OURS | FOREIGN.get(name_of(page), set())
    if "deployment" in page.name:
        known |= options_of_gunicorn()
    unknown = {
        name
        for name in named - known
        if name.removeprefix("no-").replace("-", "_") not in BY_SPELLING
    }
    assert unknown == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_has_two_versions_of_a_line(page: Path) -> None:
    """As git leaves them where two changes meet."""
    marks = re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", page.read_text(encoding="utf-8"), re.M)
    assert marks == []


def anchors(page: Path) -> set[str]:
    """The names that a page's headings can be linked to by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """From the repository's root, or below the package."""
    named = re.findall(
        r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|json))`", page.read_text(encoding="utf-8")
    )
    roots = (ROOT, ROOT / "asgi_poller")
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)


@contextmanager
def module(code: str) -> Iterator[types.ModuleType]:
    """`main`, as the reader of the tutorial has it."""
    made = types.ModuleType("main")
    sys.modules["main"], old = made, sys.modules.get("main")
    exec(compile(code, "tutorial.md", "exec"), made.__dict__)
    try:
        yield made
    finally:
        del sys.modules["main"]
        if old is not None:
            sys.modules["main"] = old


@contextmanager
def served(code: str) -> Iterator[str]:
    """Serve the application of a block; HOST:PORT."""
    with module(code), serving("main:app", log_config=None) as site:
        yield f"127.0.0.1:{site.port}"


def test_the_first_application() -> None:
    with served(code_blocks()[0]) as address:
        assert httpx.get(f"http://{address}/").text == "Hello\n"


def test_the_application_with_fastapi() -> None:
    with served(code_blocks()[1]) as address:
        assert httpx.get(f"http://{address}/").json() == {"hello": "world"}
        with connect(f"ws://{address}/echo") as websocket:
            websocket.send("hi")
            assert websocket.recv(timeout=DEADLINE_S) == "hi"


def test_the_lifespan() -> None:
    use = '@app.get("/")\ndef home(request: Request) -> object: return request.state.database\n'
    with served(f"from fastapi import Request\n{code_blocks()[2]}{use}") as address:
        assert httpx.get(f"http://{address}/").json() == {"lines": []}


def test_messages_to_everybody() -> None:
    with served(code_blocks()[3]) as address:
        url = f"ws://{address}/room"
        with connect(url) as one, connect(url) as other:
            one.send("hi")
            assert one.recv(timeout=DEADLINE_S) == "hi"
            while other.recv(timeout=DEADLINE_S) != "later":  # once it has subscribed
                one.send("later")


def test_the_server_in_a_thread() -> None:
    notebook: dict[str, object] = {}
    with module(code_blocks()[0]):
        exec(compile(code_blocks()[4], "tutorial.md", "exec"), notebook)
    server = notebook["server"]
    assert isinstance(server, Server)
    assert server.should_exit
