"""One venv for each peer and interpreter under benchmarks/.envs, made again when what is to be in
it changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.interpreters import CURRENT, Interpreter
from benchmarks.peers import APPLICATIONS, COMMON_PACKAGES, ROOT, Peer

FOLDER = Path(__file__).resolve().parent / ".envs"
INSTALL_LIMIT_S = 1800.0  # a compiled build on a busy machine
DONE = "installed.json"
# The build hook compiles our modules where this says so.
COMPILE = {"ASGI_POLLER_COMPILE": "1"}


class NotInstalled(Exception):
    """A peer that cannot be had here; the text is pip's last line."""


def folder_of(peer: Peer, interpreter: Interpreter = CURRENT) -> Path:
    """The peer's venv for an interpreter."""
    return FOLDER / interpreter.tag / peer.environment


def bin_folder(peer: Peer, interpreter: Interpreter = CURRENT) -> Path:
    """Where the peer's python is."""
    return folder_of(peer, interpreter) / "bin"


def prepare(
    peer: Peer, say: Callable[[str], None], interpreter: Interpreter = CURRENT
) -> dict[str, str]:
    """Make the peer's venv unless it is there; what is in it. Raises NotInstalled."""
    folder = folder_of(peer, interpreter)
    if peer.source:
        _compile_source(peer.source, folder / "bin")
        return {}
    wanted = [*peer.packages, *COMMON_PACKAGES]
    sources = source_digest() if peer.compiled else ""
    key = {"packages": wanted, "python": interpreter.full, "sources": sources}
    record = folder / DONE
    if record.exists():
        found = json.loads(record.read_text())
        if all(found.get(name, "") == value for name, value in key.items()):
            return dict(found["versions"])
    shown = "this tree, compiled" if peer.compiled else ", ".join(wanted)
    say(f"making an environment for {peer.environment} on {interpreter.tag}: {shown}")
    shutil.rmtree(folder, ignore_errors=True)
    _run([interpreter.path, "-m", "venv", str(folder)], {})
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", *wanted], COMPILE if peer.compiled else {})
    if peer.compiled and not is_compiled(folder):
        raise NotInstalled("the wheel of this tree has no compiled module")
    listed = _run([*pip, "list", "--format", "json"], {})
    versions = {one["name"].lower(): one["version"] for one in json.loads(listed)}
    record.write_text(json.dumps(key | {"versions": versions}, indent=1))
    return versions


def _compile_source(source: str, folder: Path) -> None:
    """Raises NotInstalled."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotInstalled("there is no C compiler, cc")
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / Path(source).stem
    _run([compiler, "-O2", "-o", str(program), str(APPLICATIONS / source)], {})


def is_compiled(folder: Path) -> bool:
    """Whether the asgi_poller in a venv has compiled modules."""
    return any(folder.glob("lib/*/site-packages/asgi_poller/**/*.so"))


def source_digest() -> str:
    """What our package is built from, as one hash."""
    whole = hashlib.sha256()
    for path in (*sorted((ROOT / "asgi_poller").rglob("*.py")), *sorted(ROOT.glob("*.toml"))):
        whole.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    for path in sorted(ROOT.glob("*.py")):  # the build hook
        whole.update(path.read_bytes())
    return whole.hexdigest()


def exported_tree(commit: str) -> Path:
    """The package as it was at a commit, in a folder. Raises NotInstalled."""
    try:
        named = _run(["git", "-C", str(ROOT), "rev-parse", "--verify", f"{commit}^{{commit}}"], {})
    except NotInstalled as problem:
        raise NotInstalled(f"--before: {commit!r} is not a commit here: {problem}") from problem
    folder = FOLDER / "trees" / named.strip()
    if not (folder / "asgi_poller").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder.with_suffix(".tar")
        git = ["git", "-C", str(ROOT), "archive", "--output", str(archive)]
        _run([*git, named.strip(), "asgi_poller"], {})
        shutil.unpack_archive(archive, folder, filter="data")
        archive.unlink()
    return folder


def _run(words: list[str], environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
            check=False,
            env={**os.environ, **environ},
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"not done within {INSTALL_LIMIT_S:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout
