"""permessage-deflate (RFC 7692), server side: negotiation, and (de)compression of whole messages.

Memory is the reason for the shape. A zlib pair kept per connection costs tens of kilobytes, for
every idle WebSocket. So by default both directions are negotiated without context takeover, and
each message is handled by an object made for it. `takeover` keeps the objects, made when first
needed, for those who prefer ratio to memory.
"""

from __future__ import annotations

import zlib

from asgi_poller.errors import WebSocketFault
from asgi_poller.protocols.websocket.frames import CLOSE_INVALID_DATA, CLOSE_MESSAGE_TOO_BIG

EXTENSION_NAME = "permessage-deflate"
_TAIL = b"\x00\x00\xff\xff"  # RFC 7692, 7.2.1: cut off by the sender, put back by the receiver
# 4 KiB of window: what a message of a few KiB can use; half the memory of 13
SERVER_WINDOW_BITS = 12
_COMPRESSION_LEVEL = 1  # measured: level 1 costs half of level 6 for 5 % more octets on JSON
_MEMORY_LEVEL = 5  # 16 KiB of hash tables while a message is compressed
_EMPTY = b"\x00"  # RFC 7692, 7.2.3.6: what an empty message is compressed to
# What a message may inflate to: this, or so many times what it is on the wire, whichever is more.
# Deflate reaches 1,032 : 1, so that 16 KiB would make the loop inflate 16 MiB for 35 ms; JSON and
# HTML come to 5 to 20 : 1.
_FREE_BYTES = 1024 * 1024
_RATIO = 64
# What waits is copied when it is tried again: not for less than this, or a flood of tiny fragments
# would copy it each time.
_STEP_BYTES = 64 * 1024
# Of one message. Each costs a new inflater and a copy of what is left; zlib makes one at most.
_FINAL_BLOCKS_LIMIT = 64


class Deflate:
    """The negotiated extension of one WebSocket. Owned by the WebSocket's loop.

    Without takeover in both directions it holds no state and may be shared by any number of
    WebSockets.
    """

    __slots__ = (
        "_compressor",
        "_decompressor",
        "client_bits",
        "client_takeover",
        "server_bits",
        "server_takeover",
    )

    def __init__(
        self,
        *,
        server_bits: int = SERVER_WINDOW_BITS,
        client_bits: int = 15,
        server_takeover: bool = False,
        client_takeover: bool = False,
    ) -> None:
        self.server_bits = server_bits
        self.client_bits = client_bits
        self.server_takeover = server_takeover
        self.client_takeover = client_takeover
        self._compressor: zlib._Compress | None = None
        self._decompressor: zlib._Decompress | None = None

    def compress(self, payload: bytes) -> bytes:
        """One message, compressed (RFC 7692, 7.2.1). Not thread-safe with takeover."""
        compressor = self._compressor
        if compressor is None:
            compressor = zlib.compressobj(
                _COMPRESSION_LEVEL, zlib.DEFLATED, -self.server_bits, _MEMORY_LEVEL
            )
            if self.server_takeover:
                self._compressor = compressor
        # where nothing came since its last flush, zlib has nothing to flush
        return compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4] or _EMPTY

    def decompress(self, payload: bytes, max_bytes: int) -> bytes:
        """One message, inflated (RFC 7692, 7.2.2), never making more than `max_bytes` + 1 octets.

        Raises WebSocketFault 1009 above the limit and 1007 for what is not deflate data.
        """
        max_bytes = min(max_bytes, inflated_limit(len(payload)))
        inflater = self._decompressor
        if inflater is None:
            inflater = zlib.decompressobj(-self.client_bits)
            if self.client_takeover:
                self._decompressor = inflater
        try:
            message = inflater.decompress(payload + _TAIL, max_bytes + 1)
        except zlib.error as error:
            raise _invalid() from error
        # unconsumed_tail is what max_length kept back
        if len(message) > max_bytes or inflater.unconsumed_tail:
            raise _too_big()
        if inflater.eof:
            bytes_left = max_bytes - len(message)
            return message + self._behind_final_block(inflater.unused_data, bytes_left)
        return message

    def _behind_final_block(self, rest: bytes, bytes_left: int) -> bytes:
        """What a message has behind a BFINAL block; `rest` ends with the tail, or within it."""
        # `bytes_left` is the last word: as if so much had come that nothing else limits it
        inflation = Inflation(self, bytes_left, final_blocks=1, fed_bytes=bytes_left)
        if len(rest) < len(_TAIL):
            message = inflation.feed(rest)
            inflation.keep()
            return message
        return inflation.feed(rest[: -len(_TAIL)]) + inflation.finish()


class Inflation:
    """One message while it arrives, in fragments or reads: the same bounds as `Deflate.decompress`.

    What it may come to grows with what has arrived (`inflated_limit`). What is ahead of that waits
    as it came, compressed, until more has arrived or the message ends: so the verdict is one on the
    whole message, however it was cut.
    """

    __slots__ = (
        "_deflate",
        "_final_blocks",
        "_inflater",
        "_max_bytes",
        "_waiting",
        "fed_bytes",
        "made_bytes",
    )

    def __init__(
        self, deflate: Deflate, max_bytes: int, *, final_blocks: int = 0, fed_bytes: int = 0
    ) -> None:
        self._deflate = deflate
        # None: made when there is something for it
        self._inflater = None if final_blocks else deflate._decompressor
        self._max_bytes = max_bytes
        self.fed_bytes = fed_bytes  # so far, as on the wire
        self.made_bytes = 0  # so far, inflated
        self._final_blocks = final_blocks  # so far
        self._waiting = bytearray()

    def feed(self, payload: bytes) -> bytes:
        """The next octets of the message; raises WebSocketFault 1007 or 1009."""
        self.fed_bytes += len(payload)
        return self._inflate(payload, is_whole=False)

    def _inflate(self, payload: bytes, *, is_whole: bool) -> bytes:
        limit = min(self._max_bytes, inflated_limit(self.fed_bytes))
        is_final = is_whole or limit == self._max_bytes  # nothing that comes will raise the limit
        if not is_final and limit - self.made_bytes < _STEP_BYTES:
            self._waiting += payload
            return b""
        if self._waiting:
            payload = bytes(self._waiting) + payload
            self._waiting.clear()
        pieces: list[bytes] = []
        while payload:
            room = limit - self.made_bytes
            if not is_final and room <= 0:
                self._waiting += payload
                break
            inflater = self._inflater
            if inflater is None:
                inflater = self._inflater = zlib.decompressobj(-self._deflate.client_bits)
            try:
                piece = inflater.decompress(payload, room + is_final)
            except zlib.error as error:
                raise _invalid() from error
            self.made_bytes += len(piece)
            payload = inflater.unconsumed_tail
            if is_final and (self.made_bytes > limit or payload):
                raise _too_big()
            pieces.append(piece)
            if inflater.eof:
                # a BFINAL block ends a stream, not the message: another may follow (RFC 7692,
                # 7.2.1), which starts at the next octet
                payload = inflater.unused_data
                self._inflater = None
                self._final_blocks += 1
                if self._final_blocks > _FINAL_BLOCKS_LIMIT:
                    raise _invalid()
        return b"".join(pieces)

    def finish(self) -> bytes:
        """The end of the message: what the sender cut off is put back."""
        last = self._inflate(b"", is_whole=True) if self._waiting else b""
        # behind a BFINAL block that the sender did not pad there is nothing to be completed
        if self._inflater is not None or not self._final_blocks:
            last += self._inflate(_TAIL, is_whole=True)
        self.keep()
        return last

    def keep(self) -> None:
        """With takeover, the next message goes on from here."""
        if self._deflate.client_takeover:
            self._deflate._decompressor = self._inflater


def inflated_limit(octets: int) -> int:
    """What a message of `octets` on the wire may inflate to, in octets: more is a bomb: 1009."""
    return max(_FREE_BYTES, _RATIO * octets)


def _invalid() -> WebSocketFault:
    return WebSocketFault(CLOSE_INVALID_DATA, "invalid compressed data")


def _too_big() -> WebSocketFault:
    return WebSocketFault(CLOSE_MESSAGE_TOO_BIG, "message too big")


_SHARED = Deflate()  # stateless, with the parameters nearly every client ends up with


def negotiate(offers: str, *, takeover: bool) -> tuple[str, Deflate] | None:
    """Answer a Sec-WebSocket-Extensions header: the header to send and the extension, or None to go
    without.

    The first offer that can be met is taken (RFC 7692, 5.1). An offer with unknown, repeated or
    malformed parameters is declined, as 7.1 asks, and the next one is tried.
    """
    for offer in offers.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name.lower() != EXTENSION_NAME:
            continue
        answer = _answer(parameters, takeover)
        if answer is not None:
            return answer
    return None


def _answer(parameters: list[str], takeover: bool) -> tuple[str, Deflate] | None:
    wanted: dict[str, str | None] = {}
    for parameter in parameters:
        key, equals, value = parameter.partition("=")
        key = key.strip().lower()
        if key in wanted:
            return None
        wanted[key] = value.strip().strip('"') if equals else None

    server_bits, client_bits = SERVER_WINDOW_BITS, None
    server_takeover = client_takeover = takeover
    answer = [EXTENSION_NAME]
    for key, text in wanted.items():
        if key == "server_no_context_takeover" and text is None:
            server_takeover = False
        elif key == "client_no_context_takeover" and text is None:
            client_takeover = False
        elif key == "server_max_window_bits" and text is not None:
            bits = _window_bits(text)
            # zlib cannot make raw deflate with an 8 bit window: decline rather than lie
            if bits is None or bits == 8:
                return None
            server_bits = min(server_bits, bits)
        elif key == "client_max_window_bits":
            if text is not None:
                client_bits = _window_bits(text)
                if client_bits is None:
                    return None
        else:
            return None
    if not server_takeover:
        answer.append("server_no_context_takeover")
    if not client_takeover:
        answer.append("client_no_context_takeover")
    if "server_max_window_bits" in wanted:
        answer.append(f"server_max_window_bits={server_bits}")
    if client_bits is not None:
        answer.append(f"client_max_window_bits={client_bits}")
    # zlib reads what an 8 bit window wrote with a 9 bit one; without a word from the peer it may
    # use all 15
    inflate_bits = max(client_bits or 15, 9)
    return "; ".join(answer), _extension(
        server_bits, inflate_bits, server_takeover, client_takeover
    )


def _extension(
    server_bits: int, client_bits: int, server_takeover: bool, client_takeover: bool
) -> Deflate:
    if (server_bits, client_bits) == (SERVER_WINDOW_BITS, 15) and not (
        server_takeover or client_takeover
    ):
        return _SHARED
    return Deflate(
        server_bits=server_bits,
        client_bits=client_bits,
        server_takeover=server_takeover,
        client_takeover=client_takeover,
    )


def _window_bits(text: str) -> int | None:
    """RFC 7692, 7.1.2.1: a decimal from 8 to 15 without leading zeroes."""
    return int(text) if text in {"8", "9", "10", "11", "12", "13", "14", "15"} else None
