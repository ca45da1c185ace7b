"""A server under attack, in this process, and clients that say exactly what they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from typing import Any

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.config import Config
from asgi_poller.serve.server import Server
from tests.support.frames import text
from tests.support.waiting import DEADLINE_S

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"


@dataclasses.dataclass(slots=True)
class Record:
    """What the application has seen. Written by the server's thread."""

    requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ends: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of WebSockets
    errors: list[BaseException] = dataclasses.field(default_factory=list)  # that send() raised
    audience: set[Send] = dataclasses.field(default_factory=set)  # of `/all`


def application(record: Record) -> Any:
    """HTTP: `/client` gives the client's address, `/tasks` how many tasks there are, others the
    octets of the body that came. WebSocket: `/flood` sends for ever, `/deaf` receives nothing,
    `/all` sends what comes to everyone there, others echo.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            record.requests.append(dict(scope))
            await _answer(scope, receive, send)
        else:
            await _talk(record, scope, receive, send)

    return app


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    count, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        count += len(message["body"])
        more = message["more_body"]
    body = str(count) if scope["path"] != "/client" else f"{scope['client'][0]} {scope['scheme']}"
    if scope["path"] == "/tasks":
        body = str(len(asyncio.all_tasks()))
    if scope["path"] == "/large":
        body = "x" * (32 * 1024 * 1024)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})


async def _talk(record: Record, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    try:
        if scope["path"] == "/flood":
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})
        if scope["path"] == "/all":
            await _tell_all(record.audience, receive, send)
            return
        while scope["path"] != "/deaf":
            message = await receive()
            if message["type"] == "websocket.disconnect":
                record.ends.append({**message, "path": scope["path"]})
                return
            await send({**message, "type": "websocket.send"})
    except OSError as error:
        record.errors.append(error)
        record.ends.append({**await receive(), "path": scope["path"]})
        return
    await record_end(record, receive)


async def record_end(record: Record, receive: Receive) -> None:
    """Wait without reading a message: the test says when that is over."""
    gate = threading.Event()
    record.requests.append({"gate": gate})
    while not gate.is_set():
        await asyncio.sleep(0.01)
    message: dict[str, Any] = {"type": ""}
    while message["type"] != "websocket.disconnect":
        message = dict(await receive())
    record.ends.append(message)


class Site:
    """A server that runs. `address` is where to connect."""

    def __init__(self, server: Server, record: Record) -> None:
        self.server = server
        self.record = record
        where = server.listeners[0].socket.getsockname()
        self.address: tuple[str, int] = (where[0], where[1])

    @property
    def port(self) -> int:
        return self.address[1]

    def connect(self, source: str | None = None) -> socket.socket:
        """A connection, from another address of this machine if wanted."""
        bound = None if source is None else (source, 0)
        return socket.create_connection(self.address, DEADLINE_S, bound)

    def ask(self, octets: bytes, source: str | None = None) -> bytes:
        """All that is answered to `octets` until the connection ends."""
        with self.connect(source) as client:
            send_all(client, octets)
            return read_to_end(client)

    def open(
        self, path: str = "/", source: str | None = None, fields: bytes = b""
    ) -> socket.socket:
        """An open WebSocket."""
        client = self.connect(source)
        client.sendall(handshake(path, fields))
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return client

    def echo(self, client: socket.socket, message: str = "hello") -> None:
        """One message there and back."""
        client.sendall(text(message))
        assert read_exactly(client, 2 + len(message))[2:].decode() == message

    def is_well(self) -> None:
        """An honest client is served."""
        with self.open() as client:
            self.echo(client)
        assert self.ask(LAST_GET).startswith(b"HTTP/1.1 200 ")


async def _tell_all(audience: set[Send], receive: Receive, send: Send) -> None:
    audience.add(send)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            for to in tuple(audience):
                with contextlib.suppress(OSError):  # one that has gone meanwhile
                    await to({**message, "type": "websocket.send"})
    finally:
        audience.discard(send)


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Site]:
    """A server in this process, on a free port of all IPv4 addresses unless told otherwise."""
    record = Record()
    options.setdefault("timeout_graceful_shutdown", 2.0)
    options.setdefault("host", "0.0.0.0")
    if "bind" not in options and "bind_tls" not in options:
        options.setdefault("port", 0)
    server = Server(Config(application(record), lifespan="off", log_config=None, **options))
    server.start()
    try:
        site = Site(server, record)
        if site.address[0] == "0.0.0.0":
            site.address = ("127.0.0.1", site.port)
        yield site
    finally:
        for request in record.requests:
            if "gate" in request:
                request["gate"].set()
        server.stop(DEADLINE_S)


def handshake(path: str = "/", fields: bytes = b"", host: bytes = b"test") -> bytes:
    """A browser's opening handshake (RFC 6455, 4.1)."""
    return (
        b"GET %b HTTP/1.1\r\nhost: %b\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: %b\r\n%b\r\n"
        % (path.encode(), host, KEY, fields)
    )


def send_all(client: socket.socket, octets: bytes) -> None:
    """Send; a server that has answered and closed meanwhile is no surprise."""
    with contextlib.suppress(ConnectionError):
        client.sendall(octets)


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the end, however abrupt that is."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            received += piece
    return bytes(received)


def read_head(client: socket.socket) -> bytes:
    """Up to the empty line, octet by octet, so that nothing behind it is taken."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        piece = client.recv(1)
        if not piece:
            break
        received += piece
    return received


def read_exactly(client: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        piece = client.recv(count - len(received))
        assert piece, f"the connection has ended after {received!r}"
        received += piece
    return received


def read_frame(client: socket.socket) -> tuple[int, bytes]:
    """Opcode and payload of the next frame from the server."""
    first, length = read_exactly(client, 2)
    if length == 126:
        length = int.from_bytes(read_exactly(client, 2), "big")
    elif length == 127:
        length = int.from_bytes(read_exactly(client, 8), "big")
    return first & 15, read_exactly(client, length)


def close_code(client: socket.socket) -> int:
    """The code of the Close frame that comes, whatever comes before it."""
    while True:
        opcode, payload = read_frame(client)
        if opcode == 8:
            return int.from_bytes(payload[:2], "big")
