"""Channels on fake connections, as their peers and their applications see them."""

from __future__ import annotations

import asyncio
from typing import Any

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket import Channel
from asgi_poller.asgi.websocket_context import ChannelContext, State
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.websocket.handshake import check_handshake
from asgi_poller.protocols.websocket.protocol import FrameCache, WebSocketWire
from asgi_poller.protocols.websocket.wsproto_full import CarefulWebSocketWire
from tests.fakes import Clock, WebSocketPort
from tests.frames import ServerFrame, server_frames

ACCEPT: Message = {"type": "websocket.accept"}
MAX_OCTETS = 100_000
MAX_QUEUE = 8


def text(message: Any) -> Message:
    return {"type": "websocket.send", "text": message}


def binary(message: Any) -> Message:
    return {"type": "websocket.send", "bytes": message}


def closing(code: int | None = None, reason: str | None = None) -> Message:
    return {"type": "websocket.close", "code": code, "reason": reason}


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


class Peer:
    """A channel, and the other end of it."""

    def __init__(
        self,
        *headers: tuple[bytes, bytes],
        careful: bool = False,
        deflate: str = "off",
        access_log: AccessLog | None = None,
    ) -> None:
        head = RequestHead(
            "GET",
            b"/path",
            "1.1",
            [
                (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
                (b"sec-websocket-version", b"13"),
                *headers,
            ],
        )
        self.clock = Clock()
        self.wire = WebSocketPort(check_handshake(head), deflate)
        scope = {
            "type": "websocket",
            "http_version": "1.1",
            "path": "/path",
            "query_string": b"a=b",
            "client": ("192.0.2.1", 4321),
        }
        context = ChannelContext(
            loop=asyncio.get_running_loop(),
            clock=self.clock,
            wire=CarefulWebSocketWire if careful else WebSocketWire,
            max_octets=MAX_OCTETS,
            max_queue=MAX_QUEUE,
            deflate_threshold=0,
            cache=FrameCache(),
            access_log=access_log,
        )
        self.channel = Channel(scope, self.wire, context)

    async def accepted(self, accept: Message = ACCEPT) -> Channel:
        """The channel, open; the 101 has been taken."""
        assert await self.channel.receive() == {"type": "websocket.connect"}
        await self.channel.send(accept)
        assert self.wire.take().startswith(b"HTTP/1.1 101 ")
        return self.channel

    def state(self) -> State:
        return self.channel.state

    def frames(self) -> list[ServerFrame]:
        """What the peer was sent since the last call."""
        return server_frames(self.wire.take())

    def frames_after_head(self) -> list[ServerFrame]:
        """What the peer was sent behind the 101."""
        head, _, rest = self.wire.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return server_frames(rest)
