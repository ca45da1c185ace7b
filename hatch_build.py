"""Compiles the hot modules of a wheel with mypyc, where ASGI_POLLER_COMPILE=1 asks for it.

Without it, and in an editable install, nothing happens: the wheel is pure Python. The source is the
same for both; a module that is compiled is in the wheel as source too, which tracebacks show.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SWITCH = "ASGI_POLLER_COMPILE"
PACKAGE = "asgi_poller"
# All of these is compiled, for it runs for each connection, request or message ...
FOLDERS = ("asgi", "loops", "protocols")
# ... and these, which such code counts in, or which write what is published to each subscriber ...
MODULES = (
    "metrics/histogram.py",
    "metrics/loop_counts.py",
    "topics/backlog.py",
    "topics/delivery.py",
    "topics/framing.py",
    "topics/publication.py",
    "topics/subscription.py",
    "topics/target.py",
)
# ... but for what runs seldom, or stands on classes that are not compiled.
INTERPRETED = frozenset(
    {
        "asgi/access_log.py",  # gunicorn's log inherits from it
        "asgi/detailed_log.py",  # inherits from that one
        "asgi/disconnect.py",
        "asgi/error_response.py",
        "asgi/lifespan.py",
        "asgi/message_log.py",
        "asgi/refusal_log.py",
        "asgi/static_files.py",
        "asgi/static_lookup.py",  # system calls, in threads
        "asgi/tls_extension.py",
        "loops/accepted_socket.py",  # inherits from socket.socket
        "loops/after_tls.py",
        "loops/denial_port.py",
        "loops/drain.py",
        "loops/drain_counts.py",
        "loops/drain_progress.py",
        "loops/lingering_close.py",
        "loops/loop_factory.py",
        "loops/preread.py",
        "loops/request_filter.py",
        "protocols/http2/h2_tuned.py",  # inherits from h2's classes
        "protocols/websocket/wsproto_impl.py",  # inherits from wsproto's classes
    }
)


class MypycHook(BuildHookInterface[Any]):
    """Hatchling's custom hook. Raises SystemExit where there is no compiler."""

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling: mypy reads the types of what we import, too."""
        if not self._is_wanted():
            return []
        return ["mypy>=1.18", "setuptools>=70", *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is packed: `version` is "standard" or "editable"."""
        if version == "editable" or not self._is_wanted():
            return
        folder = Path(tempfile.mkdtemp(prefix="asgi-poller-"))
        for built in _compile(Path(self.root), folder):
            build_data["force_include"][str(built)] = str(built.relative_to(folder / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def _is_wanted(self) -> bool:
        return os.environ.get(_SWITCH, "") not in ("", "0") and can_be_compiled()


def can_be_compiled() -> bool:
    """Whether mypyc's modules are for this interpreter: CPython with the GIL."""
    has_gil = not sysconfig.get_config_var("Py_GIL_DISABLED")
    return sys.implementation.name == "cpython" and has_gil


def hot_modules(root: Path) -> list[str]:
    """The paths of what is compiled, relative to `root`."""
    package = root / PACKAGE
    paths = [path for folder in FOLDERS for path in sorted((package / folder).rglob("*.py"))]
    paths += [package / module for module in MODULES]
    return [
        path.relative_to(root).as_posix()
        for path in paths
        if path.name != "__init__.py" and path.relative_to(package).as_posix() not in INTERPRETED
    ]


def _compile(root: Path, folder: Path) -> list[Path]:
    """Extension modules below `folder`/lib, where each belongs in a wheel."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    before = Path.cwd()
    os.chdir(root)  # mypyc takes a module's name from its path
    try:
        extensions = mypycify(
            # the types are checked elsewhere: here a stub that is not installed must not matter
            ["--config-file=", "--ignore-missing-imports", *hot_modules(root)],
            opt_level=os.environ.get(f"{_SWITCH}_LEVEL", "3"),
            debug_level="0",
            target_dir=str(folder / "c"),
        )
        command = build_ext(Distribution({"name": PACKAGE, "ext_modules": extensions}))
        command.build_lib = str(folder / "lib")
        command.build_temp = str(folder / "objects")
        command.finalize_options()
        command.run()
    finally:
        os.chdir(before)
    return [path for path in (folder / "lib").rglob("*") if path.is_file()]
