"""Finding changed files without watchfiles: it compares the times of files again and again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_PAUSE_S = 0.25  # between two looks
# A look at a large tree may take long: it has at most a fifth of the time.
_PAUSE_FOR_EACH_S = 4.0
# Folders without source of the application; hidden directories are left out as well.
_NEVER_SOURCE = frozenset({"__pycache__", "node_modules", "site-packages"})

Marks = dict[Path, tuple[int, int, int]]
"""(time of the last change in nanoseconds, bytes, inode) of each file."""


def changes(
    directories: Iterable[Path],
    is_source: Callable[[Path], bool],
    stop: threading.Event,
    gather_s: float,
) -> Iterator[set[Path]]:
    """The files that changed, came or went, once nothing has changed for `gather_s` seconds.

    Ends when `stop` is set. What is there at the first step is what changes are measured against.
    """
    directories = list(directories)
    known = _marks(directories, is_source)
    while True:
        began_s = time.monotonic()
        found: set[Path] = set()
        while different := _different(known, now := _marks(directories, is_source)):
            found |= different
            known = now
            if stop.wait(gather_s):
                return
        if found:
            yield found
        took_s = time.monotonic() - began_s
        if stop.wait(max(_PAUSE_S, 0.0 if found else took_s * _PAUSE_FOR_EACH_S)):
            return


def _different(old: Marks, new: Marks) -> set[Path]:
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}


def _marks(directories: Iterable[Path], is_source: Callable[[Path], bool]) -> Marks:
    marks: Marks = {}
    for directory in directories:
        for folder, folders, names in os.walk(directory):
            folders[:] = [f for f in folders if f not in _NEVER_SOURCE and f[0] != "."]
            for path in (Path(folder, name) for name in names):
                if is_source(path):
                    try:
                        about = path.stat()
                    except OSError:
                        continue  # removed meanwhile, or not readable: as if it did not exist
                    marks[path] = (about.st_mtime_ns, about.st_size, about.st_ino)
    return marks
