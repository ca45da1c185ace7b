"""The cores of one process: the first on the loop that starts them, further ones on threads of
their own.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from asgi_poller import platform
from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.config import Config
from asgi_poller.importer import load_application
from asgi_poller.loops.accepted_socket import ListenerInfo
from asgi_poller.loops.loop_factory import LoopFactory, loop_factory
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.loops.server_state import ConnectionCounter
from asgi_poller.serve.runner import run_loop
from asgi_poller.settings.rules import cpu_count
from asgi_poller.tls import TlsContext

T = TypeVar("T")


class LoopGroup:
    """Starts, drains and ends the cores of this process. Owned by the thread whose loop `start`
    runs on.

    `limit_reached` is called, on a core's thread, when `--limit-max-requests` is met; more than
    once perhaps. `access_log`, if given, is shared by all cores. `counter` counts connections,
    `websocket_share` is each core's part of --limit-channels where `counter` does not count those.
    """

    def __init__(
        self,
        config: Config,
        infos: tuple[ListenerInfo, ...],
        *,
        tls: TlsContext | None = None,
        access_log: AccessLog | None = None,
        counter: ConnectionCounter | None = None,
        websocket_share: int | None = None,
        limit_reached: Callable[[], None],
    ) -> None:
        self._config = config
        self._infos = infos
        self._tls = tls
        self._access_log = access_log
        self._counter = counter
        self._websocket_share = websocket_share
        self._limit_reached = limit_reached
        self._threads: list[LoopThread] = []
        self.all: list[LoopServer] = []

    async def start(self, application: Any) -> None:
        """Bring all cores up, lifespans included. Raises StartupError; what was up is shut down
        then.
        """
        config = self._config
        count = loop_count(config)
        try:
            self.all.append(await self._bring_up(application))
            make_loop = loop_factory(config.loop)
            for number in range(1, count):
                thread = LoopThread(number, make_loop, lambda: self._bring_up_another(application))
                thread.start()
                self.all.append(await thread.started())
                self._threads.append(thread)
        except BaseException:
            await self.shutdown()
            raise

    async def drain(self, timeout_s: float, spread_s: float = 0.0) -> None:
        """End every connection in an orderly way, on all cores at once; seconds as for
        LoopServer.drain. Cancelling it cuts off what is left.
        """
        await self._on_all(lambda core: core.drain(timeout_s, spread_s))

    async def shutdown(self) -> bool:
        """Run the lifespans' shutdown and end the threads; whether all of them went well."""
        went_well = await self._on_all(lambda core: core.shutdown())
        for thread in self._threads:
            thread.stop()
        self.all = []
        self._threads = []
        return went_well

    async def _on_all(self, work: Callable[[LoopServer], Awaitable[bool]]) -> bool:
        if not self.all:
            return True
        first, *others = self.all
        calls = [work(first)]
        calls += [
            thread.call(_as_coroutine(work, core))
            for thread, core in zip(self._threads, others, strict=True)
        ]
        return all(await asyncio.gather(*calls))

    async def _bring_up(self, application: Any) -> LoopServer:
        core = LoopServer(
            self._config,
            application,
            self._infos,
            tls=self._tls,
            access_log=self._access_log,
        )
        if self._counter is not None:
            core.state.use_counter(self._counter)
        core.state.websocket_share = self._websocket_share
        limit = self._config.limit_max_requests
        if limit is not None:
            core.state.limit_requests(
                limit + random.randint(0, self._config.limit_max_requests_jitter),
                self._limit_reached,
            )
        await core.startup()
        return core

    async def _bring_up_another(self, application: Any) -> LoopServer:
        if (
            self._config.factory
        ):  # each loop has an application of its own: nothing is shared between threads
            application = load_application(self._config)
        return await self._bring_up(application)


class LoopThread:
    """Runs one loop until it is stopped. Made and stopped by the server's thread.

    `make_core` runs on the new loop's thread and must bring the core up. Its exception is the one
    that `started` raises.
    """

    def __init__(
        self, number: int, make_loop: LoopFactory, make_core: Callable[[], Awaitable[LoopServer]]
    ) -> None:
        self._make_loop = make_loop
        self._make_core = make_core
        self._started: Future[LoopServer] = Future()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"Core-{number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def started(self) -> LoopServer:
        """The core, once it is up. Raises what `make_core` raised."""
        return await asyncio.wrap_future(self._started)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the core's loop."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the loop and wait for its thread. The core must have been drained and shut down."""
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout_s)

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
        core = await self._make_core()
        self._started.set_result(core)
        await self._stop.wait()


async def _as_coroutine(work: Callable[[LoopServer], Awaitable[bool]], core: LoopServer) -> bool:
    return await work(core)


def loop_count(config: Config) -> int:
    """`--loops`; for `auto`: threads run Python side by side only where there is no GIL."""
    if isinstance(config.loops, int):
        return config.loops
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_gil else cpu_count()
