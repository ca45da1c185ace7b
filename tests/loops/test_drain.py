"""Draining: a connection that came at the last moment is answered, and WebSockets end in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.config import Config
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.tls import context_of
from tests.support.apps import answer, hold
from tests.support.waiting import DEADLINE_S

FAMILY = socket.AF_INET
REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


async def greet(scope: Scope, receive: Receive, send: Send) -> None:
    """200 to a request, and a WebSocket that is kept until its client goes."""
    if scope["type"] == "http":
        await answer(send, b"hello")
        return
    await hold(receive, send)


class LoopUnderTest:
    """A core, and a listener whose connections it adopts."""

    def __init__(self, certificate: str | None = None) -> None:
        options: dict[str, Any] = {"lifespan": "off", "timeout_keep_alive": DEADLINE_S}
        config = Config(greet, ssl_certfile=certificate, **options)
        tls = context_of(config)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        info = ListenerInfo(int(FAMILY), tls is not None, ("127.0.0.1", 0))
        self.core = LoopServer(config, greet, (info,), tls=tls)

    async def adopt(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, peer = await loop.sock_accept(self.listener)
            self.core.adopt(Accepted(connection.detach(), 0, peer))


@contextlib.asynccontextmanager
async def accepting(certificate: str | None = None) -> AsyncIterator[LoopUnderTest]:
    site = LoopUnderTest(certificate)
    task = asyncio.create_task(site.adopt())
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield site
    finally:
        task.cancel()
        site.listener.close()


async def settled(site: LoopUnderTest, count: int) -> None:
    """Wait until the core has `count` connections."""
    while len(site.core.state.connections) != count:
        await asyncio.sleep(0)


async def test_a_request_that_is_on_its_way_is_still_answered() -> None:
    async with accepting() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        await settled(site, 1)
        draining = asyncio.create_task(site.core.drain(DEADLINE_S))
        await asyncio.sleep(0)
        writer.write(REQUEST)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert await draining
        writer.close()


async def test_connections_that_say_nothing_do_not_hold_up_the_end() -> None:
    async with accepting() as site:
        silent, _ = await asyncio.open_connection("127.0.0.1", site.port)
        idle, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(REQUEST)
        assert await idle.readuntil(b"hello")
        await settled(site, 2)
        assert await site.core.drain(DEADLINE_S)
        assert await silent.read() == b""
        assert await idle.read() == b""


async def test_a_handshake_at_the_last_moment_succeeds_and_ends_with_1012() -> None:
    async with accepting() as site:
        raw = socket.create_connection(("127.0.0.1", site.port))
        await settled(site, 1)
        draining = asyncio.create_task(site.core.drain(DEADLINE_S))
        await asyncio.sleep(0)
        async with connect("ws://test/", sock=raw) as client:
            assert await ended_with(client) == 1012
        assert await draining


async def test_a_tls_handshake_at_the_last_moment_succeeds(tmp_path: Path) -> None:
    authority = trustme.CA()
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with accepting(str(path)) as site:
        raw = socket.create_connection(("127.0.0.1", site.port))
        silent = socket.create_connection(("127.0.0.1", site.port))
        while len(site.core._arriving) != 2:
            await asyncio.sleep(0)
        draining = asyncio.create_task(site.core.drain(DEADLINE_S))
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(
            sock=raw, ssl=context, server_hostname="localhost"
        )
        writer.write(REQUEST)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        assert await draining
        silent.close()
        writer.close()


async def test_a_tls_connection_that_ends_by_itself_at_that_moment(tmp_path: Path) -> None:
    """asyncio's TLS transport forgets its buffers where it is closed a second time."""
    authority = trustme.CA()
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with accepting(str(path)) as site:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", site.port, ssl=context, server_hostname="localhost"
        )
        writer.write(REQUEST)
        assert await reader.readuntil(b"hello")
        await settled(site, 1)
        (connection,) = site.core.state.connections
        connection.abort()  # as on a reset, in the same turn
        assert await site.core.drain(DEADLINE_S)
        assert site.core.state.connections == set()
        writer.close()


class Failing:
    """A connection for which nothing works."""

    is_websocket = False

    def __init__(self, connections: set[Any]) -> None:
        self._connections = connections

    def shutdown(self) -> None:
        raise ZeroDivisionError

    def abort(self) -> None:
        self._connections.discard(self)
        raise ZeroDivisionError


async def test_a_connection_that_fails_at_the_end_ends_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with accepting() as site:
        connections: set[Any] = site.core.state.connections
        idle, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(REQUEST)
        assert await idle.readuntil(b"hello")
        connections |= {Failing(connections) for _ in range(5)}
        assert await site.core.drain(DEADLINE_S)
        assert await idle.read() == b""
        assert connections == set()
    assert "could not be ended in order" in caplog.text
    writer.close()


async def test_channels_are_closed_one_after_the_other() -> None:
    async with accepting() as site, contextlib.AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{site.port}/"
        clients = [await stack.enter_async_context(connect(url)) for _ in range(10)]
        order: list[float] = []

        async def watch(client: ClientConnection) -> None:
            assert await ended_with(client) == 1012
            order.append(site.core.loop.time())

        tasks = [asyncio.create_task(watch(client)) for client in clients]
        started = site.core.loop.time()
        assert await site.core.drain(DEADLINE_S, 0.5)
        await asyncio.gather(*tasks)
        # no bound from above: the machine may be slow; but none can be early
        waits = [at - started for at in sorted(order)]
        assert all(wait >= place * 0.05 - 0.02 for place, wait in enumerate(waits)), waits


async def ended_with(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code
