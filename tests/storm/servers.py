"""Small blocking servers that behave in one way each, for tests of the load tester."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.client import read_exactly, read_head, reset_on_close
from tests.support.frames import masked, server_frame
from tests.support.waiting import DEADLINE_S

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
Behaviour = Callable[[socket.socket], None]


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
    """Read the request, send these bytes, close."""

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
    reset_on_close(sock)


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
    """One frame from a client: its first byte and its payload, unmasked. (0, b"") at the end."""
    try:
        first, length = read_exactly(sock, 2)
        length &= 127
        if length >= 126:
            length = int.from_bytes(read_exactly(sock, 2 if length == 126 else 8), "big")
        mask = read_exactly(sock, 4)
        return first, masked(read_exactly(sock, length), mask)
    except EOFError:
        return 0, b""


def frame(first: int, payload: bytes) -> bytes:
    """A frame as a server sends it, with FIN and the opcode in its first byte."""
    return server_frame(first & 15, payload, fin=first >= 128)


@contextmanager
def behaving(behave: Behaviour, *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
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
