"""One venv for each peer under benchmarks/.envs, made anew when its packages change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import COMMON_PACKAGES, Peer

FOLDER = Path(__file__).resolve().parent / ".envs"
INSTALL_LIMIT_S = 300.0
DONE = "installed.json"


class NotInstalled(Exception):
    """A peer that cannot be had here; the text is pip's last line."""


def bin_folder(peer: Peer) -> Path:
    """Where the peer's python is."""
    return FOLDER / peer.environment / "bin"


def prepare(peer: Peer, say: Callable[[str], None]) -> dict[str, str]:
    """Make the peer's venv unless it is there; what is in it. Raises NotInstalled."""
    folder = FOLDER / peer.environment
    wanted = [*peer.packages, *COMMON_PACKAGES]
    record = folder / DONE
    if record.exists():
        found = json.loads(record.read_text())
        if found["packages"] == wanted and found["python"] == sys.version:
            return dict(found["versions"])
    say(f"making an environment for {peer.environment}: {', '.join(wanted)}")
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", *wanted])
    listed = _run([*pip, "list", "--format", "json"])
    versions = {one["name"].lower(): one["version"] for one in json.loads(listed)}
    record.write_text(
        json.dumps({"packages": wanted, "python": sys.version, "versions": versions}, indent=1)
    )
    return versions


def _run(words: list[str]) -> str:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"not done within {INSTALL_LIMIT_S:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout
