"""The server in one process: listeners, pollers and event loops, from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any

from asgi_poller.config import Config
from asgi_poller.embedding import application_of
from asgi_poller.errors import StartupError
from asgi_poller.listeners.listeners import (
    Listener,
    announce,
    close_listeners,
    listeners_on,
    open_listeners,
    socket_files,
)
from asgi_poller.logs import background_writing, log_with_pid, reopen_log_files
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.metrics.event_log import DRAINING, EventLog
from asgi_poller.monitor.monitor import monitored
from asgi_poller.privileges import Identity, become, resolve
from asgi_poller.serve.local_source import LocalSource
from asgi_poller.serve.runner import run_loop, settle_garbage, with_exits_as_failures
from asgi_poller.serve.serving import Serving
from asgi_poller.system.fork_guard import ForkGuard, end_daemons
from asgi_poller.system.service_notifier import ServiceNotifier
from asgi_poller.tls import context_of

_log = logging.getLogger("asgi_poller.error")
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)

_FORCE_S = 3.0  # after the second signal, for a loop that moves

_SIGHUP: int | None = getattr(signal, "SIGHUP", None)
_SIGUSR1: int | None = getattr(signal, "SIGUSR1", None)


class Server:
    """Serves one application in this process.

    `run()` blocks until a signal ends it; `await serve()` does the same on a loop that is running
    already; `start()` and `stop()` are for tests and notebooks: the server runs in a thread of its
    own meanwhile. All raise OperatorFault for what the operator must change. `should_exit = True`
    ends it from anywhere, as with uvicorn, and `force_exit = True` without grace.

    `sockets` are bound by the caller, and closed when it ends; then the options that say where to
    listen do not count, and the caller says where it is.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started = False
        self.listeners: list[Listener] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit = asyncio.Event()
        self._force = asyncio.Event()
        self._is_exit_asked = False
        self._is_force_asked = False
        self._delay_over = asyncio.Event()  # --drain-delay: a second signal has come
        self._may_delay = False  # a second signal is for the delay
        self._events = EventLog()
        self._source = LocalSource(self._events)
        self._signals: list[int] = []
        self._last_resort: threading.Thread | None = None
        self._handled: tuple[int, ...] = ()  # signals, while it serves
        self._serving: Serving | None = None
        self._owns_process = False
        self._owns_loop = False
        self._service_notifier: ServiceNotifier | None = None
        self._thread: threading.Thread | None = None
        self._thread_started: Future[None] = Future()

    # The three ways to run it

    def run(self, sockets: Iterable[socket.socket] | None = None) -> None:
        """Serve until a signal, or `should_exit`, ends it. In the main thread the process is taken
        to be the server's alone.
        """
        self._owns_process = threading.current_thread() is threading.main_thread()
        self._owns_loop = True
        make_loop = loop_factory(self.config.loop)
        if self._owns_process:
            self._service_notifier = ServiceNotifier(self.config)
            self._service_notifier.begin()
        try:
            run_loop(self.serve(sockets), make_loop)
        finally:
            if self._service_notifier is not None:
                self._service_notifier.end()

    async def serve(self, sockets: Iterable[socket.socket] | None = None) -> None:
        """Serve on the running loop, which becomes the first one. In the main thread, signals
        end it meanwhile.
        """
        with self._captured_signals(), background_writing():
            await self._serve(sockets)

    def start(self, timeout_s: float = 60.0) -> None:
        """Serve from a thread; returns once connections are accepted. Raises what `serve` would."""

        def target() -> None:
            try:
                self.run()
            except BaseException as error:  # start() raises it, whatever it is
                if self._thread_started.done():
                    raise
                self._thread_started.set_exception(error)
            if not self._thread_started.done():
                self._thread_started.set_exception(StartupError("ended before it had started"))

        self._thread = threading.Thread(target=target, name="asgi-poller", daemon=True)
        self._thread.start()
        self._thread_started.result(timeout_s)

    def stop(self, timeout_s: float | None = None) -> None:
        """End a server that `start()` started, gracefully; wait up to `timeout_s` seconds for it
        (None: its own limit).
        """
        self.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def should_exit(self) -> bool:
        """Whether the server has been asked to end. Set it to True from any thread."""
        return self._is_exit_asked

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._is_exit_asked = True
            self._events.state = DRAINING
            self._set(self._exit)

    @property
    def urls(self) -> list[str]:
        """Where it listens, with real ports."""
        return [listener.url for listener in self.listeners]

    @property
    def servers(self) -> list[Listener]:
        """What listens; each has `.sockets`, as uvicorn's have."""
        return self.listeners

    @property
    def force_exit(self) -> bool:
        """Whether it is to end without grace: True, from any thread, cuts off what is left."""
        return self._is_force_asked

    @force_exit.setter
    def force_exit(self, value: bool) -> None:
        if value:
            self._is_force_asked = True
            self.should_exit = True
            self._set(self._delay_over)
            self._set(self._force)

    def _set(self, event: asyncio.Event) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and so has the server
                self._loop.call_soon_threadsafe(event.set)

    # A life

    async def _serve(self, sockets: Iterable[socket.socket] | None) -> None:
        self._loop = asyncio.get_running_loop()
        identity = resolve(self.config.user, self.config.group)
        async with monitored(self.config, self._source):
            await self._serve_as(identity, sockets)
        if self._service_notifier is not None:
            self._service_notifier.end()  # now: the signal, raised again, may end the process
        log_with_pid("Finished server process [%d]", os.getpid())

    async def _serve_as(
        self, identity: Identity | None, sockets: Iterable[socket.socket] | None
    ) -> None:
        config = self.config
        self.listeners = listeners_on(config, sockets) if sockets else open_listeners(config)
        guard = ForkGuard(self._handled, [listener.info.address for listener in self.listeners])
        guard.begin()
        serving: Serving | None = None
        spread_s = 0.0
        try:
            tls = context_of(config)  # while we may still read the key
            become(config, identity, socket_paths=socket_files(self.listeners))
            application = application_of(config)
            log_with_pid("Started server process [%d]", os.getpid())
            if not self._owns_loop:
                application = with_exits_as_failures(application)
            serving = self._serving = Serving(
                config, self.listeners, limit_reached=self._limit_reached, tls=tls
            )
            self._source.look_at(serving, self.listeners)
            if not await self._come_up(serving, application):
                return
            if self._owns_process:
                settle_garbage()
            if self._service_notifier is not None:
                self._service_notifier.feed_watchdog()
                self._service_notifier.ready()
            self.started = True
            self._events.started()
            self._may_delay = config.drain_delay > 0
            # last: who has read this line finds /readyz and signals as it says
            announce([] if sockets else self.listeners, config.backlog)
            if not self._thread_started.done():
                self._thread_started.set_result(None)
            if not self._is_exit_asked:
                await self._exit.wait()
            self._events.note("draining")
            spread_s = await self._delay_drain()
            _log.info("Shutting down")
        finally:
            self._serving = None
            if self._service_notifier is not None:
                self._service_notifier.stopping()
            if serving is not None:
                serving.stop_accepting()
            close_listeners(self.listeners)
            if serving is not None:
                await serving.end(config.timeout_graceful_shutdown, self._force, spread_s=spread_s)
            guard.end()

    async def _come_up(self, serving: Serving, application: Any) -> bool:
        """Start; False if the server is to end before it has. Raises OperatorFault."""
        starting = asyncio.ensure_future(serving.start(application))
        asked = asyncio.ensure_future(self._exit.wait())
        if self._is_exit_asked:
            self._exit.set()
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not starting.done():  # an application may wait for its database for ever
            starting.cancel()
            _log.info("Shutting down before the application has started")
        try:
            await starting
        except asyncio.CancelledError:
            return False
        return True

    async def _delay_drain(self) -> float:
        """--drain-delay: serve on, until those who send clients here have seen /readyz. Seconds to
        spread the ends of WebSockets over: none unless they have, and take the clients elsewhere.
        """
        config, spread_s = self.config, 0.0
        if self._may_delay:
            if self._service_notifier is not None:
                limit_s = config.longest_stop_s
                self._service_notifier.stopping(limit_s)
            _log.info("Serving on for %g s (--drain-delay)", config.drain_delay)
            try:
                await asyncio.wait_for(self._delay_over.wait(), config.drain_delay)
            except TimeoutError:
                spread_s = config.drain_spread
            self._may_delay = False
        return spread_s

    def _limit_reached(self) -> None:
        if not self._is_exit_asked:
            _log.warning("Maximum request limit reached. Terminating process.")
            self.should_exit = True

    # Signals

    @contextlib.contextmanager
    def _captured_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while serving; afterwards the old handlers get what was taken.

        So a program that embeds the server keeps its own semantics, and a shell sees the status it
        expects.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        if _SIGHUP is not None and self.config.ssl_certfile is not None:
            old[_SIGHUP] = signal.signal(_SIGHUP, self._on_hangup)
        if _SIGUSR1 is not None and self._owns_process:
            old[_SIGUSR1] = signal.signal(_SIGUSR1, self._on_rotation)
        self._handled = tuple(old)
        try:
            yield
        finally:
            self._handled = ()
            for number, handler in old.items():
                signal.signal(number, handler)
        if self._owns_process and self._signals:
            end_daemons()  # the default handler ends this process without its exit functions
        for number in reversed(self._signals):
            signal.raise_signal(number)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP, where there are certificates: read them again."""
        if self._loop is not None and self._serving is not None:
            self._loop.call_soon_threadsafe(self._serving.reload_certificates)

    def _on_rotation(self, number: int, frame: FrameType | None) -> None:
        """SIGUSR1: log files have been moved away."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(reopen_log_files)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if not self._is_exit_asked:
            self.should_exit = True
            return
        if self._may_delay:
            self._may_delay = False
            self._set(self._delay_over)
            return
        self.force_exit = True
        if self._owns_process and self._last_resort is None:
            self._last_resort = threading.Thread(target=_leave, args=(number,), daemon=True)
            self._last_resort.start()


def _leave(number: int) -> None:
    """End the process although its loop is blocked, after a second signal."""
    threading.Event().wait(_FORCE_S)
    _log.error("The event loop is blocked: the process ends without it.")
    end_daemons()
    logging.shutdown()
    os._exit(128 + number)
