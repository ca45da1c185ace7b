"""CONTRIBUTING.md is true. What its walks say to write is written into a copy of the package, and
works; the files that it names for a connection are those that a real connection goes through.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from asgi_poller.system.build import build_kind
from tests.support.calls import APPLICATION, FILE_VARIABLE, Call, Calls, read
from tests.support.command import get, started
from tests.support.frames import text
from tests.support.processes import ROOT
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(walk: str) -> str:
    """What stands behind the mark of a walk, up to the next blank line after its last item."""
    found = re.search(rf"<!-- walk: {walk} -->\n(.*?)(?=\n *\n|\Z)", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


calls_are_seen = pytest.mark.skipif(
    build_kind() == "compiled",
    reason="compiled functions do not report their calls; the source that is walked is the same",
)

# What to write


def change(walk: str, copy: Path) -> None:
    """Make the changes of a walk in a copy of the repository."""
    lines = block(walk).splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    diff = "\n".join(line[indent:] for line in lines if "```" not in line)
    hunks = re.findall(r"^--- (\S+)\n((?:[ +-](?!-- ).*\n?)+)", diff, re.MULTILINE)
    assert hunks
    for path, hunk in hunks:
        before = "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[0] in " -")
        after = "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[0] in " +")
        code = (copy / path).read_text(encoding="utf-8")
        assert code.count(before) == 1, f"{path} does not have, once:\n{before}"
        (copy / path).write_text(code.replace(before, after), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and what makes the settings page, to be changed."""
    for folder in ("asgi_poller", "docs"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pyc*", "*.so")
        )
    return tmp_path


def python(*arguments: str, copy: Path) -> str:
    """What a run of Python in the copy prints."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={"PYTHONPATH": str(copy), "ASGI_POLLER_SERVER_NAME": "from-the-environment"},
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    ).stdout


SERVED = """
import urllib.request
from asgi_poller import Config, Server

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

def config(**options):
    return Config.from_sources(app, port=0, lifespan="off", log_config=None, **options)

for options in OPTIONS:
    server = Server(config(**options))
    server.start()
    print(urllib.request.urlopen(server.urls[0]).headers["server"])
    print(server._serving._poller_pool.stats())
    server.stop()
"""


def test_an_option_takes_two_places(copy: Path) -> None:
    change("option", copy)
    options = [{}, {"server_name": "given"}]
    printed = python("-c", SERVED.replace("OPTIONS", repr(options)), copy=copy).splitlines()
    assert printed[::2] == ["from-the-environment", "given"]
    assert "--server-name" in python("-m", "asgi_poller", "--help", copy=copy)
    python("docs/generate_settings.py", copy=copy)
    assert "`--server-name`" in (copy / "docs" / "settings.md").read_text(encoding="utf-8")


def test_a_counter_counts(copy: Path) -> None:
    change("counter", copy)
    printed = python("-c", SERVED.replace("OPTIONS", "[{}]"), copy=copy)
    found = re.search(r"accept_rounds=(\d+)", printed)
    assert found is not None
    assert int(found[1]) >= 1


# The way of a connection


def files_of(walk: str) -> list[str]:
    return re.findall(r"^\d+\. `([\w/]+\.py)`", block(walk), re.MULTILINE)


def functions_of(walk: str) -> set[tuple[str, str]]:
    """(file, function) for each function that a walk names."""
    items = re.findall(r"^\d+\. `([\w/]+\.py)`(.*?)(?=^\d+\. |\Z)", block(walk), re.M | re.DOTALL)
    return {(path, name) for path, rest in items for name in re.findall(r"`([\w.]+)`", rest)}


def hold(walked: list[str], named: set[tuple[str, str]], calls: Iterable[Call]) -> None:
    """Each function that is named is called with nothing but the walk's files on its stack, and
    each file is called from one before it. A function may be called otherwise too: what a slow
    worker has not claimed in time is handed over again by the lane monitor.
    """
    seen = set()
    reached = {walked[0]}
    for call in calls:
        if set(call.stack) <= set(walked):
            seen.add((call.path, call.name))
        if call.name == APPLICATION:
            assert set(call.stack) <= set(walked), call
            assert call.stack[0] == walked[-1]
        if call.path in walked and call.stack:
            before = walked[: walked.index(call.path)]
            if call.stack[0] in before:
                reached.add(call.path)
    assert named <= seen, named - seen
    entered_otherwise = {"handoff/lane_receiver.py"}  # by the loop: a unix socket is readable
    assert set(walked) - reached <= entered_otherwise


@contextmanager
def recorded(record: Path, workers: int) -> Iterator[tuple[str, int]]:
    """The address of a server that writes its calls to `record` until it has ended."""
    program = [sys.executable, "-m", "tests.support.calls", "tests.support.calls:app"]
    environ = {FILE_VARIABLE: str(record)}
    with started(f"--workers={workers}", program=program, environ=environ) as command:
        command.wait_for("running on")
        yield command.address
        command.stop()


@pytest.mark.parametrize(
    ("walk", "workers", "most"), [("one process", 1, 9), ("to a worker", 2, 12)]
)
@calls_are_seen
def test_the_way_of_a_request(walk: str, workers: int, most: int, tmp_path: Path) -> None:
    with recorded(tmp_path / "calls", workers) as address:
        get(address, "/")
    assert len(files_of(walk)) <= most
    hold(files_of(walk), functions_of(walk), read(tmp_path / "calls"))


@calls_are_seen
def test_a_websocket_takes_one_file_more(tmp_path: Path) -> None:
    with recorded(tmp_path / "calls", workers=1) as (host, port):
        with connect(f"ws://{host}:{port}/") as websocket, pytest.raises(ConnectionClosed):
            websocket.recv(timeout=DEADLINE_S)
    walked = [*files_of("one process")[:-1], "loops/upgrade.py", files_of("one process")[-1]]
    assert "between 7 and 8: `loops/upgrade.py`" in PAGE
    assert len(walked) <= 9
    hold(walked, functions_of("one process"), read(tmp_path / "calls"))


@calls_are_seen
def test_the_way_of_a_message() -> None:
    calls: list[Call] = []
    starts: list[int] = []
    marks: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            marks.append(len(calls))
            await send({"type": "websocket.send", "text": message["text"]})
            marks.append(len(calls))

    recorder = Calls(calls.append)
    recorder.begin()
    try:
        with serving(app, lifespan="off", loop="asyncio") as site, site.websocket() as client:
            for message in ("first", "second", "third"):
                starts.append(len(calls))
                client.send(text(message))
                client.frame()
    finally:
        recorder.end()
    start, received, sent = starts[1], marks[2], marks[3]
    for walk, window in (
        ("message in", calls[start:received]),
        ("message out", calls[received:sent]),
    ):
        through = {
            call.path for call in window if "loops/timer_wheel.py" not in (call.path, *call.stack)
        }
        assert through == set(files_of(walk))
        called = {(call.path, call.name) for call in window}
        assert functions_of(walk) <= called
        assert len(through) == 2
