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

# Of a compressed frame, at once: it inflates to 1 MiB at most, which takes 2 to 5 ms.
PIECE_BYTES = 16 * 1024
_UTF8_DECODER = codecs.getincrementaldecoder("utf-8")


class FragmentedMessage:
    """One message. `check` the length of each fragment, `put` its payload, `read` until that is
    True, `finish` after the last.

    `first` is the first byte of its first frame. Not lists of pieces: a peer may send it in
    fragments of one byte, or of none. Owned by the WebSocket's loop.
    """

    __slots__ = (
        "_binary",
        "_bytes_left",
        "_decoder",
        "_inflation",
        "_text",
        "_unread",
        "is_last",
    )

    def __init__(self, first: int, max_bytes: int, deflate: Deflate | None) -> None:
        is_compressed = deflate is not None and first & RSV1
        self._bytes_left = max_compressed_bytes(max_bytes) if is_compressed else max_bytes
        self._inflation = Inflation(deflate, max_bytes) if deflate and is_compressed else None
        is_text = first & 0x0F == OPCODE_TEXT
        self._decoder = _UTF8_DECODER() if is_text else None
        self._text = StringIO(newline="")
        self._binary = bytearray()
        self._unread: bytes | memoryview = b""
        self.is_last = False  # the fragment at hand

    def check(self, length: int) -> None:
        """A fragment of so many octets comes. Raises WebSocketFault 1009, before it is buffered."""
        if length > self._bytes_left:
            raise WebSocketFault(CLOSE_MESSAGE_TOO_BIG, "message too big")

    @property
    def compressed_bytes(self) -> int:
        """What has come of it, compressed; 0 if it is not."""
        return 0 if self._inflation is None else self._inflation.fed_bytes

    @property
    def inflated_bytes(self) -> int:
        """What that has been inflated to; 0 if it is not compressed."""
        return 0 if self._inflation is None else self._inflation.made_bytes

    @property
    def is_unread(self) -> bool:
        """Whether a part of the fragment at hand is still to be read."""
        return bool(self._unread)

    def put(self, payload: bytes, *, is_last: bool) -> None:
        """The payload of the next fragment."""
        self._bytes_left -= len(payload)
        self._unread = payload
        self.is_last = is_last

    def read(self) -> bool:
        """Read the fragment, or a piece of it where inflating all of it could hold the loop; True
        once it is read. Raises WebSocketFault 1007 and 1009, UnicodeDecodeError.
        """
        unread = self._unread
        if self._inflation is None or len(unread) <= PIECE_BYTES:
            self._unread = b""
            self._add(bytes(unread))
            return True
        view = memoryview(unread)
        self._unread = view[PIECE_BYTES:]
        self._add(bytes(view[:PIECE_BYTES]))
        return False

    def _add(self, payload: bytes) -> None:
        if self._inflation is not None:
            payload = self._inflation.feed(payload)
        if self._decoder is not None:
            self._text.write(self._decoder.decode(payload))
        else:
            self._binary += payload

    def finish(self) -> str | bytes:
        """The message. Raises as `read`."""
        rest = b"" if self._inflation is None else self._inflation.finish()
        if self._decoder is None:
            return bytes(self._binary + rest)
        self._text.write(self._decoder.decode(rest, True))
        return self._text.getvalue()
