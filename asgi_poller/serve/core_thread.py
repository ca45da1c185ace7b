"""A core on a thread of its own: the second and further loops of a process (`--loops`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from asgi_poller import platform
from asgi_poller.loops.loop_factory import LoopFactory
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.serve.runner import run_loop

T = TypeVar("T")


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
