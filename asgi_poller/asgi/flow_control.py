"""Waiting for a slow peer: what `await send()` stands on (both for exchanges and WebSockets)."""

from __future__ import annotations

import asyncio

from asgi_poller.asgi.types import Loop

#: So often (less one: it is a mask) a send that has nothing to wait for lets the loop run. A
#: transport that fails while it writes tells the loop, and nobody else: an application that only
#: sends would never hear of it, and all others on its loop would wait for ever.
YIELD_MASK = 255


class FlowControl:
    """Open while the transport's buffer is below its high-water mark. Owned by the loop's thread.

    Made when a transport first pauses: a connection that never meets a slow peer has none.
    """

    __slots__ = ("_loop", "_waiters", "is_writable")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []
        self.is_writable = True

    def pause(self) -> None:
        self.is_writable = False

    def resume(self) -> None:
        """Let everybody through, also when the connection is lost: they will see that for
        themselves.
        """
        self.is_writable = True
        waiters = self._waiters[:]
        self._waiters.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def drain(self) -> None:
        while not self.is_writable:
            await wait_in(self._waiters, self._loop)


async def wait_in(waiters: list[asyncio.Future[None]], loop: Loop) -> None:
    """Wait until somebody sets a future of `waiters`, which is left when the wait is cancelled: an
    application may begin one and cancel it many times on one connection.
    """
    waiter = loop.create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter in waiters:
            waiters.remove(waiter)
        raise
