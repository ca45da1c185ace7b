"""HTTP/2 load: requests, or echoes of WebSockets (RFC 8441), on streams of one connection.

A client of our own that reads frame headers and no more, so that it is quicker than what it
measures. A server that ends its connection after a number of requests gets another one.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from benchmarks.http_load import Load

STREAMS = 100
BUFFER_OCTETS = 1 << 18
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4
WINDOW_OCTETS = 2**31 - 1
DEFAULT_WINDOW_OCTETS = 65535
HEADER = struct.Struct(">HBBBL")
MASK = b"\x01\x02\x03\x04"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def block(*fields: tuple[str, str]) -> bytes:
    """A header block without tables (RFC 7541, 6.2.2)."""
    found = b""
    for field in fields:
        found += b"\x00"
        for text in field:
            found += bytes([len(text)]) + text.encode()
    return found


class Connection:
    """One that reads frames and answers what must be answered."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        setting = struct.pack(">HL", INITIAL_WINDOW_SIZE, WINDOW_OCTETS)
        more = struct.pack(">L", WINDOW_OCTETS - DEFAULT_WINDOW_OCTETS)
        self.out = [PREFACE, frame(SETTINGS, 0, 0, setting), frame(WINDOW_UPDATE, 0, 0, more)]
        self.window = DEFAULT_WINDOW_OCTETS  # what the server takes, on all streams
        self.is_over = False
        self._unread = b""

    def read(self) -> list[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of what comes next; nothing at the end."""
        self.socket.sendall(b"".join(self.out))
        self.out = []
        data = self.socket.recv(BUFFER_OCTETS)
        if not data:
            self.is_over = True
        data = self._unread + data
        frames, at = [], 0
        while len(data) - at >= 9:
            high, low, kind, flags, stream = HEADER.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            if end > len(data):
                break
            payload = data[at + 9 : end]
            at = end
            if kind == SETTINGS and not flags & ACK:
                self.out.append(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.out.append(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY:
                self.is_over = True
            elif kind == WINDOW_UPDATE and stream == 0:
                self.window += int.from_bytes(payload, "big")
            frames.append((kind, flags, stream, payload))
        self._unread = data[at:]
        return frames


def requests(port: int, path: str, *, seconds: float) -> Load:
    """Keep STREAMS requests under way for `seconds`. Raises RuntimeError if none is answered."""
    fields = block(
        (":method", "GET"), (":scheme", "http"), (":authority", "bench"), (":path", path)
    )
    answered = errors = 0
    began_s = time.monotonic()
    while (now_s := time.monotonic()) < began_s + seconds:
        connection, streams, before = Connection(port), 1, answered
        for _ in range(STREAMS):
            connection.out.append(frame(HEADERS, END_STREAM | END_HEADERS, streams, fields))
            streams += 2
        while not connection.is_over and (now_s := time.monotonic()) < began_s + seconds:
            for kind, flags, _, _ in connection.read():
                if kind == RST_STREAM:
                    errors += 1
                elif kind not in (DATA, HEADERS) or not flags & END_STREAM:
                    continue
                answered += kind != RST_STREAM
                connection.out.append(frame(HEADERS, END_STREAM | END_HEADERS, streams, fields))
                streams += 2
        connection.socket.close()
        if answered == before:
            raise RuntimeError("no request over HTTP/2 was answered")
    return Load(answered, now_s - began_s, errors)


def echoes(port: int, path: str, *, octets: int, seconds: float) -> Load:
    """Keep a message under way on each of STREAMS WebSockets. Raises RuntimeError."""
    fields = block(
        *((":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")),
        *((":authority", "bench"), (":path", path), ("sec-websocket-version", "13")),
    )
    payload = os.urandom(octets)
    masked = bytes(each ^ MASK[at % 4] for at, each in enumerate(payload))
    message = bytes([0x82, 0x80 | octets]) + MASK + masked
    answer = 2 + octets
    connection = Connection(port)
    ids = range(1, 2 * STREAMS, 2)
    connection.out += [frame(HEADERS, END_HEADERS, stream, fields) for stream in ids]
    opened: set[int] = set()
    while len(opened) < STREAMS:
        for kind, flags, stream, _ in connection.read():
            if kind == HEADERS and not flags & END_STREAM:
                opened.add(stream)
            elif connection.is_over or kind == RST_STREAM:
                raise RuntimeError("a WebSocket over HTTP/2 was not accepted")
    frames = {stream: frame(DATA, 0, stream, message) for stream in ids}
    missing = dict.fromkeys(ids, answer)
    connection.out += frames.values()
    connection.window -= len(message) * STREAMS
    held: list[int] = []
    count = 0
    began_s = time.monotonic()
    while (now_s := time.monotonic()) < began_s + seconds:
        for kind, _, stream, data in connection.read():
            if kind == DATA:
                missing[stream] -= len(data)
                if missing[stream] <= 0:
                    missing[stream] = answer
                    count += 1
                    held.append(stream)
        if connection.is_over:
            raise RuntimeError("the connection ended")
        while held and connection.window >= len(message):
            connection.window -= len(message)
            connection.out.append(frames[held.pop()])
    connection.socket.close()
    return Load(count, now_s - began_s, 0)
