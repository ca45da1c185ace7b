"""WebSocket frames: the names of RFC 6455 for opcodes, close codes and events; headers, both ways.

Everything here is a pure function or a value. What arrives is read in `protocol.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from asgi_poller.errors import WebSocketFault

# RFC 6455, 5.2
OPCODE_TEXT = 0x1
# the first octet of an unfragmented frame (FIN set) by opcode
FIN_TEXT = 0x81
FIN_BINARY = 0x82
FIN_CLOSE = 0x88
FIN_PING = 0x89
FIN_PONG = 0x8A
RSV1 = 0x40  # RFC 7692, 6: "this message is compressed"
FIN_TEXT_DEFLATED = FIN_TEXT | RSV1
FIN_BINARY_DEFLATED = FIN_BINARY | RSV1

# RFC 6455, 7.4.1 and the IANA WebSocket Close Code Number Registry
CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_PROTOCOL_ERROR = 1002
CLOSE_NO_STATUS_RECEIVED = 1005  # never on the wire
CLOSE_ABNORMAL = 1006  # never on the wire
CLOSE_INVALID_DATA = 1007
CLOSE_POLICY_VIOLATION = 1008
CLOSE_MESSAGE_TOO_BIG = 1009
CLOSE_INTERNAL_ERROR = 1011
CLOSE_SERVICE_RESTART = 1012
CLOSE_TRY_AGAIN_LATER = 1013
CLOSE_BAD_GATEWAY = 1014
CLOSE_TLS_HANDSHAKE = 1015  # never on the wire

KNOWN_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
MAX_CONTROL_BYTES = 125  # RFC 6455, 5.5
_SENDABLE_BELOW_3000 = frozenset(range(1000, 1015)) - {1004, 1005, 1006}


@dataclass(slots=True)
class Ping:
    """A Ping frame; answer with a Pong of the same payload (RFC 6455, 5.5.2)."""

    payload: bytes


@dataclass(slots=True)
class Pong:
    """A Pong frame, asked for or not (RFC 6455, 5.5.3)."""

    payload: bytes


@dataclass(slots=True)
class Close:
    """A Close frame, the last; `code` is 1005 where the peer sent none (RFC 6455, 7.1.5)."""

    code: int
    reason: str


# str is a text message, bytes a binary one: plain values, since this is the per-message path.
Event = str | bytes | Ping | Pong | Close | WebSocketFault


def _short_headers(first: int) -> tuple[bytes, ...]:
    return tuple(bytes((first, length)) for length in range(126))


_SHORT = {
    first: _short_headers(first)
    for first in (FIN_TEXT, FIN_BINARY, FIN_TEXT_DEFLATED, FIN_BINARY_DEFLATED)
}
SHORT_TEXT = _SHORT[FIN_TEXT]
SHORT_BINARY = _SHORT[FIN_BINARY]


def encode_frame(first: int, payload: bytes) -> bytes:
    """One unmasked frame (RFC 6455, 5.2) whose first octet is `first`: FIN, reserved bits and
    opcode.
    """
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return bytes((first, 126, length >> 8, length & 255)) + payload
    return bytes((first, 127)) + length.to_bytes(8, "big") + payload


@functools.lru_cache(maxsize=64)  # nearly all are the same few, without a reason
def encode_close(code: int | None, reason: str = "") -> bytes:
    """A Close frame. `code` None, or one that never travels (1005, 1006, 1015), sends an empty
    body.

    A reason that does not fit into 123 octets is cut at a character boundary (RFC 6455, 5.5.1).
    """
    if code is None or code in (CLOSE_NO_STATUS_RECEIVED, CLOSE_ABNORMAL, CLOSE_TLS_HANDSHAKE):
        return bytes((FIN_CLOSE, 0))
    return encode_frame(FIN_CLOSE, code.to_bytes(2, "big") + cut_reason(reason))


def cut_reason(reason: str) -> bytes:
    """`reason` in UTF-8, cut to what a Close frame holds beside its code."""
    octets = reason.encode("utf-8", "replace")
    limit = MAX_CONTROL_BYTES - 2
    if len(octets) <= limit:
        return octets
    return octets[:limit].decode("utf-8", "ignore").encode()


def decode_control(first: int, payload: bytes) -> Ping | Pong | Close:
    """What a whole control frame says; `first` is its first octet. Raises WebSocketFault for a
    Close that RFC 6455, 5.5.1 does not allow.
    """
    if first == FIN_PONG:
        return Pong(payload)
    if first == FIN_PING:
        return Ping(payload)
    if not payload:
        return Close(CLOSE_NO_STATUS_RECEIVED, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not is_sendable_close_code(code):
        raise WebSocketFault(CLOSE_PROTOCOL_ERROR, "not a close code that may be sent")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise WebSocketFault(CLOSE_INVALID_DATA, "the reason of a Close is not UTF-8") from None


def check_first(first: int) -> None:
    """Raises WebSocketFault for a first octet of no frame (RFC 6455, 5.2)."""
    if first & 0x0F not in KNOWN_OPCODES:
        raise WebSocketFault(CLOSE_PROTOCOL_ERROR, f"opcode {first & 0x0F:#x} is not known")


def control_fault(first: int, second: int) -> WebSocketFault:
    """What is wrong with the header of a control frame that RFC 6455, 5.5 does not allow."""
    if not first & 0x80:
        return WebSocketFault(CLOSE_PROTOCOL_ERROR, "a control frame is in fragments")
    if second & 127 > MAX_CONTROL_BYTES:
        return WebSocketFault(CLOSE_PROTOCOL_ERROR, "a control frame has more than 125 bytes")
    return _bits_fault(first & 0x70)


def check_data(first: int, second: int, *, is_deflated: bool) -> None:
    """Raises WebSocketFault for the header of a data frame that is not allowed: with compression,
    RSV1 is for a message's first frame (RFC 7692, 6).
    """
    reserved = first & 0x70
    if is_deflated and first & 0x0F:
        reserved &= ~RSV1
    if reserved or not second & 0x80:
        raise _bits_fault(reserved)


def _bits_fault(reserved: int) -> WebSocketFault:
    what = "a reserved bit is set" if reserved else "a client's frame is not masked"
    return WebSocketFault(CLOSE_PROTOCOL_ERROR, what)


def max_compressed_bytes(max_bytes: int) -> int:
    """How large a message of `max_bytes` may get by being compressed: deflate's worst case, fixed
    codes for random octets, adds an eighth (RFC 1951, 3.2.6).
    """
    return max_bytes + (max_bytes >> 3) + 64


def is_sendable_close_code(code: int) -> bool:
    """Whether an endpoint may put `code` into a Close frame (RFC 6455, 7.4)."""
    return code in _SENDABLE_BELOW_3000 or 3000 <= code <= 4999


def extended_length(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Where the payload starts and its length, of a frame that says 126 or 127; (0, 0) if more
    octets are needed.

    Raises WebSocketFault for a length that is not in its shortest form (RFC 6455, 5.2).
    """
    left = len(data) - at
    if data[at + 1] & 127 == 126:
        if left < 4:
            return 0, 0
        length = (data[at + 2] << 8) | data[at + 3]
        if length < 126:
            raise _bad_length()
        return at + 8, length
    if left < 10:
        return 0, 0
    length = int.from_bytes(data[at + 2 : at + 10], "big")
    if length < 65536 or length >> 63:
        raise _bad_length()
    return at + 14, length


def _bad_length() -> WebSocketFault:
    return WebSocketFault(CLOSE_PROTOCOL_ERROR, "payload length is not in its shortest form")
