"""The tutorial's commands, as they stand on the page: each server runs, and the commands
beside it do what the page says.

Only the ports are others. pgrep and pkill see the session of the tutorial's server alone, whatever
their patterns are.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_poller.commands import SUBCOMMANDS
from tests.support.command import Command
from tests.support.processes import free_port
from tests.support.waiting import DEADLINE_S
from tests.test_docs import TUTORIAL

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the names of processes are Linux's"
)

SESSION_VARIABLE = "TUTORIAL_SESSION"
IS_SERVER = re.compile(rf"(\w+=\S+ )*asgi-poller (?!{'|'.join(SUBCOMMANDS)})")
#: What the server says once it has done what a command asks of it.
EFFECTS = {
    "kill -HUP": r"Restart complete: 4 workers",
    "pkill": r"was killed by SIGKILL",
}


def steps() -> Iterator[tuple[str, str]]:
    """(language, text) of each block that a reader types, in the page's order."""
    for language, text in re.findall(r"```(python|sh|toml)\n(.*?)```", TUTORIAL, re.DOTALL):
        if language != "python" or "app = " in text or "def app" in text:
            yield language, text


class Reader:
    """Somebody at the terminal. `directory` is where main.py is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server: Command | None = None
        self.done: list[str] = []
        self.ports = {"8000": str(free_port()), "9000": str(free_port())}
        tools = directory / "tools"
        tools.mkdir()
        for name in ("pgrep", "pkill"):
            tool = tools / name
            tool.write_text(f'#!/bin/sh\nexec {shutil.which(name)} -s "${SESSION_VARIABLE}" "$@"\n')
            tool.chmod(0o755)
        self.environ = {
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ASGI_POLLER_PORT": self.ports["8000"],
        }

    def type_line(self, line: str) -> None:
        """One line of a block of the page."""
        for port, free in self.ports.items():
            line = line.replace(port, free)
        if IS_SERVER.match(line):
            self.start(line)
        else:
            self.run(line)
        self.done.append(line)

    def start(self, line: str) -> None:
        self.end()
        self.server = Command(
            program=["bash", "-c", f"exec env {line}"], environ=self.environ, cwd=self.directory
        )
        self.server.wait_for(r"running on|error:")
        workers = re.search(r"--workers (\d+)", line)
        if workers:
            self.server.wait_for(r"Worker \d+ \[\d+\] is ready", count=int(workers[1]))
        else:
            self.server.wait_for("Application startup complete")

    def run(self, line: str) -> None:
        assert self.server is not None
        seen = len(self.server.lines)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.directory,
            env={**os.environ, **self.environ, SESSION_VARIABLE: str(self.server.pid)},
            input="hello\n",
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr, self.server.text)
        for beginning, effect in EFFECTS.items():
            if line.startswith(beginning):
                self.server.wait_for(effect, after=seen)
                self.server.wait_for(r"Worker \d+ \[\d+\] is ready", after=seen)

    def end(self) -> None:
        """Ctrl-C, if there is a server; it must have survived what was done beside it."""
        if self.server is None:
            return
        server, self.server = self.server, None
        try:
            assert server.process.poll() is None, server.text
            server.signal(signal.SIGINT)
            assert server.wait() in (0, -signal.SIGINT), server.text
        finally:
            server.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    try:
        yield made
    finally:
        if made.server is not None:
            made.server.close()


@pytest.mark.tools
@pytest.mark.skipif(
    None in (shutil.which("pgrep"), shutil.which("pkill"), shutil.which("curl")),
    reason="needs procps and curl",
)
def test_the_page_s_commands_do_what_it_says(reader: Reader, tmp_path: Path) -> None:
    write: dict[str, Callable[[str], object]] = {
        "python": (tmp_path / "main.py").write_text,
        "toml": (tmp_path / "settings.toml").write_text,
    }
    for language, text in steps():
        if language in write:
            write[language](text)
            continue
        for line in text.splitlines():
            reader.type_line(line.partition(" #")[0].rstrip())
    reader.end()
    words = " ".join(reader.done)
    assert all(
        word in words for word in ("--reload", "--workers 4", "pkill", "curl", "settings", "check")
    )
