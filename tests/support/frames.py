"""WebSocket frames of both sides (RFC 6455, 5.2): what clients and servers of the tests send."""

from __future__ import annotations

import zlib
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x37\xfa\x21\x3d"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
) -> bytes:
    """One frame; `rsv` are the three reserved bits (4 is RSV1), `mask` None leaves it unmasked."""
    first = fin << 7 | rsv << 4 | opcode
    return header(first, len(payload), mask is not None) + (
        mask + masked(payload, mask) if mask is not None else payload
    )


def header(first: int, length: int, is_masked: bool = True) -> bytes:
    """The bytes before the mask, with `length` in its shortest form."""
    bit = is_masked << 7
    if length < 126:
        return bytes((first, bit | length))
    if length < 65536:
        return bytes((first, bit | 126)) + length.to_bytes(2, "big")
    return bytes((first, bit | 127)) + length.to_bytes(8, "big")


def masked(payload: bytes, mask: bytes) -> bytes:
    """RFC 6455, 5.3; its own inverse."""
    length = len(payload)
    repeated = (mask * (length // 4 + 1))[:length]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return number.to_bytes(length, "big")


def server_frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame as a server sends it."""
    return frame(opcode, payload, fin=fin, mask=None)


def text(message: str) -> bytes:
    return frame(TEXT, message.encode())


def binary(message: bytes) -> bytes:
    return frame(BINARY, message)


def close(code: int | None = None, reason: str = "") -> bytes:
    body = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
    return frame(CLOSE, body)


def deflated(payload: bytes, bits: int = 15) -> bytes:
    """`payload` as a message of permessage-deflate (RFC 7692, 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


def inflated(payload: bytes, bits: int = 15) -> bytes:
    """The inverse of `deflated`."""
    inflater = zlib.decompressobj(-bits)
    return inflater.decompress(payload + b"\x00\x00\xff\xff") + inflater.flush()


class ServerFrame(NamedTuple):
    """An unmasked frame."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def close_code(self) -> int | None:
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


def server_frames(data: bytes) -> list[ServerFrame]:
    """All frames in `data`, which must end where a frame does."""
    frames, rest = split_frames(data)
    assert not rest, f"half a frame: {rest[:20]!r}"
    return frames


def split_frames(data: bytes) -> tuple[list[ServerFrame], bytes]:
    """The complete frames at the front of `data`, and what is left."""
    frames = []
    while len(data) >= 2:
        first, length, start = data[0], data[1], 2
        assert length < 128, "a server must not mask (RFC 6455, 5.1)"
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start or len(data) < start + length:
            break
        payload = data[start : start + length]
        frames.append(ServerFrame(first & 15, payload, bool(first & 128), first >> 4 & 7))
        data = data[start + length :]
    return frames, data
