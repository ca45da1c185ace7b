"""From HTTP/1.1 to a WebSocket (RFC 6455, 4.2): the transport goes from one protocol to another."""

from __future__ import annotations

import asyncio

from asgi_poller.asgi.scope import Peer
from asgi_poller.asgi.topics_port import SESSION
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.loops.server_state import Connection, ServerState
from asgi_poller.loops.websocket_protocol import WebSocketProtocol
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.websocket.handshake import check_handshake


def upgrade(
    server: ServerState,
    head: RequestHead,
    *,
    old: Connection,
    peer: Peer,
    transport: asyncio.Transport,
    is_choked: bool,
    leftover: bytes,
    is_draining: bool,
) -> None:
    """Serve the WebSocket that `head` asks for. `leftover` are the octets behind the handshake.

    Raises HttpFault, and changes nothing, for a handshake that is not valid or not to be served.
    """
    handshake = check_handshake(head)
    server.admit_websocket(old, head)
    scope = server.scopes.websocket(head, peer, handshake.subprotocols)
    handshake.accepted_at = peer.accepted_at
    if server.scopes.id_proxies is not None:
        handshake.request_id = head.request_id
    connection = WebSocketProtocol(transport, server, handshake)
    session = WebSocketSession(scope, connection, server.websocket_context)
    scope[SESSION] = session
    server.connection_changed(old, connection)
    connection.start(session)
    transport.set_protocol(connection)  # type: ignore[arg-type]  # it has the methods
    if is_choked:
        session.block_writing()
    server.run(session)
    if leftover:
        session.received.feed(leftover)
    if is_draining:
        connection.shutdown()
