"""Every command on a page: it runs as it stands there (on free ports), or it is said what keeps
it from that, and what is tested instead.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trustme
from click.testing import CliRunner

from asgi_poller import cli
from asgi_poller.commands import SUBCOMMANDS
from tests.support.command import Command, Process
from tests.support.processes import ROOT
from tests.support.tls import write_pair
from tests.support.waiting import DEADLINE_S

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^ *```(?:sh|console|bash|shell)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+\.internal:\d+")  # other machines
ASSIGNMENT = re.compile(r"[A-Z_]+=")

#: What is not run here, by how it begins, and why; each with the test that has it, if there is one.
NOT_RUN = {
    "python3 -m venv": "makes environments: .ci/run starts with this very command",
    ". .venv/bin/activate": "the same",
    "pip install": "takes an index: the extras are looked up below",
    "pre-commit install": "takes a clone's own git directory: test_readme.py has the hooks",
    "pytest": "runs this test: the files that are named exist, below",
    "mkdocs serve": "serves until it is stopped: test_site.py builds the site",
    "python -m benchmarks": "takes minutes: its options are looked up below",
    "sysctl -w": "changes the machine",
    "systemctl": "takes a running systemd: test_deployment_page.py verifies the units",
    "journalctl": "takes a running systemd",
    "jq": "reads the lines of the above: test_logging_page.py has their fields",
    "docker": "takes Docker: test_deployment_page.py has the image's command",
    "python3.14t": "takes a free-threaded Python: the suite runs on one, tests with that mark",
    "curl": "test_tutorial_commands.py",
    "python -m websockets": "test_tutorial_commands.py",
    "find": "compresses files where they are: tests/asgi/test_static_files.py has such files",
    "kill": "test_tutorial_commands.py",
    "pkill": "test_tutorial_commands.py",
}

APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
"""


class Line(NamedTuple):
    """A command of a page, without its comment."""

    page: str
    text: str

    @property
    def environ(self) -> dict[str, str]:
        """What is set before it."""
        words = shlex.split(self.text)
        pairs = [word.split("=", 1) for word in words if ASSIGNMENT.match(word)]
        return {name: ELSEWHERE.sub("127.0.0.1:1", value) for name, value in pairs}

    @property
    def words(self) -> list[str]:
        """The command and its arguments."""
        words = [ELSEWHERE.sub("127.0.0.1:1", word) for word in shlex.split(self.text)]
        return words[len(self.environ) :]

    @property
    def needs_service(self) -> bool:
        """Whether it names one that is not there: it is reached in tests/topics."""
        return "ASGI_POLLER_TOPICS" in self.environ or "--topics" in self.words


def lines_of(page: Path) -> Iterator[Line]:
    name = str(page.relative_to(ROOT))
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            bare = re.sub(r"\s+#\s.*$", "", line).strip()
            for part in re.split(r"\s*(?:&&|\|(?!\|))\s*", bare):
                if part and not part.startswith("#"):
                    yield Line(name, part)


LINES = [line for page in PAGES for line in lines_of(page)]
OURS = [line for line in LINES if line.words[:1] == ["asgi-poller"]]
SERVING = [line for line in OURS if not {*SUBCOMMANDS, "--version"} & set(line.words[1:2])]
STATUS = [line for line in OURS if line.words[1:2] == ["status"]]
OTHERS = [line for line in OURS if line not in (*SERVING, *STATUS)]
OF_PEERS = [line for line in LINES if line.words[:1] in (["gunicorn"], ["uvicorn"])]
#: Whole commands in the text: without a word that stands for another, or an option without value.
INLINE = [
    Line(str(page.relative_to(ROOT)), text)
    for page in PAGES
    for text in re.findall(r"`(asgi-poller [^`]+)`", page.read_text(encoding="utf-8"))
    if not re.search(r" [A-Z][A-Z:]+( |$)| --workers$", text)
]
UNITS = [
    Line(str(page.relative_to(ROOT)), f"asgi-poller {rest}")
    for page in PAGES
    for rest in re.findall(
        r"^ExecStart=\S*asgi-poller (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
]


def name_of(line: Line) -> str:
    return f"{line.page}: {line.text}"


def test_every_command_is_run_or_has_its_reason() -> None:
    run = [*OURS, *OF_PEERS, *(line for line in LINES if line.words[0] == "asgi-poller-storm")]
    left = [
        name_of(line)
        for line in LINES
        if line not in run and not " ".join(line.words).startswith(tuple(NOT_RUN))
    ]
    assert left == []
    assert len(SERVING) >= 10
    unused = [
        start
        for start in NOT_RUN
        if not any(" ".join(line.words).startswith(start) for line in LINES)
    ]
    assert unused == [], "no page has them any more"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a reader of the pages stands: with main.py, settings and certificates."""
    (tmp_path / "main.py").write_text(APPLICATION)
    (tmp_path / "web" / "static").mkdir(parents=True)
    settings = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.S)
    assert settings is not None
    (tmp_path / "settings.toml").write_text(settings[1])
    files = write_pair(tmp_path, "pair", trustme.CA().issue_cert("localhost"))
    Path(files.certificate).rename(tmp_path / "cert.pem")
    Path(files.key).rename(tmp_path / "key.pem")
    return tmp_path


def on_free_ports(words: list[str]) -> list[str]:
    """The same command, on loopback and on ports that the system picks."""
    words = [re.sub(r"^(127\.0\.0\.1|0\.0\.0\.0):\d+$", "127.0.0.1:0", word) for word in words]
    for option, value in (("--host", "127.0.0.1"), ("--port", "0"), ("--metrics", "0")):
        for at, word in enumerate(words[:-1]):
            if word == option:
                words[at + 1] = value
    return words


@pytest.mark.parametrize("line", dict.fromkeys(SERVING), ids=name_of)
def test_a_server_of_the_pages_serves(directory: Path, line: Line) -> None:
    words = on_free_ports(line.words[1:])
    port = () if "--bind" in words else ("--port", "0")
    command = Command(*words[1:], *port, app=words[0], environ=line.environ, cwd=directory)
    with contextlib.closing(command):
        command.wait_for("Application startup complete")
        host, number = command.address
        if "--ssl-certfile" not in words:
            answer = httpx.get(f"http://{host}:{number}/", timeout=DEADLINE_S)
            assert answer.status_code == 200
        command.stop()
        assert "Traceback" not in command.text


@pytest.mark.parametrize("line", dict.fromkeys(SERVING), ids=name_of)
def test_a_server_of_the_pages_stands_the_check(directory: Path, line: Line) -> None:
    command = Process(
        [sys.executable, "-m", "asgi_poller", "check", *line.words[1:]],
        environ=line.environ,
        cwd=directory,
        both_streams=True,
    )
    with contextlib.closing(command):
        code = command.wait()
        if line.needs_service:
            assert code == 1, command.text
            assert "cannot be reached" in command.text
            assert "cannot be served: 1 error, 0 warnings" in command.text
        else:
            assert code == 0, command.text
            assert "can be served: 0 warnings" in command.text


@pytest.mark.parametrize("line", dict.fromkeys(OTHERS), ids=name_of)
def test_other_commands_of_ours_succeed(directory: Path, line: Line) -> None:
    command = Process(
        [sys.executable, "-m", "asgi_poller", *line.words[1:]],
        environ=line.environ,
        cwd=directory,
        both_streams=True,
    )
    with contextlib.closing(command):
        assert command.wait() == 0, command.text
        assert command.lines


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is not sent there")
def test_the_status_of_a_server_is_shown(directory: Path) -> None:
    """By the pid file where the page says "the only one": others may run beside this test."""
    options = ("--metrics", "0", "--pid", "server.pid", "--port", "0")
    server = Command(*options, app="main:app", cwd=directory)
    with contextlib.closing(server):
        server.wait_for("Application startup complete")
        port = server.wait_for(r"Metrics and health on http://[^:]+:(\d+)")[1]
        for line in dict.fromkeys(STATUS):
            words = [word.replace(":9100", f":{port}") for word in line.words[1:]]
            if all(word.startswith("--") for word in words[1:]):
                words.insert(1, "server.pid")
            shown = Process(
                [sys.executable, "-m", "asgi_poller", *words], cwd=directory, both_streams=True
            )
            with contextlib.closing(shown):
                shown.wait_for(rf"\b{server.pid}\b")
                if "--watch" in words:
                    shown.signal(signal.SIGINT)
                assert shown.wait() == 0, shown.text
        server.stop()
    assert len(STATUS) >= 4


@pytest.mark.parametrize("line", dict.fromkeys([*INLINE, *UNITS]), ids=name_of)
def test_what_stands_in_the_text_can_be_typed(line: Line) -> None:
    words = line.words[1:]
    if words[0] in SUBCOMMANDS:
        words = [words[0], "--help"] if len(words) == 1 else words
    elif words[0] != "--version":
        words = ["config", *words]
    done = CliRunner().invoke(cli.command, words)
    assert done.exit_code == 0, done.output


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is not for Windows")
@pytest.mark.parametrize("line", dict.fromkeys(OF_PEERS), ids=name_of)
def test_the_commands_of_other_servers_work(directory: Path, line: Line) -> None:
    program, *words = on_free_ports(line.words)
    free = ["-b", "127.0.0.1:0", "--no-control-socket"] if program == "gunicorn" else []
    if program == "uvicorn" and "--port" not in words:
        free = ["--port", "0"]
    command = Process(
        [sys.executable, "-m", program, *words, *free],
        environ=line.environ,
        cwd=directory,
        both_streams=True,
    )
    with contextlib.closing(command):
        command.wait_for("Application startup complete")
        command.stop()
        assert "Traceback" not in command.text


def test_the_load_tester_s_command() -> None:
    lines = [line for line in LINES if line.words[0] == "asgi-poller-storm"]
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", "asgi_poller.storm", *line.words[1:]],
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
    assert lines


# What is tested of those that are not run


def test_what_is_installed_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    named = {
        extra
        for text in texts
        for found in re.findall(r"pip install (?:-e )?'(?:\.|asgi-poller)\[([\w,]+)\]'", text)
        for extra in found.split(",")
    }
    assert {"test", "examples", "gunicorn"} <= named
    assert named <= set(project["optional-dependencies"])
    assert project["name"] == "asgi-poller"


def test_the_options_of_the_benchmarks_exist() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    lines = [line for line in LINES if line.words[:3] == ["python", "-m", "benchmarks"]]
    options = {word for line in lines for word in line.words if word.startswith("--")}
    assert options
    assert [option for option in options if option not in done.stdout] == []


def test_the_tests_that_are_named_exist() -> None:
    named = {
        word
        for line in LINES
        if line.words[0] == "pytest"
        for word in line.words
        if word.startswith("tests/")
    }
    assert named
    assert [name for name in named if not (ROOT / name.partition("::")[0]).exists()] == []
