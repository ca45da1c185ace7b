"""What the connections of one event loop share: its timer wheel, settings, limits and counts.

The loop's server (`loop_server.py`) has one; what it does beyond that, connections do not see.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableSequence
from types import CoroutineType
from typing import Any, Protocol

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.detailed_log import access_log_for
from asgi_poller.asgi.http_context import HttpContext
from asgi_poller.asgi.proxy_headers import ProxyHeaders, TrustedHosts
from asgi_poller.asgi.scope import Peer, ScopeMaker
from asgi_poller.asgi.tls_extension import tls_extension
from asgi_poller.asgi.turn_output import TurnOutput
from asgi_poller.asgi.types import Application, Message
from asgi_poller.asgi.websocket_context import WebSocketContext
from asgi_poller.config import Config
from asgi_poller.errors import EXIT_NOTE, HttpFault
from asgi_poller.loops.default_headers import DefaultHeaders
from asgi_poller.loops.drain_counts import DrainCounts
from asgi_poller.loops.http2_limits import http2_limits
from asgi_poller.loops.request_filter import head_limits, request_filter
from asgi_poller.loops.timer_wheel import TimerWheel
from asgi_poller.loops.websocket_timeouts import WebSocketTicks
from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.http1.parser import RequestHead, RequestParser
from asgi_poller.protocols.websocket.protocol import FrameCache, WebSocketWire
from asgi_poller.protocols.websocket.wsproto_full import WsprotoWebSocketWire
from asgi_poller.topics.current import enter, leave
from asgi_poller.topics.local_link import LocalHub
from asgi_poller.topics.loop_topics import LoopTopics, MakeLink


class Connection(Protocol):
    """What a loop server knows of its connections."""

    @property
    def is_websocket(self) -> bool:
        """Whether it is a WebSocket: its client notices the end and reconnects."""

    def shutdown(self) -> None:
        """End in an orderly way: finish what is under way and what is on its way, begin nothing."""

    def abort(self) -> None:
        """End now."""


class ConnectionCounter(Protocol):
    """Those who count connections, where there are limits. Any thread."""

    def end(self, ticket: int, /) -> object:
        """The connection has ended. Once for each ticket."""

    def open_websocket(self, ticket: int, /) -> bool:
        """Whether the connection may become a WebSocket; counted from then on. Idempotent."""

    def begin_stream(self) -> bool:
        """Whether a stream of HTTP/2 may become a WebSocket, as one of many of its connection;
        counted from then on.
        """

    def end_stream(self) -> object:
        """Such a WebSocket has ended. Once for each."""

    def identify(self, ticket: int, peer: Any, /) -> bool:
        """The connection is really `peer`'s; whether that one may have one more."""


class Conversation(Protocol):
    """An exchange or a WebSocket: what the application is called for."""

    @property
    def scope(self) -> dict[str, Any]: ...

    async def receive(self) -> Message: ...

    async def send(self, message: Message, /) -> None: ...

    def application_ended(self, error: BaseException | None) -> None:
        """The application's call is over."""


class ServerState:
    """Made on a running loop. Everything but `loop`, `closed` and `requests` is for that loop's
    thread alone.
    """

    def __init__(
        self,
        config: Config,
        application: Application,
        access_log: AccessLog | None = None,
        link_topics: MakeLink | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.counts = counts = LoopCounts()
        self._closed_in: MutableSequence[int] | memoryview[int] = [0]
        self._closed_at = 0
        self.requests = 0  # requests and WebSockets begun
        self.wheel = TimerWheel(self.loop)
        self.output = TurnOutput(self.loop, most_bytes=config.ws_send_limit)
        self.config = config
        self._head_limits = head_limits(config)
        self._has_websockets = config.ws != "none"
        #: What HTTP/2 connections are held to; None where HTTP/2 is not spoken.
        self.http2_limits = http2_limits(config)
        self.first_octet_ticks = self.wheel.ticks(config.timeout_first_octet)
        self.keep_alive_ticks = self.wheel.ticks(config.timeout_keep_alive)
        self.websocket_ticks = WebSocketTicks(config)
        self.scopes = _scope_maker(config)
        self.default_headers = _default_headers(config)
        access_log = access_log or _access_log(config)
        self.http_context = _http_context(self.loop, access_log, config, counts)
        self.deflate = config.ws_per_message_deflate
        cache = FrameCache(counts)
        self.topics = LoopTopics(
            link_topics or LocalHub.of(config).link,
            max_bytes=config.ws_max_size,
            deflate_threshold=config.ws_deflate_threshold,
            cache=cache,
            counts=counts,
        )
        self.websocket_context = self._websocket_context(access_log, cache)
        self.rules = request_filter(config)
        # one look for each request, where most servers have nothing to look for
        self.is_guarded = config.limit_concurrency is not None or bool(self.rules)
        self._guards_websockets = self.is_guarded or self.rules.origins is not None
        self.websocket_share: int | None = None  # of --limit-channels, where nobody counts them all
        self._application = application
        # each request and WebSocket runs in a copy of it, and sees nothing that another one has set
        self.context = contextvars.copy_context()
        self._base_context = contextvars.Context() if config.reset_contextvars else self.context
        enter(self.topics, self.context, self._base_context)
        self._counter: ConnectionCounter | None = None
        self._tickets: dict[Connection, int] = {}  # of those that a limit counts
        self._websocket_count = self.stream_count = 0  # the latter: those over HTTP/2
        self.connections: set[Connection] = set()
        self.conversations: dict[asyncio.Task[None], Conversation] = {}
        self._release = self._ended  # one bound method for all tasks
        self._request_limit: int | None = None
        self._limit_reached: Callable[[], None] | None = None
        self._is_draining = False
        self._changed: asyncio.Event | None = None  # while draining: something has ended
        self.drained = DrainCounts()

    def _websocket_context(
        self, access_log: AccessLog | None, cache: FrameCache
    ) -> WebSocketContext:
        config = self.config
        return WebSocketContext(
            loop=self.loop,
            clock=self.loop.time,
            wire=WsprotoWebSocketWire if config.ws == "wsproto" else WebSocketWire,
            max_bytes=config.ws_max_size,
            max_queue=config.ws_max_queue,
            deflate_threshold=config.ws_deflate_threshold,
            cache=cache,
            output=self.output,
            access_log=access_log,
            counts=self.counts,
            topics=self.topics,
        )

    def request_parser(self) -> RequestParser:
        """For a new connection."""
        return RequestParser(self._head_limits, websockets=self._has_websockets)

    @property
    def closed(self) -> int:
        """Connections that this loop has finished with. Any thread."""
        return self._closed_in[self._closed_at]

    def count_closed_in(self, cells: memoryview[int], index: int) -> None:
        """Count them in `cells[index]` from now on, where another process can read it. Before the
        first connection.
        """
        self._closed_in, self._closed_at = cells, index

    def use_counter(self, counter: ConnectionCounter) -> None:
        """Tell `counter` of the tickets' ends from now on. Before the first connection."""
        self._counter = counter

    def limit_requests(self, limit: int, reached: Callable[[], None]) -> None:
        """Call `reached` with every request or WebSocket from the `limit`th on."""
        self._request_limit = limit
        self._limit_reached = reached

    def connection_made(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self._is_draining:
            connection.shutdown()

    def connection_changed(self, old: Connection, new: Connection) -> None:
        """An upgrade to a WebSocket: the same socket in other hands."""
        self._websocket_count += 1
        self.connection_replaced(old, new)

    def connection_replaced(self, old: Connection, new: Connection) -> None:
        """The same socket in other hands."""
        self.connections.discard(old)
        self.connections.add(new)
        if self._tickets and old in self._tickets:
            self._tickets[new] = self._tickets.pop(old)

    def connection_lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._closed_in[self._closed_at] += 1
        self._websocket_count -= connection.is_websocket
        if self._tickets:
            self._end_ticket(self._tickets.pop(connection, -1))
        if self._changed is not None:
            self._changed.set()

    def websocket_made(self, websocket: Connection) -> None:
        """A stream of HTTP/2 has become a WebSocket: it ends with `websocket_lost`."""
        self._websocket_count += 1
        self.stream_count += 1
        self.connection_made(websocket)

    def websocket_lost(self, websocket: Connection) -> None:
        """That WebSocket has ended; its socket has not."""
        self.connections.discard(websocket)
        self._websocket_count -= 1
        self.stream_count -= 1
        if self._counter is not None:
            self._counter.end_stream()
        self.note_change()

    # What limits count

    def hold_ticket(self, connection: Connection, ticket: int) -> None:
        """`ticket` is ended with the connection."""
        self._tickets[connection] = ticket

    def ticket_holders(self) -> Iterator[Connection]:
        """Those that hold one, the oldest first (a WebSocket's age counts from its upgrade)."""
        return iter(self._tickets)

    def release_ticket(self, connection: Connection) -> int:
        """The connection does not come to be: its ticket, or -1."""
        return self._tickets.pop(connection, -1)

    def count_closed(self, ticket: int) -> None:
        """A socket was closed before it became a connection."""
        self._closed_in[self._closed_at] += 1
        self._end_ticket(ticket)

    def identify(self, ticket: int, peer: Any) -> bool:
        """The connection is really `peer`'s; whether that one may have one more."""
        return ticket < 0 or self._counter is None or self._counter.identify(ticket, peer)

    def _end_ticket(self, ticket: int) -> None:
        if ticket >= 0 and self._counter is not None:
            self._counter.end(ticket)

    # The end

    def close_topics(self) -> None:
        """Nothing is published or delivered any more."""
        self.topics.close()
        leave(self.topics)

    def begin_drain(self) -> asyncio.Event:
        """No connection begins anything from now on. The event is set whenever something ends."""
        self._is_draining = True
        self.topics.begin_end()
        self._changed = self._changed or asyncio.Event()
        return self._changed

    def note_change(self) -> None:
        """Something has ended that a drain waits for."""
        if self._changed is not None:
            self._changed.set()

    def objection(self, head: RequestHead) -> HttpFault | None:
        """Why a request is not to be served, if it is not."""
        if self.is_overloaded():
            return HttpFault(503, "Service Unavailable")
        try:
            self.rules.check(head)
        except HttpFault as fault:
            return fault
        return None

    def admit_websocket(self, connection: Connection, head: RequestHead) -> None:
        """Raises HttpFault for a WebSocket handshake that is not to be served."""
        self._check_websocket(head)
        if self._counter is not None:
            ticket = self._tickets.get(connection, -1)
            if not self._counter.open_websocket(ticket):
                raise _too_many_websockets()

    def admit_stream(self, head: RequestHead) -> None:
        """The same for a stream of HTTP/2. `websocket_made` is to follow."""
        self._check_websocket(head)
        if self._counter is not None and not self._counter.begin_stream():
            raise _too_many_websockets()

    def _check_websocket(self, head: RequestHead) -> None:
        if self._guards_websockets:
            if self.is_overloaded():
                raise HttpFault(503, "Service Unavailable")
            self.rules.check_websocket(head)
        share = self.websocket_share
        if share is not None and self._websocket_count >= share:
            raise _too_many_websockets()

    def is_overloaded(self) -> bool:
        """Whether --limit-concurrency is reached: requests are then answered 503, as in uvicorn."""
        # connections that are idle or have sent half a request are no load (in uvicorn they are,
        # so that a few of them keep everybody out)
        limit = self.config.limit_concurrency
        return limit is not None and len(self.conversations) >= limit

    def note_tls(self, peer: Peer, transport: asyncio.BaseTransport) -> None:
        """Give `peer` the ASGI `tls` extension, if its transport speaks TLS."""
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            peer.tls = dict(tls_extension(tls))

    def run(self, conversation: Conversation) -> asyncio.Task[None] | None:
        """Call the application for an exchange or a WebSocket, in a task of its own; None if the
        call has failed at once.

        The task is the application's coroutine itself: a wrapper around it would cost each
        WebSocket a coroutine, and each message a step through it.
        """
        self.requests += 1
        self.output.expected += 1
        if self._limit_reached is not None and self.requests >= (self._request_limit or 0):
            self._limit_reached()
        context = self._base_context.copy()
        try:
            call = context.run(
                self._application, conversation.scope, conversation.receive, conversation.send
            )
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            conversation.application_ended(error)
            return None
        coroutine = call if type(call) is CoroutineType else _awaited(call)
        task = self.loop.create_task(coroutine, context=context)
        # the loop itself holds tasks weakly: one that waits for something of its own could vanish
        self.conversations[task] = conversation
        # in its own context: no copy of another one is kept for it, and what is logged about its
        # end sees the context variables that the application has set
        task.add_done_callback(self._release, context=context)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        conversation = self.conversations.pop(task)
        try:
            if not task.cancelled():
                error = task.exception()
                if error is not None:
                    _note_exits(error)
                conversation.application_ended(error)
            elif (
                not self._is_draining
            ):  # else cut off at the end: its connection is aborted already
                error = asyncio.CancelledError("the application was cancelled")
                conversation.application_ended(error)
        finally:  # whatever happens here, a stop must not wait for what has ended
            if self._changed is not None:
                self._changed.set()


def _too_many_websockets() -> HttpFault:
    return HttpFault(503, "Too many WebSockets", name="websockets")


def _note_exits(error: BaseException) -> None:
    """Also of those that a task group has gathered."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _note_exits(each)
    elif isinstance(error, SystemExit | KeyboardInterrupt):
        error.add_note(EXIT_NOTE)


async def _awaited(call: Awaitable[None]) -> None:
    """For applications that return an awaitable which is no coroutine."""
    await call


def _access_log(config: Config) -> AccessLog | None:
    logger = logging.getLogger("asgi_poller.access")
    if not (config.access_log and logger.isEnabledFor(logging.INFO)):
        return None
    return access_log_for(logger)


def _http_context(
    loop: asyncio.AbstractEventLoop,
    access_log: AccessLog | None,
    config: Config,
    counts: LoopCounts,
) -> HttpContext:
    body_limit = config.limit_request_body
    measure = None if access_log is None else access_log.measure
    if measure is not None and body_limit is None:
        body_limit = sys.maxsize  # so that what is read is counted
    return HttpContext(loop, access_log, body_limit, counts, measure=measure)


def _default_headers(config: Config) -> DefaultHeaders:
    return DefaultHeaders(
        server=b"asgi-poller" if config.server_header else None,
        date=config.date_header,
        headers=config.headers,
    )


def _scope_maker(config: Config) -> ScopeMaker:
    trusted = None if config.underscores_in_headers else TrustedHosts(config.forwarded_allow_ips)
    return ScopeMaker(
        root_path=config.root_path,
        trusted=trusted,
        forwarding=_forwarding(config),
        id_proxies=_id_proxies(config),
    )


def _id_proxies(config: Config) -> TrustedHosts | None:
    if not config.request_id:
        return None
    return TrustedHosts(config.forwarded_allow_ips if config.proxy_headers else "")


def _forwarding(config: Config) -> ProxyHeaders | None:
    if not config.proxy_headers:
        return None
    return ProxyHeaders(TrustedHosts(config.forwarded_allow_ips))
