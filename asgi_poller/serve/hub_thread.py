"""The hub of topics in the only process of a server with `--topics`: a thread with a loop of its
own, so that what comes from other machines is read whatever the application does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.serve.runner import run_loop
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.hub_link import HubLink
from asgi_poller.topics.hub_server import HubServer
from asgi_poller.topics.links import Receiver
from asgi_poller.topics.upstreams import upstream_of

_logger = logging.getLogger("asgi_poller.error")

#: Seconds for its end, beyond what the hub takes to say the last to its loops.
_END_S: Final = 5.0


class HubThread:
    """Made, started and stopped by the thread of the server; links are made by any."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: HubServer | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="Topics", daemon=True)

    async def start(self) -> None:
        """Begin to connect. Raises ConfigError."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    def link(self, receiver: Receiver) -> HubLink:
        """For the running loop."""
        return HubLink(self.connect, receiver)

    def connect(self) -> socket.socket:
        """Our end of a new link. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        try:
            self._call(self._add, theirs)
        except RuntimeError:
            ours.close()
            theirs.close()
            raise ConnectionError("the hub has ended") from None
        return ours

    def stop(self) -> None:
        """The loops that it joins have ended. Idempotent."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._call(self._end, None)
            self._thread.join(_END_S)

    def _call(self, call: Callable[[Any], object], argument: Any) -> None:
        if self._loop is None:
            raise RuntimeError("not started")
        self._loop.call_soon_threadsafe(call, argument)

    def _add(self, sock: socket.socket) -> None:
        assert self._server is not None
        self._server.add(sock)

    def _end(self, _: None) -> None:
        assert self._ended is not None
        self._ended.set()

    def _run(self) -> None:
        platform.name_thread()
        try:
            run_loop(self._main(), loop_factory(self._config.loop))
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        rules = HistoryRules.parsed(self._config.topics_history)
        self._server = HubServer(rules, upstream_of(self._config))
        await self._server.start()
        self._started.set_result(None)
        await self._ended.wait()
        await self._server.close()
