"""Tasks of what joins machines: nobody awaits them, and none of them ends what all topics share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from asgi_poller.topics.outage import delays

_logger = logging.getLogger("asgi_poller.error")


class Tasks:
    """Owned by the loop that they run on."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it once; an exception is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def keep(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run it until `close`, and again after an exception."""
        self.spawn(_kept(run))

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("Topics: a fault of this server.", exc_info=task.exception())


async def _kept(run: Callable[[], Awaitable[None]]) -> None:
    for delay_s in delays():
        try:
            await run()
        except Exception:
            _logger.exception("Topics: a fault of this server, which goes on.")
        await asyncio.sleep(delay_s)
