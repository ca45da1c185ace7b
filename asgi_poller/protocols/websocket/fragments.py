"""A message in fragments while they arrive (RFC 6455, 5.4): bounded, inflated and decoded as they
come, so that a fault is found with the fragment it is in.
"""

from __future__ import annotations

import codecs
from io import StringIO

from asgi_poller.errors import WebSocketFault
from asgi_poller.protocols.websocket.frames import (
    CLOSE_MESSAGE_TOO_BIG,
    OPCODE_TEXT,
    RSV1,
    max_compressed_bytes,
)
from asgi_poller.protocols.websocket.permessage_deflate import Deflate, Inflation

_UTF8_DECODER = codecs.getincrementaldecoder("utf-8")


class FragmentedMessage:
    """One message. `check` the length of each fragment, `add` its payload, `finish` after the last.

    `first` is the first octet of its first frame. Not lists of pieces: a peer may send it in
    fragments of one octet, or of none. Owned by the WebSocket's loop.
    """

    __slots__ = ("_binary", "_bytes_left", "_decoder", "_inflation", "_text")

    def __init__(self, first: int, max_bytes: int, deflate: Deflate | None) -> None:
        is_compressed = deflate is not None and first & RSV1
        self._bytes_left = max_compressed_bytes(max_bytes) if is_compressed else max_bytes
        self._inflation = Inflation(deflate, max_bytes) if deflate and is_compressed else None
        is_text = first & 0x0F == OPCODE_TEXT
        self._decoder = _UTF8_DECODER() if is_text else None
        self._text = StringIO(newline="")
        self._binary = bytearray()

    def check(self, length: int) -> None:
        """A fragment of so many octets comes. Raises WebSocketFault 1009, before it is buffered."""
        if length > self._bytes_left:
            raise WebSocketFault(CLOSE_MESSAGE_TOO_BIG, "message too big")

    def add(self, payload: bytes) -> None:
        """Raises WebSocketFault 1007 and 1009, UnicodeDecodeError."""
        self._bytes_left -= len(payload)
        if self._inflation is not None:
            payload = self._inflation.feed(payload)
        if self._decoder is not None:
            self._text.write(self._decoder.decode(payload))
        else:
            self._binary += payload

    def finish(self) -> str | bytes:
        """The message. Raises as `add`."""
        rest = b"" if self._inflation is None else self._inflation.finish()
        if self._decoder is None:
            return bytes(self._binary + rest)
        self._text.write(self._decoder.decode(rest, True))
        return self._text.getvalue()
