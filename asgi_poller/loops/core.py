"""A core: one event loop, the application on it, and the connections that it serves."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.lifespan import Lifespan
from asgi_poller.asgi.scope import Peer
from asgi_poller.asgi.types import Application
from asgi_poller.config import Config
from asgi_poller.loops.accepted import Accepted, ListenerInfo
from asgi_poller.loops.adopted_socket import adopted_socket, client_address, server_address
from asgi_poller.loops.http_connection import HttpConnection
from asgi_poller.loops.services import Connection, Services
from asgi_poller.tls import TlsContext

_log = logging.getLogger("asgi_poller.error")

_SPREAD_STEP_S = 0.02  # while draining: how often it is somebody's turn, at most


class Core(Services):
    """Serves connections on the loop it was made in. Everything but `loop` and `closed` belongs to
    that loop's thread.

    `listeners` are what the indexes in Accepted refer to. The order of a life: `startup`, `adopt`
    as often as needed, `drain`, `shutdown`. `access_log` replaces the one that the configuration
    would give.
    """

    def __init__(
        self,
        config: Config,
        application: Application,
        listeners: tuple[ListenerInfo, ...],
        *,
        tls: TlsContext | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        super().__init__(config, application, access_log)
        self._listeners = listeners
        self._lifespan = Lifespan(application, config.lifespan)
        self._tls = tls
        self._tls_timeout_s = config.ssl_handshake_timeout
        self._handshakes: set[asyncio.Task[None]] = set()

    async def startup(self) -> None:
        """Run the lifespan's start-up. Raises StartupError."""
        await self._lifespan.startup()
        self.scopes.state = self._lifespan.state

    # Connections

    def adopt(self, accepted: Accepted) -> None:
        """Take a connected socket over. The descriptor is this core's from now on."""
        info = self._listeners[accepted.listener]
        sock = adopted_socket(info.family, accepted.fd)
        try:
            peer = Peer(
                client_address(sock, info, accepted.peer),
                info.server or server_address(sock),
                "https" if info.tls else "http",
            )
        except OSError:  # the peer has gone before anybody looked
            self._not_adopted(sock)
            return
        try:
            connection = HttpConnection(self, peer, accepted.data)
        except Exception:
            sock.detach()  # it stays the lane's, which closes it: twice would be somebody else's
            raise
        if info.tls and self._tls is not None:
            handshake = self.loop.create_task(self._connect_tls(sock, connection, self._tls))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)
            return
        # What connect_accepted_socket waits for is only that connection_made has been called. A
        # task for that would cost as much as all the rest: the coroutine is driven by hand.
        connecting = self.loop.connect_accepted_socket(lambda: connection, sock)
        try:
            made = connecting.send(None)
        except OSError:
            self._not_adopted(sock)
            return
        made._asyncio_future_blocking = False
        made.add_done_callback(functools.partial(self._finish, connecting, sock))

    def _finish(self, connecting: Coroutine[Any, Any, Any], sock: socket.socket, made: Any) -> None:
        """The future that `connecting` waited for is done: let it run to its end."""
        try:
            connecting.send(None)
        except StopIteration:
            pass  # that is how a coroutine returns
        except (OSError, RuntimeError):  # the transport ended before it began
            self._not_adopted(sock)

    async def _connect_tls(
        self, sock: socket.socket, connection: HttpConnection, tls: TlsContext
    ) -> None:
        try:
            await self.loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=tls.context,
                ssl_handshake_timeout=self._tls_timeout_s,
            )
        except (OSError, ssl.SSLError) as error:
            _log.debug("a TLS handshake failed: %r", error)
            self._not_adopted(sock)

    def _not_adopted(self, sock: socket.socket) -> None:
        sock.close()
        self._closed_in[self._closed_at] += 1

    # The end

    async def drain(self, timeout_s: float, spread_s: float = 0.0) -> bool:
        """End every connection in an orderly way; what has not ended after `timeout_s` seconds is
        cut off.

        Idle connections close, requests finish, channels get 1012 and their closing handshake: with
        `spread_s`, evenly over so many seconds, which come on top of `timeout_s`. True if nothing
        had to be cut off. Cancelling it cuts everything off at once. A second call while the first
        one runs makes the end come sooner.
        """
        self._is_draining = True
        self._changed = self._changed or asyncio.Event()
        late = []
        for connection in list(self._connections):
            if spread_s > 0 and connection.is_channel:
                late.append(connection)
            else:
                connection.shutdown()
        try:
            async with asyncio.timeout(spread_s + timeout_s):
                await self._shut_down_evenly(late, spread_s)
                while self._connections or self._conversations:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            _log.warning(
                "Graceful shutdown took longer than %g s: %d connections and %d tasks are cut off.",
                timeout_s,
                len(self._connections),
                len(self._conversations),
            )
            return False
        finally:
            await self._cut_off()
        return True

    async def _shut_down_evenly(self, connections: list[Connection], spread_s: float) -> None:
        """The first at once, the last `spread_s` seconds later."""
        start = self.loop.time()
        count = len(connections)
        done = 0
        while connections:
            due = min(count, int((self.loop.time() - start) / spread_s * count) + 1)
            while done < due:
                connections.pop().shutdown()  # does nothing for one that has ended meanwhile
                done += 1
            if connections:
                await asyncio.sleep(max(_SPREAD_STEP_S, spread_s / count))

    async def _cut_off(self) -> None:
        for connection in list(self._connections):
            connection.abort()
        tasks = [*self._conversations, *self._handshakes]
        for task in tasks:
            task.cancel("the server is shutting down")
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def shutdown(self) -> bool:
        """Run the lifespan's shutdown; whether it went well."""
        self.wheel.stop()
        return await self._lifespan.shutdown()
