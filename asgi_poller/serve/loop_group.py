"""The event loops of one process (`--loops`): the first is the one that starts them, further ones
have threads of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from asgi_poller import platform
from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.config import Config
from asgi_poller.importer import load_application
from asgi_poller.loops.accepted_socket import ListenerInfo
from asgi_poller.loops.drain_counts import NOTHING, Drained, Left
from asgi_poller.loops.loop_factory import LoopFactory, loop_factory
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.loops.server_state import ConnectionCounter
from asgi_poller.serve import tls_reload
from asgi_poller.serve.hub_thread import HubThread
from asgi_poller.serve.runner import run_loop
from asgi_poller.settings.rules import cpu_count
from asgi_poller.tls import TlsContext
from asgi_poller.topics.local_link import LocalHub
from asgi_poller.topics.loop_topics import MakeLink

#: The beginning of the names of threads that run loops: Loop-1, Loop-2, ...
LOOP_THREADS = "Loop-"

_log = logging.getLogger("asgi_poller.error")
T = TypeVar("T")

_SHUTDOWN_AT_LEAST_S = 1.0  # for the lifespans' shutdown, however long the drain took
_THREAD_END_S = 5.0  # for the thread of a loop that has been stopped


class LoopGroup:
    """Starts, drains and ends the `count` loop servers of this process, and reloads their
    certificates. Owned by the thread whose loop `start` runs on.

    `limit_reached` is called, on any loop's thread, when `--limit-max-requests` is met; more than
    once perhaps. `access_log`, if given, is shared by all loops. `counter` counts connections,
    `websocket_share` is each loop's part of --limit-channels where `counter` does not count those.
    `rows`, if any, is where each loop publishes what it counts. `link_topics` joins its loops'
    topics; None: to one another.
    """

    def __init__(
        self,
        config: Config,
        infos: tuple[ListenerInfo, ...],
        *,
        count: int,
        tls: TlsContext | None,
        access_log: AccessLog | None = None,
        counter: ConnectionCounter | None = None,
        websocket_share: int | None = None,
        rows: Sequence[memoryview[int]] = (),
        link_topics: MakeLink | None = None,
        limit_reached: Callable[[], None],
    ) -> None:
        self._config = config
        self._infos = infos
        self._count = count
        self._tls = tls
        self._access_log = access_log
        self._counter = counter
        self._websocket_share = websocket_share
        self._rows = rows
        self._hub: HubThread | None = None
        if link_topics is None and config.topics is not None:
            self._hub = HubThread(config)
            link_topics = self._hub.link
        self._link_topics = link_topics or LocalHub.of(config).link
        self._limit_reached = limit_reached
        self._threads: list[LoopThread] = []
        self._tls_reload: asyncio.Task[None] | None = None
        self.servers: list[LoopServer] = []

    async def start(self, application: Any) -> None:
        """Start all loops, lifespans included. Raises StartupError; what had started is shut down
        then.
        """
        if self._hub is not None:
            await self._hub.start()
        _log.info("Waiting for application startup.")
        try:
            self.servers.append(await self._start_server(application, 0))
            make_loop = loop_factory(self._config.loop)
            for number in range(1, self._count):
                start = functools.partial(self._start_another, application, number)
                thread = LoopThread(number, make_loop, start)
                thread.start()
                self.servers.append(await thread.started())
                self._threads.append(thread)
        except BaseException:  # raised again; what is up is ended, after Ctrl-C too
            await self._shutdown()
            raise
        _log.info("Application startup complete.")
        if self._tls is not None:
            self._tls_reload = asyncio.create_task(tls_reload.reload_changed(self._tls))

    async def drain(self, timeout_s: float, spread_s: float = 0.0) -> None:
        """End every connection in an orderly way, on all loops at once; seconds as for
        LoopServer.drain. Cancelling it cuts off what is left.
        """

        async def drain(server: LoopServer) -> bool:
            return bool(await server.drain(timeout_s, spread_s))

        await self._on_all(drain)

    def left(self) -> Left:
        """What a drain of all loops waits for."""
        return sum((server.left for server in self.servers), NOTHING)

    def drained(self, took_s: float) -> Drained:
        """What became of it, after `drain`; also if that was cancelled."""
        return Drained.of((server.state.drained for server in self.servers), took_s)

    async def shutdown(self, deadline_s: float, force: asyncio.Event | None = None) -> None:
        """Run the lifespans' shutdown and end the threads, until `deadline_s` of this loop's clock,
        and at least for a second; `force` cuts that short.
        """
        if self._tls_reload is not None:
            self._tls_reload.cancel()
        _log.info("Waiting for application shutdown.")
        limit_s = max(_SHUTDOWN_AT_LEAST_S, deadline_s - asyncio.get_running_loop().time())
        force = asyncio.Event() if force is None else force
        went_well = await unless_forced(force, self._shutdown(), limit_s)
        if went_well:
            _log.info("Application shutdown complete.")
        elif went_well is None and not force.is_set():
            _log.error("The application did not shut down within %.1f s.", limit_s)

    async def _shutdown(self) -> bool:
        """Whether all lifespans ended well."""
        went_well = await self._on_all(lambda server: server.shutdown())
        for thread in self._threads:
            thread.stop()
        self.servers = []
        self._threads = []
        if self._hub is not None:
            self._hub.stop()
        return went_well

    async def _on_all(self, work: Callable[[LoopServer], Awaitable[bool]]) -> bool:
        if not self.servers:
            return True
        first, *others = self.servers
        calls = [work(first)]
        calls += [
            thread.call(_as_coroutine(work, server))
            for thread, server in zip(self._threads, others, strict=True)
        ]
        return all(await asyncio.gather(*calls))

    async def _start_server(self, application: Any, number: int) -> LoopServer:
        server = LoopServer(
            self._config,
            application,
            self._infos,
            tls=self._tls,
            access_log=self._access_log,
            link_topics=self._link_topics,
        )
        if self._counter is not None:
            server.state.use_counter(self._counter)
        server.state.websocket_share = self._websocket_share
        limit = self._config.limit_max_requests
        if limit is not None:
            server.state.limit_requests(
                limit + random.randint(0, self._config.limit_max_requests_jitter),
                self._limit_reached,
            )
        await server.startup()
        if self._rows:
            server.publish_counts_in(self._rows[number], is_first=not number)
        return server

    async def _start_another(self, application: Any, number: int) -> LoopServer:
        if self._config.factory:  # an application for each loop: threads share nothing
            application = load_application(self._config)
        return await self._start_server(application, number)


class LoopThread:
    """Runs one loop until it is stopped. Made and stopped by the server's thread.

    `make_server` runs on the new loop's thread and starts its loop server. Its exception is the one
    that `started` raises.
    """

    def __init__(
        self, number: int, make_loop: LoopFactory, make_server: Callable[[], Awaitable[LoopServer]]
    ) -> None:
        self._make_loop = make_loop
        self._make_server = make_server
        self._started: Future[LoopServer] = Future()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"{LOOP_THREADS}{number}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    async def started(self) -> LoopServer:
        """The loop server, once it has started. Raises what `make_server` raised."""
        return await asyncio.wrap_future(self._started)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the thread's loop."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def stop(self) -> None:
        """End the loop and wait for its thread. The loop server must have been drained and shut
        down.
        """
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_THREAD_END_S)

    def _run(self) -> None:
        platform.name_thread()
        try:
            run_loop(self._main(), self._make_loop)
        except Exception as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                raise

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await self._make_server()
        self._started.set_result(server)
        await self._stop.wait()


def loop_count(config: Config) -> int:
    """`--loops`; for `auto`: threads run Python side by side only where there is no GIL.

    One process decides, and tells its workers: in another one, an extension module that the
    application imports may have switched the GIL on.
    """
    if isinstance(config.loops, int):
        return config.loops
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_gil else cpu_count()


async def unless_forced(
    force: asyncio.Event, work: Coroutine[Any, Any, T], limit_s: float | None
) -> T | None:
    """What `work` returns; None if `force` is set or `limit_s` seconds pass before: then it is
    cancelled.
    """
    task = asyncio.ensure_future(work)
    forced = asyncio.ensure_future(force.wait())
    await asyncio.wait({task, forced}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    forced.cancel()
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):  # its own, not ours
        return await task
    return None


async def _as_coroutine(work: Callable[[LoopServer], Awaitable[bool]], server: LoopServer) -> bool:
    return await work(server)
