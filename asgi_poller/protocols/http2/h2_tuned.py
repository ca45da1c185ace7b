"""What of h2 is done otherwise, because it costs much for each request or ends too much: beside its
states, which stay its own.

- Before each new stream h2 counts those that are open, and walks over all of them to do so.
- A body that does not have the length that its head says ends the connection in h2; it is for the
  stream alone (RFC 9113, 8.1.1), and counted in `connection.py`.
- hpack encodes each response's fields again. Without a dynamic table (RFC 7541, 4.2: of size 0) a
  field is always the same bytes, which are kept. Heads are longer for that, though never longer
  than HTTP/1.1's; and nothing secret is in a table with what an attacker chooses (RFC 7541, 7.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from h2.connection import H2Connection
from hpack import Encoder

_WALK_COUNT: Final = 32  # streams that have come since the last walk over them, at least
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


def _unchecked(*_: object) -> None:
    """In the place of h2's check of a body's length."""


class TunedH2(H2Connection):
    """Without a limit on inbound streams: who uses it looks after that."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder: Any = HeadEncoder()
        self._walk_at = _WALK_COUNT

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        stream: Any = super()._begin_new_stream(stream_id, allowed_ids)
        stream._initialize_content_length = stream._track_content_length = _unchecked
        return stream

    @property
    def open_inbound_streams(self) -> int:
        """0, for it is compared with a limit that there is not. The walk over all streams, by which
        h2 forgets those that have ended, is made when their number has doubled.
        """
        if len(self.streams) >= self._walk_at:
            H2Connection.open_inbound_streams.fget(self)  # type: ignore[attr-defined]
            self._walk_at = len(self.streams) + max(len(self.streams), _WALK_COUNT)
        return 0
