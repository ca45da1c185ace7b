"""A server in this process, and a client that says exactly what it is told to."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from asgi_poller.config import Config
from asgi_poller.serve.server import Server
from tests.support.frames import ServerFrame
from tests.support.waiting import DEADLINE_S

LOOPS = ("asyncio", "uvloop")


class Site:
    """A server that runs in a thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port: int = server.listeners[0].socket.getsockname()[1]

    def url(self, path: str = "/", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def connect(self, **options: Any) -> Raw:
        return Raw(self.port, **options)

    def websocket(self, *headers: str, path: str = "/") -> Raw:
        """A client that is past its handshake."""
        client = self.connect()
        client.send(handshake(*headers, path=path))
        response = client.response(has_body=False)
        assert response.status == 101, response
        return client


@contextlib.contextmanager
def serving(application: Any, **options: Any) -> Iterator[Site]:
    """Serve while the block runs. Small timeouts unless told otherwise."""
    options = {"port": 0, "access_log": False, "timeout_graceful_shutdown": 5.0} | options
    server = Server(Config(application, **options))
    server.start(DEADLINE_S)
    try:
        yield Site(server)
    finally:
        server.stop(DEADLINE_S)
        assert server._thread is not None
        assert not server._thread.is_alive(), "the server did not stop"


class Response(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class Raw:
    """A blocking socket with a deadline, read through a buffer."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_until_stuck(self, data: bytes, limit: int, patience_s: float = 0.5) -> int:
        """Send `data` again and again until nobody takes it for a while; how many octets went."""
        sent = 0
        self.socket.settimeout(patience_s)
        try:
            while sent < limit:
                sent += self.socket.send(data[: limit - sent])
        except TimeoutError:
            pass  # this is what it was for
        self.socket.settimeout(DEADLINE_S)
        return sent

    def is_silent(self, patience_s: float) -> bool:
        """Whether nothing comes for so long, not even the end."""
        return not select.select([self.socket], [], [], patience_s)[0]

    def line(self) -> bytes:
        """A line, without its end."""
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(f"the connection ended after {line!r}")
        return line[:-2]

    def exactly(self, octets: int) -> bytes:
        data = self.file.read(octets)
        if len(data) < octets:
            raise EOFError(f"the connection ended after {data[-100:]!r}")
        return data

    def response(self, *, has_body: bool = True) -> Response:
        """The next response, whatever ends it."""
        response = self.head()
        coding = response.header("transfer-encoding")
        length = response.header("content-length")
        if not has_body or response.status in (100, 101, 204, 304):
            body = b""
        elif length is not None:
            body = self.exactly(int(length))
        elif coding == "chunked":
            body = b"".join(self.chunks())
        else:
            body = self.rest()
        return response._replace(body=body)

    def head(self) -> Response:
        """The next response up to its body."""
        version, status, *_ = self.line().decode().split(" ")
        assert version == "HTTP/1.1"
        headers = []
        while line := self.line().decode("latin-1"):
            name, _, value = line.partition(": ")
            headers.append((name.lower(), value))
        return Response(int(status), headers, b"")

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a body, to its end."""
        while size := int(self.line(), 16):
            yield self.exactly(size)
            assert self.line() == b""
        assert self.line() == b""

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must be no reset."""
        return self.file.read()

    def frame(self) -> ServerFrame:
        """The next WebSocket frame."""
        first, length = self.exactly(2)
        assert length < 128, "a server must not mask (RFC 6455, 5.1)"
        if length > 125:
            length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
        return ServerFrame(first & 15, self.exactly(length), bool(first & 128), first >> 4 & 7)

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def reset(self) -> None:
        """Close without a goodbye: the other side sees a reset."""
        linger = (1).to_bytes(4, "little") + bytes(4)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()


def get(path: str = "/", *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(body: bytes, path: str = "/", *headers: str) -> bytes:
    return get(path, f"Content-Length: {len(body)}", *headers, method="POST") + body


def handshake(*headers: str, path: str = "/") -> bytes:
    """The opening of a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return get(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *headers,
    )
