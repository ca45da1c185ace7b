"""Header blocks of responses, from pieces that are kept (RFC 7541).

Without a dynamic table (RFC 7541, 4.2: of size 0) a field is always the same bytes. Heads are
longer for that, though never longer than HTTP/1.1's; and nothing secret is in a table with what an
attacker chooses (RFC 7541, 7.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hpack import Encoder

_KEPT_VALUE_BYTES: Final = 128
_KEPT_COUNT: Final = 2048

_encoder = Encoder()
_encoder.header_table_size = 0
_FIRST: Final = bytes(_encoder.encode([]))  # a table size of 0, said before all else
_FIELDS: dict[tuple[bytes, bytes], bytes] = {}


class HeadEncoder:
    """One connection's `hpack.Encoder`, as far as h2 uses that."""

    __slots__ = ("_begin", "header_table_size")

    def __init__(self) -> None:
        self._begin = _FIRST
        self.header_table_size = 0  # h2 says what the peer allows: 0 is less than all of that

    def encode(self, fields: Iterable[Iterable[bytes]], huffman: bool = True) -> bytes:
        """A header block (RFC 7541, 6)."""
        pieces, self._begin = [self._begin], b""
        kept = _FIELDS
        for name, value in fields:
            piece = kept.get((name, value))
            pieces.append(_encoded(name, value) if piece is None else piece)
        return b"".join(pieces)


def _encoded(name: bytes, value: bytes) -> bytes:
    # one encoder for every loop's thread is safe: a table of size 0 has no state
    piece = bytes(_encoder.encode([(name, value)]))
    if len(value) <= _KEPT_VALUE_BYTES:
        if len(_FIELDS) >= _KEPT_COUNT:
            _FIELDS.clear()  # of old dates, for example
        _FIELDS[name, value] = piece
    return piece
