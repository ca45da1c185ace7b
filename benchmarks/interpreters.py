"""The interpreter that runs the servers: named on the command line, described in the result."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass

FREE_THREADED = "Py_GIL_DISABLED"
_ASK = (
    "import json, platform, sys, sysconfig; print(json.dumps([sys.executable, sys.version,"
    f" platform.python_version(), bool(sysconfig.get_config_var({FREE_THREADED!r}))]))"
)
ASK_LIMIT_S = 20.0


class NoInterpreter(Exception):
    """A name that leads to no interpreter; the text is one line."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One interpreter. `full` is its sys.version, `version` as in 3.13.0."""

    path: str
    full: str
    version: str
    free_threaded: bool = False

    @property
    def tag(self) -> str:
        """As in 3.13, or 3.13t for a free-threaded build: names its environments."""
        return ".".join(self.version.split(".")[:2]) + ("t" if self.free_threaded else "")


CURRENT = Interpreter(
    sys.executable,
    sys.version,
    platform.python_version(),
    bool(sysconfig.get_config_var(FREE_THREADED)),
)


def find(name: str) -> Interpreter:
    """The interpreter that `name` names: a path, a program such as python3.13, or 3.13. Raises
    NoInterpreter.
    """
    program = f"python{name}" if name[:1].isdigit() else name
    path = shutil.which(program)
    if path is None:
        raise NoInterpreter(f"there is no program {program!r}: give --python the path of one")
    done = subprocess.run(
        [path, "-c", _ASK], capture_output=True, text=True, timeout=ASK_LIMIT_S, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NoInterpreter(f"{program} does not run: {last}; give --python the path of another")
    return Interpreter(*json.loads(done.stdout))
