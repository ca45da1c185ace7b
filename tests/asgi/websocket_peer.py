"""A WebSocket session on a fake connection: the peer at one end, the application at the other."""

from __future__ import annotations

import asyncio
from typing import Any

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.turn_output import TurnOutput
from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.asgi.websocket_context import State, WebSocketContext
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.websocket.handshake import check_handshake
from asgi_poller.protocols.websocket.protocol import FrameCache, WebSocketWire
from asgi_poller.protocols.websocket.wsproto_full import WsprotoWebSocketWire
from tests.support.fake_connection import Clock, WebSocketPort, until_idle
from tests.support.frames import ServerFrame, server_frames

ACCEPT: Message = {"type": "websocket.accept"}
MAX_BYTES = 100_000
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
    """A WebSocket, and the other end of it."""

    def __init__(
        self,
        *headers: tuple[bytes, bytes],
        careful: bool = False,
        deflate: str = "off",
        access_log: AccessLog | None = None,
    ) -> None:
        key = (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
        version = (b"sec-websocket-version", b"13")
        head = RequestHead("GET", b"/path", "1.1", [key, version, *headers])
        self.clock = Clock()
        self.wire = WebSocketPort(check_handshake(head), deflate)
        scope = {
            "type": "websocket",
            "http_version": "1.1",
            "path": "/path",
            "query_string": b"a=b",
            "client": ("192.0.2.1", 4321),
        }
        context = WebSocketContext(
            loop=asyncio.get_running_loop(),
            clock=self.clock,
            wire=WsprotoWebSocketWire if careful else WebSocketWire,
            max_bytes=MAX_BYTES,
            max_queue=MAX_QUEUE,
            deflate_threshold=0,
            cache=FrameCache(),
            output=TurnOutput(asyncio.get_running_loop()),
            access_log=access_log,
        )
        self.session = WebSocketSession(scope, self.wire, context)

    async def accepted(self, accept: Message = ACCEPT) -> WebSocketSession:
        """The WebSocket, open; the 101 has been taken."""
        assert await self.session.receive() == {"type": "websocket.connect"}
        await self.session.send(accept)
        assert self.wire.take().startswith(b"HTTP/1.1 101 ")
        return self.session

    def state(self) -> State:
        return self.session.state

    def frames(self) -> list[ServerFrame]:
        """What the peer was sent since the last call."""
        return server_frames(self.wire.take())

    def frames_after_head(self) -> list[ServerFrame]:
        """What the peer was sent behind the 101."""
        head, _, rest = self.wire.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return server_frames(rest)


async def opened(*headers: tuple[bytes, bytes], **options: Any) -> tuple[Peer, WebSocketSession]:
    """A WebSocket that its application has accepted."""
    peer = Peer(*headers, **options)
    return peer, await peer.accepted()


async def gives_nothing_more(session: WebSocketSession) -> bool:
    """Whether receive() waits, though all has happened that can."""
    waiting = asyncio.ensure_future(session.receive())
    await until_idle()
    return waiting.cancel()
