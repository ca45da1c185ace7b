"""`--reload`: changes take effect, mistakes are shown, and the port never closes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.supervisor.reloader import SourceFilter, watched_directories
from asgi_poller.supervisor.source_poll import changes
from tests.support.command import Command, get
from tests.support.crowd import crowd
from tests.support.processes import ROOT, is_alive
from tests.support.waiting import wait_until

_SOURCE = """
{broken}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
    elif scope["type"] == "http":
        headers = [(b"content-length", b"{length}")]
        await send({{"type": "http.response.start", "status": 200, "headers": headers}})
        await send({{"type": "http.response.body", "body": b"{word}"}})
    else:
        await receive()
        await send({{"type": "websocket.accept"}})
        await send({{"type": "websocket.send", "text": "1"}})
        await receive()
"""


class Project:
    """A directory with an application, served with --reload."""

    def __init__(self, directory: Path, *modules: str) -> None:
        self.directory = directory
        self.write("one")
        self.command = Command(
            *("--reload", "--port", "0", "--reload-delay", "0.05"),
            app="site_app:app",
            cwd=directory,
            # what was compiled a moment ago could be taken for what is there now
            environ={
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": os.pathsep.join([*modules, str(ROOT)]),
            },
        )

    def write(self, word: str, broken: str = "") -> None:
        source = _SOURCE.format(word=word, length=len(word), broken=broken)
        new = self.directory / "new.tmp"
        new.write_text(source)
        new.replace(self.directory / "site_app.py")  # as editors do

    def wait_for(self, word: str) -> None:
        wait_until(lambda: get(self.command.address, "/") == word, f"it answers {word}")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    try:
        made.wait_for("one")
        yield made
    except BaseException:
        print(made.command.text)
        raise
    finally:
        made.command.close()


class Browser(threading.Thread):
    """Asks again and again."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._stop_asked = threading.Event()
        self.answers: list[str] = []
        self.problems: list[Exception] = []

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                self.answers.append(get(self._address, "/"))
            except (OSError, AssertionError) as error:
                self.problems.append(error)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def test_a_browser_never_meets_a_closed_port(project: Project) -> None:
    browser = Browser(project.command.address)
    browser.start()
    for word in ("two", "three", "four"):
        project.write(word)
        project.wait_for(word)
    browser.stop()
    assert browser.problems == []
    assert {"one", "two", "three", "four"} >= set(browser.answers)
    assert project.command.stop() == 0


def test_a_mistake_is_shown_and_the_next_change_waited_for(project: Project) -> None:
    browser = Browser(project.command.address)
    for turn, (broken, shown) in enumerate(
        [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("import nope", "'nope'")], 1
    ):
        project.write("broken", broken)
        project.command.wait_for("Waiting for a change", count=turn)
        project.command.wait_for(shown)
    browser.start()  # connections wait meanwhile
    project.write("mended")
    project.wait_for("mended")
    browser.stop()
    assert browser.problems == []
    assert set(browser.answers) == {"mended"}
    assert project.command.stop() == 0


def test_a_server_that_cannot_start_waits_from_the_beginning(tmp_path: Path) -> None:
    project = Project.__new__(Project)
    project.directory = tmp_path
    project.write("x", "1 / 0")
    with contextlib.closing(
        Command("--reload", "--port", "0", app="site_app:app", cwd=tmp_path)
    ) as c:
        project.command = c
        c.wait_for("Waiting for a change")
        project.write("works")
        project.wait_for("works")


def test_open_channels_are_told_to_come_again(project: Project) -> None:
    with crowd(project.command.address) as visitors:
        clients = visitors.open(5)
        project.write("two")
        visitors.wait_told(clients)
    project.wait_for("two")


def test_a_worker_that_ends_is_not_started_again_until_there_is_a_change(project: Project) -> None:
    (worker,) = project.command.workers
    os.kill(worker, signal.SIGKILL)
    project.command.wait_for("was killed by SIGKILL. Waiting for a change.")
    project.write("three")
    project.wait_for("three")


def test_hangup_reloads_and_interrupt_ends_it(project: Project) -> None:
    (old,) = project.command.workers
    project.command.signal(signal.SIGHUP)
    wait_until(lambda: not is_alive(old), "the old worker ends")
    project.wait_for("one")
    os.killpg(project.command.pid, signal.SIGINT)
    assert project.command.wait() == 0
    assert not project.command.workers


def test_only_sources_count() -> None:
    matches = SourceFilter(["*.html", ".env"], ["secret_*.py", "generated"])
    for name in ("a.py", "pages/a.html", "x/.env"):
        assert matches(Path("/site") / name), name
    for name in ("a.txt", "secret_a.py", ".hidden.py", "a.pyc", ".sw.py"):
        assert not matches(Path("/site") / name), name
    assert not SourceFilter([], ["*.py"])(Path("/site/a.py"))


def test_directories_are_watched_once_and_excluded_ones_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/b", "c", "d"):
        (tmp_path / name).mkdir(parents=True)

    def watched(**options: Any) -> list[Path]:
        return watched_directories(Config("main:app", reload=True, **options))

    assert watched() == [tmp_path]
    assert watched(reload_dirs=("a", "a/b", "c")) == [tmp_path / "a", tmp_path / "c"]
    assert watched(reload_dirs=("a",), reload_includes=("d", "*.txt")) == [
        tmp_path / "a",
        tmp_path / "d",
    ]
    assert watched(reload_dirs=("a", "c"), reload_excludes=("c",)) == [tmp_path / "a"]
    with pytest.raises(ConfigError, match="--reload-dir: there is no directory 'e'"):
        watched(reload_dirs=("e",))
    (tmp_path / "c" / "x.py").touch()
    assert not SourceFilter([], ["c"])(tmp_path / "c" / "x.py")


@pytest.mark.long
def test_without_watchfiles_changes_are_noticed_all_the_same(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "watchfiles.py").write_text("raise ImportError('not installed')")
    directory = tmp_path / "project"
    directory.mkdir()
    project = Project(directory, str(hidden))
    try:
        project.wait_for("one")
        project.command.wait_for("watchfiles is not installed: .*pip install")
        project.write("two")
        project.wait_for("two")
        project.command.wait_for("Changes in 'site_app.py'. Reloading...")
    finally:
        project.command.close()


def test_files_that_come_go_or_change_are_noticed_by_their_times(tmp_path: Path) -> None:
    for folder in (".git", "__pycache__", "sub"):
        (tmp_path / folder).mkdir()
    same, old, changed, new = (tmp_path / "sub" / f"{n}.py" for n in ("same", "old", "c", "new"))
    for path in (same, old, changed):
        path.write_text("1")

    class Pauses(threading.Event):
        """In the first pause there are changes."""

        is_first = True

        def wait(self, timeout: float | None = None) -> bool:
            if self.is_first:
                self.is_first = False
                old.unlink()
                for path in (changed, new, tmp_path / ".git" / "x.py", tmp_path / "sub" / "x.txt"):
                    path.write_text("22")
                (tmp_path / "__pycache__" / "x.py").write_text("22")
            return self.is_set()

    noticed = changes([tmp_path], SourceFilter(), Pauses(), 0.001)
    assert next(noticed) == {old, changed, new}
