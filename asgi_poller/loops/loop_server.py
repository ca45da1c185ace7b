"""The server on one event loop: the application, and the connections that it serves."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.lifespan import Lifespan
from asgi_poller.asgi.message_log import with_message_log
from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.asgi.refusal_log import NO_PROXY_HEADER, note_refusal
from asgi_poller.asgi.scope import Peer
from asgi_poller.asgi.static_files import static_files
from asgi_poller.asgi.types import Application
from asgi_poller.config import Config
from asgi_poller.errors import ProxyProtocolFault
from asgi_poller.loops.accepted_socket import (
    Accepted,
    ListenerInfo,
    adopted_socket,
    client_address,
    server_address,
)
from asgi_poller.loops.after_tls import AfterTls
from asgi_poller.loops.drain import drain, left
from asgi_poller.loops.drain_counts import Drained, Left
from asgi_poller.loops.http_protocol import HttpProtocol
from asgi_poller.loops.loop_meter import LoopMeter
from asgi_poller.loops.preread import Refused, peek, read_proxy_header
from asgi_poller.loops.server_state import ServerState
from asgi_poller.protocols.proxy_protocol import Parsed
from asgi_poller.tls import HTTP2, PLAINTEXT_REFUSAL, TlsContext, is_plaintext
from asgi_poller.topics.loop_topics import MakeLink

if TYPE_CHECKING:
    from asgi_poller.loops.http2_protocol import Http2Protocol

_log = logging.getLogger("asgi_poller.error")

#: A connection for which connection_made has not been called yet: the future that tells when,
#: the coroutine that waits for that, the socket, the protocol.
_Connecting = tuple[Any, Coroutine[Any, Any, Any], socket.socket, HttpProtocol]

_TOO_MANY = "Too many connections from your address"


class LoopServer:
    """Serves connections on the loop it was made in. Everything but `loop` and `closed` belongs to
    that loop's thread. `state` is what its connections share.

    `listeners` are what the indexes in Accepted refer to. The order of a life: `startup`, `adopt`
    as often as needed, `drain`, `shutdown`. `access_log` replaces the one that the configuration
    would give. `link_topics` joins its topics to those of others.
    """

    def __init__(
        self,
        config: Config,
        application: Application,
        listeners: tuple[ListenerInfo, ...],
        *,
        tls: TlsContext | None = None,
        access_log: AccessLog | None = None,
        link_topics: MakeLink | None = None,
    ) -> None:
        self._static = static_files(config)
        if self._static is not None:
            application = self._static.before(application)
        application = with_message_log(application)
        self.state = ServerState(config, application, access_log, link_topics)
        self.loop = self.state.loop
        self._listeners = listeners
        self._lifespan = Lifespan(application, config.lifespan, self.state.context)
        self._tls = tls
        self._tls_timeout_s = config.ssl_handshake_timeout
        self._proxies = TrustedHosts(config.forwarded_allow_ips) if config.proxy_protocol else None
        self._meter: LoopMeter | None = None
        self._connecting: list[_Connecting] = []
        self._arriving: set[asyncio.Task[None]] = set()  # PROXY headers and TLS handshakes

    @property
    def closed(self) -> int:
        """Connections that it has finished with. Any thread."""
        return self.state.closed

    @property
    def requests(self) -> int:
        """Requests and WebSockets that it has begun. Any thread."""
        return self.state.requests

    def count_closed_in(self, cells: memoryview[int], index: int) -> None:
        """Count them in `cells[index]` from now on, where another process can read it. Before the
        first connection.
        """
        self.state.count_closed_in(cells, index)

    def publish_counts_in(self, row: memoryview[int], *, is_first: bool) -> None:
        """Publish in `row` what this loop counts, from now on to its end; `is_first`: of its
        process. Before the first connection, on the loop's thread.
        """
        self._meter = LoopMeter(self.state, row, is_first=is_first)
        self._meter.start()

    async def startup(self) -> None:
        """Run the lifespan's start-up. Raises StartupError."""
        await self._lifespan.startup()
        self.state.scopes.state = self._lifespan.state

    # Connections

    def adopt(self, accepted: Accepted) -> None:
        """Take a connected socket over. The descriptor is this server's from now on."""
        info = self._listeners[accepted.listener]
        self.state.counts.adopted += 1
        sock = adopted_socket(info.family, accepted.fd)
        try:
            if self._proxies is not None:
                self._arrive(self._adopt_proxied(sock, accepted, info, self._proxies))
                return
            try:
                peer = _peer(sock, accepted, info)
            except OSError:  # the peer has closed already
                self._not_adopted(sock, accepted.ticket)
                return
            self._connect(sock, accepted, info, peer)
        except Exception:
            sock.detach()  # it stays the lane's, which closes it: twice would be somebody else's
            raise

    def _arrive(self, arriving: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(arriving)
        self._arriving.add(task)
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.discard(task)
        self.state.note_change()

    def _connect(
        self, sock: socket.socket, accepted: Accepted, info: ListenerInfo, peer: Peer
    ) -> None:
        """Serve `peer` from now on. If it raises, descriptor and ticket stay the caller's."""
        if info.tls and self._tls is not None:
            self._arrive(self._connect_tls(sock, accepted, peer, self._tls))
            return
        connection = self._connection(accepted, peer)
        # What connect_accepted_socket waits for is only that connection_made has been called. A
        # task for that would cost as much as all the rest: the coroutine is driven by hand.
        connecting = self.loop.connect_accepted_socket(  # type: ignore[type-var]  # it has the methods
            lambda: connection, sock
        )
        try:
            made = connecting.send(None)
        except OSError:
            self._not_connected(sock, connection)
            return
        except Exception:
            _log.exception("A connection failed before its request, and is closed.")
            self._not_connected(sock, connection)
            return
        made._asyncio_future_blocking = False
        if not self._connecting:  # one call for all that come in one turn of the loop
            self.loop.call_soon(self._finish_all)
        self._connecting.append((made, connecting, sock, connection))

    def _finish_all(self) -> None:
        """The calls of connection_made that were scheduled before this one have been made."""
        waiting, self._connecting = self._connecting, []
        for each in waiting:
            if each[0].done():
                self._finish(each)
            else:  # a loop that takes another turn for it
                each[0].add_done_callback(functools.partial(self._finish, each))

    def _finish(self, each: _Connecting, _made: object = None) -> None:
        """The future that the coroutine waited for is done: let it run to its end."""
        _, connecting, sock, connection = each
        try:
            connecting.send(None)
        except StopIteration:
            pass  # that is how a coroutine returns
        except (OSError, RuntimeError):  # the transport ended before it began
            self._not_connected(sock, connection)
        except Exception:
            _log.exception("A connection failed before its request, and is closed.")
            self._not_connected(sock, connection)

    def _connection(self, accepted: Accepted, peer: Peer) -> HttpProtocol:
        connection = HttpProtocol(self.state, peer, accepted.data, accepted.parser)
        if accepted.ticket >= 0:
            self.state.hold_ticket(connection, accepted.ticket)
        return connection

    def _secure_connection(
        self, accepted: Accepted, peer: Peer, alpn: str | None
    ) -> HttpProtocol | Http2Protocol:
        if alpn != HTTP2 or self.state.http2_limits is None:
            return self._connection(accepted, peer)
        from asgi_poller.loops.http2_protocol import Http2Protocol

        connection = Http2Protocol(self.state, peer)
        if accepted.ticket >= 0:
            self.state.hold_ticket(connection, accepted.ticket)
        return connection

    async def _connect_tls(
        self, sock: socket.socket, accepted: Accepted, peer: Peer, tls: TlsContext
    ) -> None:
        first, ticket = b"", accepted.ticket
        chosen = AfterTls(lambda alpn: self._secure_connection(accepted, peer, alpn))
        try:
            async with asyncio.timeout(self.state.config.timeout_first_octet):
                first = await peek(self.loop, sock, 1)
            if is_plaintext(first):
                self._note_refusal("400 plain HTTP on a TLS port", peer.client)
                await self._refuse(sock, PLAINTEXT_REFUSAL, ticket)
                return
            await self.loop.connect_accepted_socket(
                lambda: chosen,
                sock,
                ssl=tls.context,
                ssl_handshake_timeout=self._tls_timeout_s,
            )
        except (OSError, ssl.SSLError) as error:  # TimeoutError is an OSError
            self._note_tls(error, peer.client, has_begun=bool(first))
            self._not_connected_tls(sock, chosen, ticket)
        except asyncio.CancelledError:
            self._not_connected_tls(sock, chosen, ticket)
            raise
        except Exception:
            _log.exception("A connection failed before its TLS handshake was done, and is closed.")
            self._not_connected_tls(sock, chosen, ticket)

    def _not_connected_tls(self, sock: socket.socket, chosen: AfterTls, ticket: int) -> None:
        if not chosen.is_made:  # else the connection keeps the books
            self._not_adopted(sock, ticket)

    async def _adopt_proxied(
        self, sock: socket.socket, accepted: Accepted, info: ListenerInfo, proxies: TrustedHosts
    ) -> None:
        """Read the PROXY header that comes before everything else, TLS too."""
        ticket = accepted.ticket
        try:
            peer = _peer(sock, accepted, info)
            if not accepted.data:
                async with asyncio.timeout(self.state.config.timeout_first_octet):
                    await peek(self.loop, sock, 1)
            async with asyncio.timeout(self.state.config.timeout_request_header):
                header, early = await read_proxy_header(
                    self.loop,
                    sock,
                    accepted.data,
                    trusted=(peer.client[0] if peer.client else None) in proxies,
                )
        except (OSError, ProxyProtocolFault) as error:
            if isinstance(error, ProxyProtocolFault):
                self._note_refusal(NO_PROXY_HEADER, accepted.peer, "proxy_protocol")
            _log.debug("a connection is closed before its request: %r", error)
            self._not_adopted(sock, ticket)
            return
        except asyncio.CancelledError:
            self._not_adopted(sock, ticket)
            raise
        except Exception:
            _log.exception("A connection failed before its request, and is closed.")
            self._not_adopted(sock, ticket)
            return
        try:
            if header is None or self._introduce(header, peer, ticket):
                self._connect(sock, accepted._replace(data=early), info, peer)
                return
        except Exception:
            _log.exception("a connection could not be adopted and was closed")
            self._not_adopted(sock, ticket)
            return
        self._note_refusal(f"429 {_TOO_MANY}", peer.client, "connections_per_ip")
        answer = error_response(429, _TOO_MANY)  # RFC 6585, 4
        await self._refuse(sock, b"" if info.tls else answer, ticket)

    def _introduce(self, header: Parsed, peer: Peer, ticket: int) -> bool:
        """The connection is another one's, as its proxy says; whether that one may have it."""
        if header.destination is not None:
            peer.server = header.destination
        if header.tls:
            peer.scheme = "https"
        if header.source is None:
            return True
        peer.client = header.source
        return self.state.identify(ticket, header.source)

    async def _refuse(self, sock: socket.socket, answer: bytes, ticket: int) -> None:
        """Answer on a socket that has no connection, and close it."""

        def lost() -> None:
            self._not_adopted(sock, ticket)

        try:
            await self.loop.connect_accepted_socket(
                lambda: Refused(answer, self.state.wheel, lost), sock
            )
        except OSError:
            lost()
        except Exception:
            _log.exception("A connection failed before its request, and is closed.")
            lost()

    def _note_tls(self, error: OSError, client: Any, *, has_begun: bool) -> None:
        """Who breaks off is not refused: health checks do nothing else, and scanners."""
        is_end = isinstance(error, ssl.SSLEOFError)
        if isinstance(error, ssl.SSLError) and error.reason and not is_end:
            words = error.reason.replace("_", " ").lower()
            self._note_refusal(f"TLS handshake failed: {words}", client, "tls")
        elif has_begun and isinstance(error, TimeoutError):
            self._note_refusal("TLS handshake not done in time", client, "tls")
        else:
            _log.debug("a TLS handshake failed: %r", error)

    def _note_refusal(self, words: str, client: Any, name: str | None = None) -> None:
        """`name` is what it is counted under, None: the status that `words` begin with."""
        note_refusal(words, client)
        self.state.counts.count_refusal(name or words)

    def _not_connected(self, sock: socket.socket, connection: HttpProtocol) -> None:
        self._not_adopted(sock, self.state.release_ticket(connection))

    def _not_adopted(self, sock: socket.socket, ticket: int) -> None:
        sock.close()
        self.state.count_closed(ticket)

    # The end

    @property
    def left(self) -> Left:
        """What a drain waits for. Any thread."""
        return left(self.state, self._arriving)

    async def drain(self, timeout_s: float, spread_s: float = 0.0) -> Drained:
        """End every connection in an orderly way; `drain.py` says how. A second call while the
        first one runs makes the end come sooner.
        """
        return await drain(self.state, self._arriving, timeout_s, spread_s)

    async def shutdown(self) -> bool:
        """Run the lifespan's shutdown; whether it went well."""
        self.state.wheel.stop()
        if self._meter is not None:
            self._meter.finish()
        try:
            return await self._lifespan.shutdown()  # which may still publish
        finally:
            self.state.close_topics()
            if self._static is not None:
                self._static.close()


def _peer(sock: socket.socket, accepted: Accepted, info: ListenerInfo) -> Peer:
    """Both ends of a connection. Raises OSError if the peer has closed."""
    return Peer(
        client_address(sock, info, accepted.peer),
        info.server or server_address(sock),
        "https" if info.tls else "http",
        accepted_at=accepted.accepted_at,
    )
