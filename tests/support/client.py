"""A client that says exactly what it is given, and reads what a server answers."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.frames import CLOSE, ServerFrame
from tests.support.waiting import DEADLINE_S


def get(
    path: str = "/",
    *headers: str,
    version: str = "1.1",
    method: str = "GET",
    host: str = "test",
) -> bytes:
    """A request without a body."""
    lines = [f"{method} {path} HTTP/{version}", f"Host: {host}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes, path: str = "/", *headers: str) -> bytes:
    """A request with a body whose length is announced."""
    return get(path, f"Content-Length: {len(body)}", *headers, method="POST") + body


def handshake(*headers: str, path: str = "/", host: str = "test") -> bytes:
    """The opening of a WebSocket (RFC 6455, 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    return get(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *headers,
        host=host,
    )


GET = get()
LAST_GET = get("/", "Connection: close")


def send_all(client: socket.socket, data: bytes) -> None:
    """Send; a server that has answered and closed meanwhile is no surprise."""
    with contextlib.suppress(ConnectionError):
        client.sendall(data)


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the end, however abrupt that is."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            received += piece
    return bytes(received)


def read_rest(client: socket.socket) -> bytes:
    """All that comes until the end, which must be no reset."""
    received = bytearray()
    while piece := client.recv(65536):
        received += piece
    return bytes(received)


def read_head(client: socket.socket) -> bytes:
    """Up to the empty line, byte by byte, so that nothing behind it is taken."""
    received = b""
    while not received.endswith(b"\r\n\r\n") and (piece := client.recv(1)):
        received += piece
    return received


def read_exactly(client: socket.socket, count: int) -> bytes:
    """So many bytes; raises EOFError if the connection ends before."""
    received = bytearray()
    while len(received) < count:
        piece = client.recv(count - len(received))
        if not piece:
            raise EOFError(f"the connection ended after {bytes(received[-100:])!r}")
        received += piece
    return bytes(received)


def read_frame(client: socket.socket) -> ServerFrame:
    """The next WebSocket frame."""
    first, length = read_exactly(client, 2)
    assert length < 128, "a server must not mask (RFC 6455, 5.1)"
    if length > 125:
        length = int.from_bytes(read_exactly(client, 2 if length == 126 else 8), "big")
    payload = read_exactly(client, length)
    return ServerFrame(first & 15, payload, bool(first & 128), first >> 4 & 7)


def close_code(client: socket.socket) -> int | None:
    """The code of the Close frame that comes, whatever comes before it."""
    while (frame := read_frame(client)).opcode != CLOSE:
        pass
    return frame.close_code


def reset_on_close(client: socket.socket) -> None:
    """Closing it will be a reset (socket(7): SO_LINGER with no time)."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


SMALL_BYTES, BUFFER_BYTES = 64, 8192  # reads of few bytes: lines, and heads of frames


class Response(NamedTuple):
    """What a server answered. Names of headers are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class Client(socket.socket):
    """A blocking connection to a port of 127.0.0.1, with a deadline.

    Small pieces are taken from a buffer: ask `is_silent`, not select(), whether more has come.
    `source` is the address that it comes from; `receive_buffer` bytes are all that it has room for.
    """

    def __init__(
        self, port: int, *, source: str | None = None, receive_buffer: int | None = None
    ) -> None:
        super().__init__()
        self._unread = b""
        self.settimeout(DEADLINE_S)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            if source is not None:
                self.bind((source, 0))
            self.connect(("127.0.0.1", port))
        except OSError:
            self.close()
            raise

    def recv(self, count: int, flags: int = 0) -> bytes:
        """At most so many bytes."""
        if not self._unread:
            if count > SMALL_BYTES:
                return super().recv(count, flags)
            self._unread = super().recv(BUFFER_BYTES, flags)
        piece, self._unread = self._unread[:count], self._unread[count:]
        return piece

    def send_until_stuck(self, data: bytes, limit: int, patience_s: float = 0.5) -> int:
        """Send `data` again and again until nobody takes it for a while; how many bytes went."""
        sent = 0
        self.settimeout(patience_s)
        try:
            while sent < limit:
                sent += self.send(data[: limit - sent])
        except TimeoutError:
            pass  # this is what it was for
        self.settimeout(DEADLINE_S)
        return sent

    def is_silent(self, patience_s: float) -> bool:
        """Whether nothing comes for so long, not even the end."""
        return not self._unread and not select.select([self], [], [], patience_s)[0]

    def line(self) -> bytes:
        """A line, without its end."""
        line = b""
        while not line.endswith(b"\r\n"):
            if not (piece := self.recv(1)):
                raise EOFError(f"the connection ended after {line!r}")
            line += piece
        return line[:-2]

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        return read_exactly(self, count)

    def response(self, *, has_body: bool = True) -> Response:
        """The next response, whatever ends it."""
        response = self.head()
        coding = response.header("transfer-encoding")
        length = response.header("content-length")
        if not has_body or response.status in (100, 101, 103, 204, 304):
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
        head = read_head(self)
        if not head.endswith(b"\r\n\r\n"):
            raise EOFError(f"the connection ended after {head!r}")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, *_ = first.split(" ")
        assert version == "HTTP/1.1"
        pairs = (line.partition(": ") for line in lines)
        return Response(int(status), [(name.lower(), value) for name, _, value in pairs], b"")

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a body, to its end."""
        while size := int(self.line(), 16):
            yield self.exactly(size)
            assert self.line() == b""
        assert self.line() == b""

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must be no reset."""
        return read_rest(self)

    def frame(self) -> ServerFrame:
        """The next WebSocket frame."""
        return read_frame(self)

    def reset(self) -> None:
        """Close without a goodbye: the other side sees a reset."""
        reset_on_close(self)
        self.close()
