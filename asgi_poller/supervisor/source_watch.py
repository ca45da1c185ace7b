"""Which files `--reload` watches, and the thread that watches them.

Patterns mean what they mean to uvicorn: `Path.match` globs; a directory among --reload-include is
watched too, one among --reload-exclude is left out with all that is in it.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.supervisor.source_poll import changes

_log = logging.getLogger("asgi_poller.error")

_DEFAULT_INCLUDES = ("*.py",)
_DEFAULT_EXCLUDES = (".*", ".py[cod]", ".sw.*", "~*")
# Unit: milliseconds. How long it may go unnoticed that the watcher shall end.
_STOP_MS = 500
# Unit: milliseconds without a further change, after which a set of changes is complete.
_STEP_MS = 50

Changes = set[tuple[Any, str]]


class SourceFilter:
    """Whether a file is source. Any thread."""

    __slots__ = ("_excludes", "_excludes_dirs", "_includes")

    def __init__(self, includes: Iterable[str] = (), excludes: Iterable[str] = ()) -> None:
        includes, excludes = tuple(includes), tuple(excludes)
        self._includes = [p for p in _DEFAULT_INCLUDES if p not in excludes]
        self._includes += [pattern for pattern in includes if not _is_dir(pattern)]
        self._excludes = [p for p in _DEFAULT_EXCLUDES if p not in includes]
        self._excludes += [pattern for pattern in excludes if not _is_dir(pattern)]
        self._excludes_dirs = [Path(p).resolve() for p in excludes if _is_dir(p)]

    def __call__(self, path: Path) -> bool:
        """Whether a change of `path` is one of the application's."""
        if any(directory in path.parents for directory in self._excludes_dirs):
            return False
        for pattern in self._includes:
            if path.match(pattern):
                # a file that is included by its very name is meant, whatever the excludes say
                return str(path).endswith(pattern) or not any(map(path.match, self._excludes))
        return False


def watched_directories(config: Config) -> list[Path]:
    """--reload-dir, and directories among --reload-include; the current one if there are none."""
    found = [
        Path(text).resolve()
        for text in (*config.reload_dirs, *config.reload_includes)
        if _is_dir(text)
    ]
    for text in config.reload_dirs:
        if not _is_dir(text):
            raise ConfigError("--reload-dir", f"there is no directory {text!r}")
    excluded = [Path(text).resolve() for text in config.reload_excludes if _is_dir(text)]
    found = [path for path in found if not any(e == path or e in path.parents for e in excluded)]
    # what is inside of another one is watched with it
    outer = [path for path in set(found) if not any(other in path.parents for other in found)]
    return sorted(outer) or [Path.cwd()]


def _is_dir(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except OSError:
        return False  # Windows, for a name like *.py


class SourceWatcher:
    """Calls `changed` with the files that changed, on a thread of its own. Made by any thread.

    Where watchfiles is not installed it looks at the files' times (`is_polling`).
    """

    def __init__(self, config: Config, changed: Callable[[list[Path]], object]) -> None:
        self._watch: Callable[..., Iterable[Changes]] | None
        try:
            self._watch = importlib.import_module("watchfiles").watch
        except ImportError:
            self._watch = None
        self.is_polling = self._watch is None
        self.directories = watched_directories(config)
        self._filter = SourceFilter(config.reload_includes, config.reload_excludes)
        self._gather_ms = max(1, round(config.reload_delay * 1000))
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="SourceWatcher", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; the thread ends soon."""
        self._stop.set()

    def _run(self) -> None:
        platform.begin_service_thread()
        for paths in self._notice():
            if self._stop.is_set():
                return
            self._changed(sorted(paths))

    def _notice(self) -> Iterable[set[Path]]:
        if self._watch is None:
            return changes(self.directories, self._filter, self._stop, self._gather_ms / 1000)
        batches = self._watch(
            *self.directories,
            watch_filter=lambda _, path: self._filter(Path(path)),
            debounce=self._gather_ms,
            step=min(_STEP_MS, self._gather_ms),
            stop_event=self._stop,
            rust_timeout=_STOP_MS,
            ignore_permission_denied=True,
            raise_interrupt=False,
        )
        return ({Path(path) for _, path in batch} for batch in batches)
