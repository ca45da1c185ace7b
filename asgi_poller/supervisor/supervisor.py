"""The supervisor: parent of the workers, owner of the listeners, and what signals mean.

It runs no application code. Its main thread has an event loop for signals and child processes;
pollers and the lane monitor are further threads (`poller_host.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.listeners.listeners import open_listeners
from asgi_poller.logs import background_writing, log_with_pid, reopen_log_files
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.metrics.event_log import DRAINING, EventLog
from asgi_poller.monitor.monitor import Monitor, monitored
from asgi_poller.privileges import Identity, resolve
from asgi_poller.settings.sources import taken_secrets
from asgi_poller.supervisor.health_monitor import HealthMonitor
from asgi_poller.supervisor.launchers import Launchers
from asgi_poller.supervisor.poller_host import PollerHost, host_pollers
from asgi_poller.supervisor.supervisor_source import SupervisorSource
from asgi_poller.supervisor.upgrade import Predecessor, Upgrade
from asgi_poller.supervisor.worker_pool import WorkerPool
from asgi_poller.system.service_notifier import ServiceNotifier
from asgi_poller.system.signals import run_parent

_log = logging.getLogger("asgi_poller.error")


class Supervisor:
    """Serves with worker processes. Owned by the main thread, which `run` keeps."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._service_notifier: ServiceNotifier
        self._predecessor: Predecessor | None = None
        self._upgrade: Upgrade | None = None
        self._launchers = Launchers(config)
        self._identity: Identity | None = None
        self._signals: asyncio.Queue[int] = asyncio.Queue()
        self._stop_by: asyncio.Future[int]  # the signal; made with the loop
        self._restart_task: asyncio.Task[None] | None = None
        self._is_restart_wanted = False
        self._monitor: Monitor | None = None
        self._events = EventLog()
        self._source = SupervisorSource(self._events)
        self._is_serving = False
        self._delay_over = asyncio.Event()  # --drain-delay: a second signal has come
        self._may_delay = False  # a second signal is for the delay
        self._are_clients_elsewhere = False  # the delay is over: a balancer has seen /readyz

    def run(self) -> int:
        """Serve until a signal; the exit code. Raises OperatorFault if it cannot start."""
        config = self._config
        platform.require_fd_passing("--workers")
        self._identity = resolve(config.user, config.group)
        loop_factory(config.loop)
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("--workers", "more than one can only be run from the main thread")
        self._predecessor = Predecessor.from_environment(os.environ)
        self._upgrade = Upgrade({**os.environ, **taken_secrets})
        self._service_notifier = ServiceNotifier(config)
        platform.raise_descriptor_limit()
        try:
            if self._predecessor is None:
                self._service_notifier.begin()
            self._launchers.prepare()
            with background_writing():  # a thread: not before something may be forked
                return run_parent(self._serve())
        finally:
            self._service_notifier.end()

    # A life

    async def _serve(self) -> int:
        self._stop_by = asyncio.get_running_loop().create_future()
        theirs = [] if self._predecessor is None else self._predecessor.monitor
        async with monitored(self._config, self._source, taken_over=theirs) as monitor:
            await self._serve_beside(monitor)
        log_with_pid("Finished supervisor [%d]", os.getpid())
        return 0

    async def _serve_beside(self, monitor: Monitor | None) -> None:
        loop = asyncio.get_running_loop()
        self._monitor = monitor
        if self._predecessor is None:
            listeners = open_listeners(self._config)
        else:
            listeners = self._predecessor.listeners
        poller_host = host_pollers(self._config, self._identity, listeners, self._events)
        log_with_pid("Started supervisor [%d]", os.getpid())
        self._source.look_at(poller_host)
        pool = WorkerPool(self._config, poller_host, self._launchers.make, self._events)
        handlers = self._handlers(poller_host, pool)
        for number in handlers:
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        monitoring = asyncio.ensure_future(HealthMonitor(self._config, pool).run())
        handling = asyncio.ensure_future(self._handle_signals(handlers))
        self._service_notifier.feed_watchdog()
        try:
            if await self._start(poller_host, pool):
                await self._stop_by
                await self._delay_drain()
        finally:
            monitoring.cancel()
            await self._end(poller_host, pool)
            handling.cancel()

    async def _start(self, poller_host: PollerHost, pool: WorkerPool) -> bool:
        """Start; False if a signal to stop came before all workers served. Raises OperatorFault."""
        self._service_notifier.starting(2 * self._config.timeout_worker_startup)
        begun_s = asyncio.get_running_loop().time()
        starting = asyncio.ensure_future(pool.start(poller_host.open))
        first: set[asyncio.Future[Any]] = {starting, self._stop_by}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # its own, not ours
                await starting
            return False
        await starting
        took_s = asyncio.get_running_loop().time() - begun_s
        _log.info("All %d workers are ready, after %.1f s", len(pool.members), took_s)
        if self._predecessor is not None:
            try:
                self._service_notifier.begin(successor_of=self._predecessor.pid)
            except ConfigError as problem:  # --user: it may not be ours to change any more
                _log.warning("The pid file still names the old process: %s", problem)
            self._predecessor.ready()
            if self._monitor is not None and self._predecessor.monitor:
                self._monitor.accept()
        self._is_serving = True
        self._events.started()
        self._service_notifier.ready(f"{len(pool.members)} workers")
        return True

    async def _delay_drain(self) -> None:
        """--drain-delay: serve on, until those who send clients here have seen /readyz."""
        config = self._config
        if self._may_delay:
            self._service_notifier.stopping(config.longest_stop_s)
            _log.info("Serving on for %g s (--drain-delay)", config.drain_delay)
            try:
                await asyncio.wait_for(self._delay_over.wait(), config.drain_delay)
            except TimeoutError:
                self._are_clients_elsewhere = True
            self._may_delay = False

    async def _end(self, poller_host: PollerHost, pool: WorkerPool) -> None:
        _log.info("Shutting down")
        is_quick = self._is_stopping and self._stop_by.result() == signal.SIGQUIT
        timeout_s = 0.0 if is_quick else self._config.timeout_graceful_shutdown
        self._service_notifier.stopping()
        if self._restart_task is not None:
            self._restart_task.cancel()
        if self._upgrade is not None:
            self._upgrade.give_up()
        is_succeeded = self._upgrade is not None and self._upgrade.is_done
        poller_host.stop(unlink=not is_succeeded)
        # to spread the closes helps only if somebody takes the clients that come back
        is_spread = is_succeeded or (self._are_clients_elsewhere and not is_quick)
        await pool.stop(timeout_s, self._config.drain_spread if is_spread else 0.0)
        pool.close()
        await poller_host.close()

    # Signals

    def _handlers(self, poller_host: PollerHost, pool: WorkerPool) -> dict[int, Callable[[], Any]]:
        def stop(number: int) -> Callable[[], None]:
            return lambda: self._stop(number, pool)

        return {
            signal.SIGINT: stop(signal.SIGINT),
            signal.SIGTERM: stop(signal.SIGTERM),
            signal.SIGQUIT: stop(signal.SIGQUIT),
            signal.SIGHUP: lambda: self._restart(pool),
            signal.SIGTTIN: lambda: self._scale(pool, 1),
            signal.SIGTTOU: lambda: self._scale(pool, -1),
            signal.SIGUSR1: lambda: self._reopen_logs(poller_host, pool),
            signal.SIGUSR2: lambda: self._start_upgrade(poller_host),
        }

    async def _handle_signals(self, handlers: dict[int, Callable[[], Any]]) -> None:
        while True:
            number = await self._signals.get()
            _log.info("Received %s", signal.Signals(number).name)
            try:
                handlers[number]()
            except Exception:
                _log.exception("%s could not be handled", signal.Signals(number).name)

    def _stop(self, number: int, pool: WorkerPool) -> None:
        if self._may_delay:
            self._delay_over.set()
            self._may_delay = False
        elif self._stop_by.done():
            _log.warning("Second signal to stop: killing the workers")
            pool.kill()
        else:
            self._stop_by.set_result(number)
            self._events.state = DRAINING
            self._events.note("draining", detail=f"{signal.Signals(number).name} has come")
            # a new supervisor serves already, or SIGQUIT wants an end
            is_upgraded = self._upgrade is not None and self._upgrade.is_done
            is_delay_wanted = number != signal.SIGQUIT and not is_upgraded and self._is_serving
            self._may_delay = is_delay_wanted and self._config.drain_delay > 0

    def _restart(self, pool: WorkerPool) -> None:
        if self._is_stopping:
            return
        self._is_restart_wanted = True  # once more, if one is under way
        if self._restart_task is None or self._restart_task.done():
            self._restart_task = asyncio.ensure_future(self._restart_all(pool))

    async def _restart_all(self, pool: WorkerPool) -> None:
        while self._is_restart_wanted:
            self._is_restart_wanted = False
            self._service_notifier.reloading()
            await pool.restart()
            self._service_notifier.ready(f"{len(pool.members)} workers")

    def _scale(self, pool: WorkerPool, by: int) -> None:
        if not self._is_stopping:
            _log.info("Number of workers: %d", pool.scale(by))

    def _reopen_logs(self, poller_host: PollerHost, pool: WorkerPool) -> None:
        reopen_log_files()
        poller_host.hub.reopen_logs()
        pool.reopen_logs()

    def _start_upgrade(self, poller_host: PollerHost) -> None:
        if self._is_stopping or self._upgrade is None:
            return
        theirs = [] if self._monitor is None else self._monitor.listeners
        self._upgrade.start(poller_host.listeners, theirs, self._on_upgraded)

    def _on_upgraded(self, pid: int) -> None:
        """The new supervisor serves: this one ends."""
        if self._monitor is not None:
            self._monitor.release()
        self._service_notifier.hand_over(pid)
        self._signals.put_nowait(signal.SIGTERM)

    @property
    def _is_stopping(self) -> bool:
        return self._stop_by.done()
