"""WebSocket frames for a client that counts (RFC 6455, 5.2): made once and sent many times, read
only as far as counting needs.
"""

from __future__ import annotations

import zlib

OP_CONTINUATION, OP_TEXT, OP_BINARY = 0x0, 0x1, 0x2  # RFC 6455, 11.8
OP_CLOSE, OP_PING, OP_PONG = 0x8, 0x9, 0xA
FIN, RSV1, MASKED = 0x80, 0x40, 0x80
CLOSE_NORMAL = 1000  # RFC 6455, 7.4.1

# RFC 6455, 5.3 wants a fresh key for each frame, to keep hostile pages from choosing octets on the
# wire. Here nobody chooses; a fixed key lets one frame be sent a million times.
MASK = b"\x12\x9a\x3c\x5e"


def header(opcode: int, octets: int, *, compressed: bool = False, mask: bytes = b"") -> bytes:
    """The header of an unfragmented frame with `octets` of payload."""
    first = FIN | (RSV1 if compressed else 0) | opcode
    bit = MASKED if mask else 0
    if octets < 126:
        return bytes((first, bit | octets)) + mask
    if octets < 1 << 16:
        return bytes((first, bit | 126)) + octets.to_bytes(2, "big") + mask
    return bytes((first, bit | 127)) + octets.to_bytes(8, "big") + mask


def masked_frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """A whole frame as a client sends it."""
    key = MASK * (len(payload) // 4 + 1)
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(key[: len(payload)], "big")
    return header(opcode, len(payload), compressed=compressed, mask=MASK) + mixed.to_bytes(
        len(payload), "big"
    )


def close_frame(code: int = CLOSE_NORMAL) -> bytes:
    """A masked close frame with `code` and no reason (RFC 6455, 5.5.1)."""
    return masked_frame(OP_CLOSE, code.to_bytes(2, "big"))


def compress(payload: bytes) -> bytes:
    """One message without context takeover (RFC 7692, 7.2.1)."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(
        b"\x00\x00\xff\xff"
    )


def decompress(payload: bytes, *, limit_octets: int) -> bytes:
    """The inverse of `compress`, of `limit_octets` at most. Raises zlib.error."""
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff", limit_octets)


class FrameBroken(Exception):
    """The server broke the framing rules; the text says how."""


class FrameReader:
    """Counts the messages of one connection; feed it octets as they come, split anywhere.

    `controls` collects control frames as (opcode, payload): the caller answers and clears them.
    `kept`, while not None, collects the payload octets of data frames, `opcode` and `compressed`
    are the message's.
    """

    __slots__ = ("_final", "_rest", "_skip", "_within", "compressed", "controls", "kept", "opcode")

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0
        self._final = False
        self._within = False
        self.compressed = False
        self.opcode = OP_BINARY
        self.controls: list[tuple[int, bytes]] = []
        self.kept: bytearray | None = None

    @property
    def between_frames(self) -> bool:
        """True where the next octet begins a message."""
        return not self._rest and not self._skip and not self._within

    def feed(self, data: bytes) -> int:
        """Take what was received; return how many messages ended in it. Raises FrameBroken."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        messages = at = 0
        size = len(data)
        while at < size:
            if self._skip:
                taken = min(self._skip, size - at)
                if self.kept is not None:
                    self.kept += data[at : at + taken]
                self._skip -= taken
                at += taken
            else:
                used = self._frame(data, at)
                if not used:
                    self._rest = data[at:]
                    return messages
                at += used
            if self._final and not self._skip:
                self._final = self._within = False
                messages += 1
        return messages

    def _frame(self, data: bytes, at: int) -> int:
        """Read a header (for control frames the payload too) at `at`; the octets used, 0 where more
        must come first.
        """
        if len(data) - at < 2:
            return 0
        first, second = data[at], data[at + 1]
        if second & MASKED:
            raise FrameBroken("a masked frame from the server (RFC 6455, 5.1)")
        length, used = second & 127, 2
        if length >= 126:
            used = 4 if length == 126 else 10
            if len(data) - at < used:
                return 0
            length = int.from_bytes(data[at + 2 : at + used], "big")
        opcode = first & 0x0F
        if opcode >= OP_CLOSE:
            if opcode > OP_PONG or length > 125 or not first & FIN:
                raise FrameBroken("a malformed control frame (RFC 6455, 5.5)")
            if len(data) - at < used + length:
                return 0
            self.controls.append((opcode, data[at + used : at + used + length]))
            return used + length
        if opcode > OP_BINARY or (opcode == OP_CONTINUATION) != self._within:
            raise FrameBroken("a data frame out of order (RFC 6455, 5.4)")
        if not self._within:
            self.compressed = bool(first & RSV1)
            self.opcode = opcode
        self._within = True
        self._final = bool(first & FIN)
        self._skip = length
        return used
