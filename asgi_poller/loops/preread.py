"""What may come first on a fresh socket, before its transport is made: a PROXY header, or plain
text where TLS belongs.

The socket is read directly, and no further than the preamble goes: TLS must find its own first
octet, and the transport takes the rest. Owned by the loop's thread.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from asgi_poller.errors import ProxyProtocolFault
from asgi_poller.loops.lingering_close import LingeringClose
from asgi_poller.loops.timer_wheel import TimerWheel
from asgi_poller.protocols.proxy_protocol import (
    V1_SIGNATURE,
    V2_LIMIT_BYTES,
    V2_SIGNATURE,
    Parsed,
    parse,
)


async def peek(loop: asyncio.AbstractEventLoop, sock: socket.socket, octets: int) -> bytes:
    """What waits on `sock`, up to `octets`, left there; waits for the first. b"" at the end.

    Raises OSError if the connection has broken.
    """
    while True:
        try:
            return sock.recv(octets, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(loop, sock)


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    readable: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock.fileno(), on_readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock.fileno())


async def read_proxy_header(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, early: bytes, *, trusted: bool
) -> tuple[Parsed | None, bytes]:
    """The PROXY header at the start of a connection, and what was read beyond it.

    `early` has been read from `sock` already. A trusted peer must send a header. One that is not
    gets None, and ProxyProtocolFault if it begins to send one. Raises ProxyProtocolFault, OSError.
    """
    data = early
    while True:
        parsed = _parse(data, trusted=trusted)
        if parsed is not None:
            return parsed, data[parsed.consumed_bytes :]
        if not trusted and not _may_become_header(data):
            return None, data
        piece = await peek(loop, sock, V2_LIMIT_BYTES)
        if not piece:
            raise ProxyProtocolFault("the connection ended before its PROXY header did")
        whole = data + piece
        parsed = _parse(whole, trusted=trusted)
        if parsed is not None:
            sock.recv(parsed.consumed_bytes - len(data))
            return parsed, b""
        if not trusted and not _may_become_header(whole):
            return None, data  # `piece` stays where it is
        # a proper prefix of a header, all of it: read, so that waiting is for more than this
        data += sock.recv(len(piece))


def _may_become_header(data: bytes) -> bool:
    return V1_SIGNATURE.startswith(data) or V2_SIGNATURE.startswith(data)


def _parse(data: bytes, *, trusted: bool) -> Parsed | None:
    if trusted:
        return parse(data)
    if data.startswith((V1_SIGNATURE, V2_SIGNATURE)):
        raise ProxyProtocolFault("a PROXY header from a peer that is no proxy of ours")
    return None


class Refused(asyncio.Protocol):
    """Answers a connection that gets no further, and closes it once the peer has read that."""

    def __init__(self, answer: bytes, wheel: TimerWheel, lost: Callable[[], None]) -> None:
        self._answer = answer
        self._wheel = wheel
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        both_ways: asyncio.Transport = transport  # type: ignore[assignment]  # typed as its base
        both_ways.write(self._answer)
        LingeringClose(both_ways, self._wheel, self._lost).start()
