"""`--reload`: one worker, started again whenever the source changes, and the watcher of the source.

The listeners and pollers are in this process and stay: connections that come while there is no
worker wait. The old worker ends before the new one starts, because in development an application
often holds something that cannot be opened twice (a file, a port, a database). What does not start
is shown, and the next change starts it again.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError, OperatorFault
from asgi_poller.listeners.listeners import open_listeners
from asgi_poller.logs import background_writing, log_with_pid, reopen_log_files
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.metrics.event_log import DRAINING, STARTING, EventLog
from asgi_poller.monitor.monitor import monitored
from asgi_poller.privileges import Identity, resolve
from asgi_poller.supervisor.drain_watch import DrainWatch
from asgi_poller.supervisor.poller_host import PollerHost, host_pollers
from asgi_poller.supervisor.source_poll import changes
from asgi_poller.supervisor.spawn import SpawnLauncher, described_exit
from asgi_poller.supervisor.supervisor_source import SupervisorSource
from asgi_poller.supervisor.worker_handle import Callbacks, WorkerHandle
from asgi_poller.system.service_notifier import ServiceNotifier
from asgi_poller.system.signals import run_parent

_log = logging.getLogger("asgi_poller.error")

# Unit: seconds for open requests when the source has changed. Less than in production: the
# developer waits to see the effect.
_RELOAD_GRACE_S = 2.0

_DEFAULT_INCLUDES = ("*.py",)
_DEFAULT_EXCLUDES = (".*", ".py[cod]", ".sw.*", "~*")
# Unit: milliseconds between looks at whether the watcher is to end.
_STOP_MS = 500
# Unit: milliseconds without a further change, after which a set of changes is complete.
_STEP_MS = 50

Changes = set[tuple[Any, str]]


class Reloader:
    """Owned by the main thread, which `run` keeps."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._worker: WorkerHandle | None = None
        self._service_notifier: ServiceNotifier
        self._identity: Identity | None = None
        self._watch = DrainWatch()
        self._ending: WorkerHandle | None = None  # the last one, once it is to stop
        self._changed_at_s: float | None = None  # the loop's clock, at the last change
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._events = EventLog()
        self._source = SupervisorSource(self._events, "reloader")
        self._callbacks = Callbacks(_let_leave, lambda worker: None)

    def run(self) -> int:
        """Serve until a signal; the exit code. Raises OperatorFault if it cannot start."""
        config = self._config
        platform.require_fd_passing("--reload")
        self._identity = resolve(config.user, config.group)
        loop_factory(config.loop)
        watcher = SourceWatcher(config, self._on_changes)
        self._service_notifier = ServiceNotifier(config)
        try:
            self._service_notifier.begin()
            with background_writing():
                return run_parent(self._serve(watcher))
        finally:
            watcher.stop()
            self._service_notifier.end()

    async def _serve(self, watcher: SourceWatcher) -> int:
        self._loop = asyncio.get_running_loop()
        async with monitored(self._config, self._source):  # it stays while workers come and go
            await self._serve_beside(watcher)
        log_with_pid("Finished reloader [%d]", os.getpid())
        return 0

    async def _serve_beside(self, watcher: SourceWatcher) -> None:
        listeners = open_listeners(self._config)
        poller_host = host_pollers(self._config, self._identity, listeners, self._events)
        self._source.look_at(poller_host)
        log_with_pid("Started reloader [%d]", os.getpid())
        shown = ", ".join(map(str, watcher.directories))
        _log.info("Will watch for changes in: %s", shown)
        if watcher.is_polling:
            _log.info(
                "watchfiles is not installed: changes are found by the times of files"
                " (pip install 'asgi-poller[reload]' to find them sooner)"
            )
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._on_stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._changed.set)
        self._loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs, poller_host)
        watcher.start()
        poller_host.open()
        self._service_notifier.feed_watchdog()
        self._service_notifier.ready()  # also without a worker: who starts this waits for nothing
        running = asyncio.ensure_future(self._keep_running(poller_host))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await _first(running, stopping)
            if running.done():
                running.result()
        finally:
            running.cancel()
            stopping.cancel()
            _log.info("Shutting down")
            self._service_notifier.stopping()
            poller_host.stop()
            await self._end_worker(poller_host, self._config.timeout_graceful_shutdown, adopt=True)
            await poller_host.close()

    async def _keep_running(self, poller_host: PollerHost) -> None:
        while True:
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await self._until(changed, poller_host)
            finally:
                changed.cancel()
            self._events.count_restart("reload")
            self._events.state = STARTING
            self._changed_at_s = self._loop.time()
            await self._end_worker(poller_host, _RELOAD_GRACE_S)

    async def _until(self, changed: asyncio.Future[Any], poller_host: PollerHost) -> None:
        """Have a worker until there is a change; wait for the change if it does not work."""
        try:
            worker = self._worker = poller_host.make_worker(1, self._callbacks)
        except OperatorFault as fault:
            _log.error("%s. Waiting for a change.", fault)
            await changed
            return
        starting = asyncio.ensure_future(self._start(worker))
        await _first(starting, changed)
        if not starting.done():
            starting.cancel()
            return
        try:
            await starting
        except OperatorFault as fault:
            worker.kill()
            _log.error("%s. Waiting for a change.", fault)
        else:
            poller_host.admit(worker)
            self._events.started()
            if self._changed_at_s is not None:
                _log.info("Reloaded in %.1f s", self._loop.time() - self._changed_at_s)
            await _first(worker.ended, changed)
            if not changed.done():
                end = described_exit(worker.ended.result())
                _log.error("%s %s. Waiting for a change.", worker.name, end)
        await changed

    async def _start(self, worker: WorkerHandle) -> None:
        await worker.start(SpawnLauncher())
        await worker.wait_ready(self._config.timeout_worker_startup)

    async def _end_worker(
        self, poller_host: PollerHost, limit_s: float, *, adopt: bool = False
    ) -> None:
        """End the worker, if there is one. `adopt`: there will be no other for what waits."""
        worker, self._worker = self._worker, None
        self._ending = worker
        if worker is None:
            return
        if not adopt:
            poller_host.retire(worker)
        limit_s = min(limit_s, self._config.timeout_graceful_shutdown)
        worker.drain(limit_s, adopt=adopt)
        self._watch.begin({worker}, limit_s, is_last=adopt)
        try:
            await asyncio.shield(worker.ended)
        finally:
            if not worker.ended.done():
                self._worker = worker  # cancelled: the one that cancels ends it
            else:
                self._watch.ended(worker)
                poller_host.worker_died(worker)

    def _on_changes(self, paths: list[Path]) -> None:
        """On the watcher's thread."""
        shown = ", ".join(f"'{_short(path)}'" for path in paths)
        _log.warning("Changes in %s. Reloading...", shown)
        self._loop.call_soon_threadsafe(self._changed.set)

    def _on_stop(self) -> None:
        if self._stop.is_set():
            _log.warning("Second signal to stop: killing the worker")
            self._watch.force()
            if self._ending is not None:
                self._ending.kill()
        self._events.state = DRAINING
        self._stop.set()

    def _reopen_logs(self, poller_host: PollerHost) -> None:
        reopen_log_files()
        poller_host.hub.reopen_logs()
        if self._worker is not None:
            self._worker.reopen_logs()


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _let_leave(worker: WorkerHandle) -> None:
    """It was sent SIGTERM, and no other worker can take over."""
    worker.drain(_RELOAD_GRACE_S, adopt=True)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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
