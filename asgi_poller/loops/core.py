"""A core: one event loop, the application on it, and the connections that it serves."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.channel_context import ChannelContext
from asgi_poller.asgi.exchange import ExchangeContext
from asgi_poller.asgi.forwarded import ProxyHeaders, TrustedHosts
from asgi_poller.asgi.lifespan import Lifespan
from asgi_poller.asgi.scope import Address, Peer, ScopeMaker
from asgi_poller.asgi.types import Application
from asgi_poller.config import Config
from asgi_poller.loops.accepted import Accepted, ListenerInfo
from asgi_poller.loops.default_fields import DefaultFields
from asgi_poller.loops.http_connection import HttpConnection
from asgi_poller.loops.settings import channel_settings, connection_settings
from asgi_poller.loops.timers import TimerWheel
from asgi_poller.tls import TlsContext
from asgi_poller.wire.websocket import CarefulWebSocketWire, FrameCache, WebSocketWire

_log = logging.getLogger("asgi_poller.error")


class Connection(Protocol):
    """What a core knows of its connections."""

    def shutdown(self) -> None:
        """End in an orderly way: finish what is under way, begin nothing."""

    def abort(self) -> None:
        """End now."""


class Runnable(Protocol):
    """An exchange or a channel."""

    async def run(self, application: Application) -> None: ...


class Core:
    """Serves connections on the loop it was made in. Everything but `loop` and `closed` belongs to
    that loop's thread.

    `listeners` are what the indexes in Accepted refer to. The order of a life: `startup`, `adopt`
    as often as needed, `drain`, `shutdown`.
    """

    def __init__(
        self,
        config: Config,
        application: Application,
        listeners: tuple[ListenerInfo, ...],
        *,
        tls: TlsContext | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = 0  # connections that this core has finished with; other threads read it
        self.requests = 0  # requests and WebSockets begun
        self.wheel = TimerWheel(self.loop)
        self.connection_settings = connection_settings(config)
        self.channel_settings = channel_settings(config)
        self.scopes = ScopeMaker(root_path=config.root_path, forwarding=_forwarding(config))
        fields = DefaultFields(
            server=b"asgi-poller" if config.server_header else None,
            date=config.date_header,
            headers=config.headers,
        )
        access_log = _access_log(config)
        self.exchange_context = ExchangeContext(
            self.loop, fields, access_log, config.limit_request_body
        )
        self.channel_context = ChannelContext(
            loop=self.loop,
            clock=self.loop.time,
            wire=CarefulWebSocketWire if config.ws == "wsproto" else WebSocketWire,
            max_octets=config.ws_max_size,
            max_queue=config.ws_max_queue,
            deflate=config.ws_per_message_deflate,
            deflate_threshold=config.ws_deflate_threshold,
            default_fields=fields,
            cache=FrameCache(),
            access_log=access_log,
        )
        self._application = application
        self._listeners = listeners
        self._lifespan = Lifespan(application, config.lifespan)
        self._tls = tls
        self._tls_timeout_s = config.ssl_handshake_timeout
        self._has_fresh_context = config.reset_contextvars
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._request_limit: int | None = None
        self._limit_reached: Callable[[], None] | None = None
        self._is_draining = False
        self._changed: asyncio.Event | None = None  # while draining: something has ended

    def limit_requests(self, limit: int, reached: Callable[[], None]) -> None:
        """Call `reached` with every request or WebSocket from the `limit`th on."""
        self._request_limit = limit
        self._limit_reached = reached

    async def startup(self) -> None:
        """Run the lifespan's start-up. Raises StartupError."""
        await self._lifespan.startup()
        self.scopes.state = self._lifespan.state

    # Connections

    def adopt(self, accepted: Accepted) -> None:
        """Take a connected socket over. The descriptor is this core's from now on."""
        info = self._listeners[accepted.listener]
        sock = socket.socket(info.family, socket.SOCK_STREAM, 0, accepted.fd)
        self._hold(self.loop.create_task(self._connect(sock, info, accepted)))

    async def _connect(self, sock: socket.socket, info: ListenerInfo, accepted: Accepted) -> None:
        try:
            peer = Peer(
                _client(sock, info, accepted.peer),
                info.server or _server(sock, info),
                "https" if info.tls else "http",
            )
            connection = HttpConnection(self, peer)
            if info.tls and self._tls is not None:
                await self.loop.connect_accepted_socket(
                    lambda: connection,
                    sock,
                    ssl=self._tls.context,
                    ssl_handshake_timeout=self._tls_timeout_s,
                )
            else:
                await self.loop.connect_accepted_socket(lambda: connection, sock)
        except (OSError, ssl.SSLError) as error:
            # the peer went before it was served, or its TLS handshake failed: its own affair
            _log.debug("a connection ended before it began: %r", error)
            sock.close()
            self.closed += 1
            return
        if accepted.data:
            connection.data_received(accepted.data)

    def connection_made(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._is_draining:
            connection.shutdown()

    def connection_changed(self, old: Connection, new: Connection) -> None:
        """An upgrade: the same socket in other hands."""
        self._connections.discard(old)
        self._connections.add(new)

    def connection_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.closed += 1
        if self._changed is not None:
            self._changed.set()

    def is_overloaded(self) -> bool:
        """Whether --limit-concurrency is reached: then requests are answered 503, as uvicorn does."""
        limit = self.connection_settings.concurrency_limit
        return limit is not None and (len(self._connections) > limit or len(self._tasks) >= limit)

    def tls_extension(self, tls: ssl.SSLObject) -> dict[str, Any] | None:
        """The ASGI `tls` extension of one connection."""
        return None

    def run(self, runnable: Runnable) -> None:
        """Run the application for an exchange or a channel."""
        self.requests += 1
        if self._limit_reached is not None and self.requests >= (self._request_limit or 0):
            self._limit_reached()
        run = runnable.run(self._application)
        if self._has_fresh_context:
            task = self.loop.create_task(run, context=contextvars.Context())
        else:
            task = self.loop.create_task(run)
        self._hold(task)

    def _hold(self, task: asyncio.Task[None]) -> None:
        # the loop itself holds tasks weakly: one that waits for something of its own could vanish
        self._tasks.add(task)
        task.add_done_callback(self._release)

    def _release(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._changed is not None:
            self._changed.set()

    # The end

    async def drain(self, timeout_s: float) -> bool:
        """End every connection in an orderly way; what has not ended after `timeout_s` seconds is
        cut off.

        Idle connections close, requests finish, channels get 1012 and their closing handshake. True
        if nothing had to be cut off. Cancelling it cuts everything off at once.
        """
        self._is_draining = True
        self._changed = asyncio.Event()
        for connection in list(self._connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(timeout_s):
                while self._connections or self._tasks:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            _log.warning(
                "Graceful shutdown took longer than %g s: %d connections and %d tasks are cut off.",
                timeout_s,
                len(self._connections),
                len(self._tasks),
            )
            return False
        finally:
            await self._cut_off()
        return True

    async def _cut_off(self) -> None:
        for connection in list(self._connections):
            connection.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel("the server is shutting down")
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def shutdown(self) -> bool:
        """Run the lifespan's shutdown; whether it went well."""
        self.wheel.stop()
        return await self._lifespan.shutdown()


def _access_log(config: Config) -> AccessLog | None:
    logger = logging.getLogger("asgi_poller.access")
    return AccessLog(logger) if config.access_log and logger.isEnabledFor(logging.INFO) else None


def _forwarding(config: Config) -> ProxyHeaders | None:
    if not config.proxy_headers:
        return None
    return ProxyHeaders(TrustedHosts(config.forwarded_allow_ips))


def _client(sock: socket.socket, info: ListenerInfo, peer: Any) -> Address | None:
    if info.family == getattr(socket, "AF_UNIX", None):
        return None
    if peer is None:
        peer = sock.getpeername()
    return peer[0], peer[1]


def _server(sock: socket.socket, info: ListenerInfo) -> Address | None:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return name[0], name[1]
    return (name, None) if name else None
