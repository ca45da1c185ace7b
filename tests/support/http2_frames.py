"""Raw HTTP/2 frames, right and wrong ones, and a peer that sends them (RFC 9113, 4.1)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.support.client import Client

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
CONTINUATION = 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = range(5, 10)
ENHANCE_YOUR_CALM = 11

GET = ((":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/"))
POST = ((":method", "POST"), *GET[1:])
Fields = Iterable[tuple[str, str]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + payload


def block(fields: Fields = GET) -> bytes:
    """A header block that needs no table: literals without indexing (RFC 7541, 6.2.2)."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    """RFC 7541, 5.2, without Huffman's code."""
    data = text.encode("latin-1")
    assert len(data) < 127
    return bytes([len(data)]) + data


def headers(
    stream: int, fields: Fields = GET, flags: int = END_HEADERS | END_STREAM, rest: bytes = b""
) -> bytes:
    """HEADERS with these fields."""
    return frame(HEADERS, flags, stream, block(fields) + rest)


def settings(*values: tuple[int, int]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *each) for each in values))


def reset(stream: int, code: int = CANCEL) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def window(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", increment))


class Received(NamedTuple):
    """A frame that the server has sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a GOAWAY or RST_STREAM."""
        start = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[start : start + 4], "big")


class RawPeer:
    """Sends what it is told, and reads frames. `send` takes it that the server may have ended."""

    def __init__(self, socket: Client, opening: bytes) -> None:
        self.socket = socket
        self.frames: list[Received] = []
        self.send(opening)

    def send(self, data: bytes) -> bool:
        """Whether the server still takes it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def read(self) -> Received | None:
        """The next frame; None at the end of the connection, also if it is cut off."""
        try:
            head = self.socket.exactly(9)
            size = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBL", head[3:])
            received = Received(kind, flags, stream, self.socket.exactly(size))
        except (EOFError, ConnectionResetError):
            return None
        self.frames.append(received)
        return received

    def wait(self, kind: int, stream: int | None = None) -> Received:
        """The next frame of that kind, on that stream."""
        while (received := self.read()) is not None:
            if received.kind == kind and stream in (None, received.stream):
                return received
        raise EOFError(f"the connection ended: {self.frames}")

    def end(self) -> Received | None:
        """Read to the end; the GOAWAY that came."""
        while self.read() is not None:
            pass
        found = [each for each in self.frames if each.kind == GOAWAY]
        return found[-1] if found else None

    def goaway_code(self) -> int | None:
        """The code of the GOAWAY with which the connection ends."""
        last = self.end()
        return None if last is None else last.code

    def answers(self) -> bool:
        """Whether the connection still works: a PING comes back, and what the server says of all
        that came before it is in `frames`.
        """
        return self._has_pong(b"first   ") and self._has_pong(b"second  ")

    def _has_pong(self, payload: bytes) -> bool:
        self.send(frame(PING, 0, 0, payload))
        while (received := self.read()) is not None:
            if received.kind == PING and received.flags & ACK and received.payload == payload:
                return True
        return False


@contextlib.contextmanager
def raw_peer(port: int, opening: bytes | None = None, **options: int) -> Iterator[RawPeer]:
    """A connection, past the preface and SETTINGS unless told otherwise."""
    with Client(port, **options) as socket:  # type: ignore[arg-type]
        yield RawPeer(socket, PREFACE + settings() if opening is None else opening)
