"""Small blocking servers that behave in one way each, for tests of the load tester."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.waiting import DEADLINE_S

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
Behaviour = Callable[[socket.socket], None]


def read_head(sock: socket.socket) -> bytes:
    """The request head, or what there is of it when the client goes."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (data := sock.recv(65536)):
            break
        received += data
    return received


def accept_head(request: bytes, *, extra: str = "") -> bytes:
    """The right 101 for a request."""
    key = next(
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
    ).encode()


def answering(answer: bytes) -> Behaviour:
    """Read the request, send these octets, close."""

    def behave(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer)

    return behave


def opening(then: Behaviour, *, extra: str = "") -> Behaviour:
    """Open the channel properly, then behave as told."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(accept_head(read_head(sock), extra=extra))
        then(sock)

    return behave


def resetting(sock: socket.socket) -> None:
    """RST instead of an answer."""
    read_head(sock)
    resetting_now(sock)


def resetting_now(sock: socket.socket) -> None:
    """RST when the connection is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def ending(sock: socket.socket) -> None:
    """The connection is closed at once."""


def closing(sock: socket.socket) -> None:
    """A close frame with code 1001, then the end."""
    sock.sendall(frame(0x88, b"\x03\xe9"))


def silent(sock: socket.socket) -> None:
    """No answer, until the client goes."""
    while sock.recv(65536):
        pass


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """One frame from a client: its first octet and its payload, unmasked. (0, b"") at the end."""
    head = _exactly(sock, 2)
    if len(head) < 2:
        return 0, b""
    length = head[1] & 127
    if length >= 126:
        length = int.from_bytes(_exactly(sock, 2 if length == 126 else 8), "big")
    key = int.from_bytes((_exactly(sock, 4) * (length // 4 + 1))[:length], "big")
    masked = int.from_bytes(_exactly(sock, length), "big")
    return head[0], (masked ^ key).to_bytes(length, "big")


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return bytes(data)


def frame(first: int, payload: bytes) -> bytes:
    """A frame as a server sends it."""
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    if len(payload) < 1 << 16:
        return bytes((first, 126)) + len(payload).to_bytes(2, "big") + payload
    return bytes((first, 127)) + len(payload).to_bytes(8, "big") + payload


@contextmanager
def serving(behave: Behaviour, *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on a port of its own (yielded); each connection goes to `behave` on a thread."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.settimeout(DEADLINE_S)

    def converse(sock: socket.socket) -> None:
        with sock:
            try:
                sock.settimeout(DEADLINE_S)
                if tls is not None:
                    sock = tls.wrap_socket(sock, server_side=True)
                behave(sock)
            except OSError:
                pass  # the client's side of every fault is what the tests look at

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # the test is over
            threading.Thread(target=converse, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_S)


def echoing(sock: socket.socket) -> None:
    """Echo data frames, answer a close frame, until the client goes."""
    while True:
        first, payload = read_frame(sock)
        if not first:
            return
        sock.sendall(frame(first, payload))
        if first & 15 == 8:
            return
