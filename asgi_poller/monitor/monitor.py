"""The monitor's socket, thread and loop, from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.listeners.listeners import Listener, close_listeners, open_address
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.metrics.snapshot import Source
from asgi_poller.monitor.access import Access
from asgi_poller.monitor.advertisement import Advertisement
from asgi_poller.monitor.application import MonitorApplication, pages_of
from asgi_poller.monitor.dashboard import dashboard_lives, dashboard_pages
from asgi_poller.system.fork_guard import ForkGuard

_log = logging.getLogger("asgi_poller.error")

_OPTION = "--metrics"
_BACKLOG_COUNT = 128
#: Beyond so many connections the oldest one that is no WebSocket makes room, so that a scraper or a
#: balancer is always answered.
CONNECTIONS_COUNT = 64
_PAUSE_S = 1.0  # where no descriptor is left to accept with
_END_S = 1.0  # for what is open at the end
_THREAD_END_S = 3.0


class Monitor:
    """Owned by the thread that makes it; the rest happens on a thread of its own. The order of a
    life: `start`, `accept`, `release` perhaps, `end`.

    `listeners` are its own from here on. Raises ConfigError where prometheus-client is missing.
    """

    def __init__(self, config: Config, source: Source, listeners: list[Listener]) -> None:
        addresses = [listener.socket.getsockname() for listener in listeners]
        access = Access([a[0] for a in addresses], addresses[0][1], config.metrics_token)
        pages = pages_of(source, config.timeout_worker_heartbeat) | dashboard_pages()
        self._application = MonitorApplication(access, pages, dashboard_lives(source))
        self._advertisement = Advertisement(addresses[0][0], addresses[0][1])
        self.listeners = listeners
        self._guard = ForkGuard((), addresses)
        # a selector's loop: it can wait for a listening socket on every system
        self._loop = asyncio.SelectorEventLoop()
        self._stop = asyncio.Event()
        self._ended: Future[None] = Future()
        self._server: LoopServer
        self._accepted_count = 0
        self._thread = threading.Thread(target=self._run, name="Monitor", daemon=True)

    def start(self) -> None:
        """Start the thread; nothing is accepted yet."""
        self._guard.begin()
        self._thread.start()

    def accept(self) -> None:
        """Answer from now on, and log where."""
        self._call(self._watch)
        self._advertisement.begin()
        for listener in self.listeners:
            _log.info("Metrics and health on %s", listener.url)

    def release(self) -> None:
        """Accept nothing more: another process has the listeners too. What is open goes on."""
        self._advertisement.end()
        self._call(self._leave)

    async def end(self) -> None:
        """Answer what was asked, and end the thread."""
        self._advertisement.end()
        self._call(self._stop.set)
        await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=_THREAD_END_S)
        self._guard.end()
        close_listeners(self.listeners)

    def _call(self, callback: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # it has failed and ended: the server goes on
            self._loop.call_soon_threadsafe(callback)

    # On its own thread

    def _run(self) -> None:
        platform.begin_service_thread()
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except Exception as error:  # the server does not depend on it
            _log.error("%s has failed and answers no more: %r", _OPTION, error)
        finally:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        infos = tuple(listener.info for listener in self.listeners)
        self._server = LoopServer(_config_of(self._application), self._application, infos)
        await self._stop.wait()
        self._leave()
        await self._let_end()

    async def _let_end(self) -> None:
        """As a drain does it, but silently: this is not the server's."""
        state = self._server.state
        changed = state.begin_drain()
        for connection in list(state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                while state.connections:
                    changed.clear()
                    await changed.wait()
        for connection in list(state.connections):
            connection.abort()
        await asyncio.sleep(0)  # their transports' last callbacks
        state.wheel.stop()

    def _watch(self) -> None:
        for index, listener in enumerate(self.listeners):
            self._loop.add_reader(listener.socket, self._accept_one, index)

    def _leave(self) -> None:
        for listener in self.listeners:
            self._loop.remove_reader(listener.socket)

    def _accept_one(self, index: int) -> None:
        """One in a turn of the loop: those that made room for the one before have ended then."""
        try:
            connected, peer = self.listeners[index].socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError:
            self._leave()  # else the loop would spin
            self._loop.call_later(_PAUSE_S, self._resume)
            return
        if not self._has_room():
            connected.close()
            return
        connected.setblocking(False)
        self._accepted_count += 1
        fd = connected.detach()
        try:
            self._server.adopt(Accepted(fd, index, peer, ticket=self._accepted_count))
        except Exception:  # it stays ours then; the peer has left, or the system has no memory
            os.close(fd)

    def _resume(self) -> None:
        if not self._stop.is_set():
            self._watch()

    def _has_room(self) -> bool:
        state = self._server.state
        if len(state.connections) < CONNECTIONS_COUNT:
            return True
        for connection in state.ticket_holders():
            if connection in state.connections and not connection.is_websocket:
                connection.abort()
                return True
        return False


def _config_of(application: MonitorApplication) -> Config:
    """The monitor's own: nothing of the server's settings, and nothing of the environment."""
    return Config(
        application,
        workers=1,
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        forwarded_allow_ips="",
        limit_request_head=16 * 1024,
        limit_request_body=64 * 1024,
        timeout_first_octet=5.0,
        timeout_request_header=5.0,
        timeout_keep_alive=75.0,  # longer than most intervals of scraping
        timeout_write=5.0,
        ws_max_size=4096,
    )


@contextlib.asynccontextmanager
async def monitored(
    config: Config, source: Source, *, taken_over: Sequence[Listener] = ()
) -> AsyncIterator[Monitor | None]:
    """The monitor of `--metrics` while the block runs; None without that option. `taken_over` are
    another process's listeners: then the caller says when it accepts. Raises OperatorFault.
    """
    if config.metrics is None:
        close_listeners(taken_over)
        yield None
        return
    require_library(config)
    listeners = list(taken_over) or open_address(config.metrics, _OPTION, _BACKLOG_COUNT)
    try:
        monitor = Monitor(config, source, listeners)
        monitor.start()
    except BaseException:  # raised again; nobody else would close them
        close_listeners(listeners)
        raise
    try:
        if not taken_over:
            monitor.accept()
        yield monitor
    finally:
        await monitor.end()


def require_library(config: Config) -> None:
    """Raises ConfigError where --metrics is wanted and prometheus-client is missing."""
    if config.metrics is None:
        return
    try:
        import prometheus_client  # noqa: F401  # found out before anything is bound
    except ImportError:
        raise ConfigError(
            _OPTION, "needs prometheus-client: pip install 'asgi-poller[metrics]'"
        ) from None
