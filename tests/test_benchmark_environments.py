"""The environments of the benchmarks' peers: made once, for each interpreter, of what they name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import environments, interpreters
from benchmarks.__main__ import earlier_selves
from benchmarks.interpreters import Interpreter
from benchmarks.peers import COMMON_PACKAGES, OURS, ROOT, Peer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the load needs Linux's epoll")


def peer(name: str) -> Peer:
    return Peer(name, "here", ("nothing",), ("click",), "")


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip runs when there is nothing, not when there is, and again when the packages differ."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    ran: list[list[str]] = []

    def run(words: list[str], environ: Mapping[str, str]) -> str:
        ran.append(words)
        environments.folder_of(peer("one")).mkdir(parents=True, exist_ok=True)
        return '[{"name": "Click", "version": "8.1"}]'

    monkeypatch.setattr(environments, "_run", run)
    assert environments.prepare(peer("one"), print) == {"click": "8.1"}
    assert ran[1][-2:] == ["nothing", *COMMON_PACKAGES]
    made = len(ran)
    assert environments.prepare(peer("one"), print) == {"click": "8.1"}
    assert len(ran) == made
    other = Peer("one", "here", ("something",), (), "")
    environments.prepare(other, print)
    assert len(ran) == 2 * made
    # Another interpreter has environments of its own.
    free = Interpreter("/python", "3.99 elsewhere", "3.99.1", free_threaded=True)
    assert environments.bin_folder(other, free) == tmp_path / "3.99t" / "here" / "bin"


def test_the_compiled_build_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wheel is asked for, made again when the sources differ, and refused when it is pure."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    compiled = Peer("one", "here", (str(ROOT),), (), "", compiled=True)
    package = environments.folder_of(compiled) / "lib/python3/site-packages/asgi_poller"
    suffix = "py"

    def run(words: list[str], environ: Mapping[str, str]) -> str:
        package.mkdir(parents=True, exist_ok=True)
        if "install" in words:
            assert environ == environments.COMPILE
            (package / f"loops.{suffix}").touch()
        return "[]"

    monkeypatch.setattr(environments, "_run", run)
    with pytest.raises(environments.NotInstalled, match="no compiled module"):
        environments.prepare(compiled, print)
    suffix = "so"
    said: list[str] = []
    for _ in range(2):
        environments.prepare(compiled, said.append)
    assert len(said) == 1
    monkeypatch.setattr(environments, "source_digest", lambda: "changed")
    environments.prepare(compiled, said.append)
    assert len(said) == 2


@pytest.mark.skipif(shutil.which("git") is None, reason="a commit is read with git")
def test_the_tree_of_another_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package is exported once, and its server is a peer that imports it from there."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "envs")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / "asgi_poller").mkdir()
    (tmp_path / "asgi_poller" / "old.py").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "asgi_poller"], ["commit", "-qm", "old"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "asgi_poller" / "old.py").unlink()
    (earlier,) = earlier_selves("HEAD")
    tree = Path(earlier.extra_environ["PYTHONPATH"])
    assert [path.name for path in (tree / "asgi_poller").iterdir()] == ["old.py"]
    assert earlier.name == f"{OURS}, commit {tree.name[:7]}"
    with pytest.raises(environments.NotInstalled, match="--before: 'none' is not a commit here"):
        earlier_selves("none")


def test_an_interpreter_is_named() -> None:
    """By path or version; one that is not there, or does not run, is one line."""
    assert interpreters.find(sys.executable) == interpreters.CURRENT
    with pytest.raises(interpreters.NoInterpreter, match=r"no program 'python0\.1'"):
        interpreters.find("0.1")
    with pytest.raises(interpreters.NoInterpreter, match="does not run"):
        interpreters.find("false")


def test_an_environment_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is pip's last line, and nothing is recorded as installed."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    done = subprocess.CompletedProcess([], 1, "", "looking\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: done)
    with pytest.raises(environments.NotInstalled, match="ERROR: No matching distribution"):
        environments.prepare(peer("one"), print)
    assert not (environments.folder_of(peer("one")) / environments.DONE).exists()
