"""What of HTTP/2's frames is needed beside h2: kinds, flags, error codes and headers (RFC 9113,
4.1, 6 and 7).
"""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
HEADER_BYTES: Final = 9
#: A frame's payload, in both directions: SETTINGS_MAX_FRAME_SIZE stays what it is at first.
FRAME_BYTES: Final = 16384

# Kinds (RFC 9113, 6)
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# Flags
END_STREAM: Final = 0x1  # and of SETTINGS and PING: ACK
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FIELDS: Final = 0x20  # RFC 9113, 6.2

# Settings (RFC 9113, 6.5.2; RFC 8441, 3)
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8

# Error codes (RFC 9113, 7)
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
ENHANCE_YOUR_CALM: Final = 0xB

LAST_STREAM: Final = 2**31 - 1  # in a GOAWAY: none is refused yet (RFC 9113, 6.8)
DEFAULT_WINDOW_BYTES: Final = 65535  # RFC 9113, 6.9.2

_OF_BLOCKS: Final = END_HEADERS | PADDED | PRIORITY_FIELDS

_HEADER = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
_GOAWAY = struct.Struct(">LL")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A whole frame."""
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def header_frames(stream_id: int, block: bytes, *, is_last: bool) -> bytes:
    """HEADERS with a header block, and as many CONTINUATION as it takes (RFC 9113, 4.3)."""
    flags = END_STREAM if is_last else 0
    if len(block) <= FRAME_BYTES:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
    return b"".join(
        (
            frame(HEADERS, flags, stream_id, parts[0]),
            *(frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]),
            frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]),
        )
    )


def settings_frame(values: dict[int, int]) -> bytes:
    """SETTINGS (RFC 9113, 6.5)."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in values.items()))


def goaway_frame(last_stream: int, code: int, reason: bytes = b"") -> bytes:
    """GOAWAY (RFC 9113, 6.8)."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream, code) + reason)


def whole_head(data: bytearray) -> tuple[int, bytes, bool, int] | None:
    """If `data` begins with HEADERS that are a whole header block and nothing else: its stream, the
    block, whether the request has no body, and where the frame ends.
    """
    if len(data) < HEADER_BYTES or data[3] != HEADERS:
        return None
    flags, end = data[4], HEADER_BYTES + int.from_bytes(data[:3], "big")
    stream_id = (
        int.from_bytes(data[5:HEADER_BYTES], "big") & LAST_STREAM
    )  # without the reserved bit
    if flags & _OF_BLOCKS != END_HEADERS or not stream_id or end > len(data):
        return None
    return stream_id, bytes(data[HEADER_BYTES:end]), bool(flags & END_STREAM), end


def is_goaway(data: bytes) -> bool:
    """Whether a GOAWAY frame is one of the whole connection, and complete."""
    return not any(data[5:HEADER_BYTES]) and len(data) >= HEADER_BYTES + _GOAWAY.size
