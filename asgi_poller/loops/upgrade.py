"""From HTTP/1.1 to a WebSocket (RFC 6455, 4.2): the transport goes from one protocol to another."""

from __future__ import annotations

import asyncio

from asgi_poller.asgi.scope import Peer
from asgi_poller.asgi.websocket import Channel
from asgi_poller.loops.server_state import Connection, Services
from asgi_poller.loops.websocket_protocol import ChannelConnection
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.websocket.handshake import check_handshake


def upgrade(
    core: Services,
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
    core.admit_channel(old, head)
    scope = core.scopes.websocket(head, peer, handshake.subprotocols)
    connection = ChannelConnection(transport, core, handshake)
    channel = Channel(scope, connection, core.channel_context)
    core.connection_changed(old, connection)
    connection.start(channel)
    transport.set_protocol(connection)
    if is_choked:
        channel.block_writing()
    core.run(channel)
    if leftover:
        channel.inbox.feed(leftover)
    if is_draining:
        connection.shutdown()
