"""One snapshot a second to everybody who looks at the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from asgi_poller.asgi.types import Receive, Send

PERIOD_S = 1.0
VIEWERS = 32
FAILED = 1011  # RFC 6455, 7.4.1
TOO_MANY = 1013  # try again later (the registry of RFC 6455, 11.7)


class LiveFeed:
    """Owned by one event loop. `make` makes the text of a snapshot; it is called once a period for
    all viewers together, and not while nobody looks. Where it raises, the viewers are sent away
    (1011); they come again.
    """

    def __init__(
        self, make: Callable[[], str], *, period_s: float = PERIOD_S, viewers: int = VIEWERS
    ) -> None:
        self._make = make
        self._period_s = period_s
        self._limit = viewers
        self._count = 0
        self._ticker: asyncio.Task[None] | None = None
        self._next: asyncio.Future[str | None] | None = None

    @property
    def viewers(self) -> int:
        """How many look now."""
        return self._count

    async def view(self, receive: Receive, send: Send) -> None:
        """Serve one WebSocket until its viewer goes. Who is one too many is told so (1013)."""
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        if self._count >= self._limit:
            await send({"type": "websocket.close", "code": TOO_MANY, "reason": "too many viewers"})
            return
        self._count += 1
        telling = asyncio.ensure_future(self._tell(send))
        try:
            # What a viewer says is read and means nothing: the feed is read-only.
            while (await receive())["type"] != "websocket.disconnect":
                pass
        finally:
            self._count -= 1
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await telling

    async def _tell(self, send: Send) -> None:
        """A viewer who reads slowly misses snapshots, and delays nobody."""
        text = self._made()
        while text is not None:
            await send({"type": "websocket.send", "text": text})
            text = await asyncio.shield(self._following())
        reason = "no snapshot can be made"
        await send({"type": "websocket.close", "code": FAILED, "reason": reason})

    def _made(self) -> str | None:
        try:
            return self._make()
        except Exception:  # whatever it is: /status.json tells, and the log
            return None

    def _following(self) -> asyncio.Future[str | None]:
        """The snapshot that comes next."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.ensure_future(self._tick())
        return self._next

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        while self._count:
            at = max(at + self._period_s, loop.time())  # no hurry after a pause
            await asyncio.sleep(at - loop.time())
            waiting, self._next = self._next, None
            if waiting is not None:
                waiting.set_result(self._made())
