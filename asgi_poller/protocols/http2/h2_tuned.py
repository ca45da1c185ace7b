"""What of h2 is done otherwise, because it costs much for each request or ends too much: beside its
states, which stay its own.

- Before each new stream h2 counts those that are open, and walks over all of them to do so.
- A body that does not have the length that its head says ends the connection in h2; it is for the
  stream alone (RFC 9113, 8.1.1), and counted in `connection.py`.
- hpack encodes each response's fields again. Without a dynamic table (RFC 7541, 4.2: of size 0) a
  field is always the same bytes, which are kept. Heads are longer for that, though never longer
  than HTTP/1.1's; and nothing secret is in a table with what an attacker chooses (RFC 7541, 7.1).
- hpack decodes each request's fields again. A client that asks for the same thing again sends the
  same bytes, and they say the same for as long as its table stays as it is.
- Each frame that comes is written out for a log that there is not, and each is an object with a set
  of its flags first, also one that goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from h2.connection import ConnectionInputs, H2Connection
from h2.events import TrailersReceived
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream, StreamInputs
from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, WindowUpdateFrame

from asgi_poller.protocols.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_BYTES,
    HEADERS,
    PADDED,
    PRIORITY_FIELDS,
    frame,
    header_frames,
)

_WALK_COUNT: Final = 32  # streams that have come since the last walk over them, at least
_KEPT_VALUE_BYTES: Final = 128
_KEPT_COUNT: Final = 2048
_KEPT_BLOCKS: Final = 16  # of a connection
_KEPT_BLOCK_BYTES: Final = 512
_KEPT_BLOCK_FIELDS: Final = 32  # which one byte each may stand for
_TABLE_SIZE: Final = 0x20  # RFC 7541, 6.3: 001 in the first three bits
_KIND: Final = 0xE0
_LOOKED_AT: Final = END_HEADERS | PADDED | PRIORITY_FIELDS
_STREAM_BITS: Final = 2**31 - 1  # RFC 9113, 4.1
_ENDS: Final = frozenset(("END_HEADERS", "END_STREAM"))
_GOES_ON: Final = frozenset(("END_HEADERS",))
_INTERIM: Final = StreamInputs.SEND_INFORMATIONAL_HEADERS

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


class HeadDecoder(Decoder):
    """Keeps what blocks of fields said that left the table as it was, until it changes."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[bytes, Any] = {}

    def decode(self, data: bytes, raw: bool = False) -> Any:
        """See hpack. h2 always asks for what is raw, and changes nothing of what it gets."""
        kept = self._kept.get(data)
        if kept is not None:
            return kept
        entries = self.header_table.dynamic_entries
        count, newest = len(entries), entries[0] if entries else None
        fields: Any = super().decode(data, raw)
        is_same = len(entries) == count and (entries[0] if entries else None) is newest
        if not is_same or (data and data[0] & _KIND == _TABLE_SIZE):
            self._kept.clear()
        elif len(data) <= _KEPT_BLOCK_BYTES and len(fields) <= _KEPT_BLOCK_FIELDS:
            if len(self._kept) >= _KEPT_BLOCKS:
                self._kept.clear()
            self._kept[data] = fields
        return fields


class _Head:
    """A HEADERS frame that is a whole header block, as far as h2 looks at it."""

    __slots__ = ("data", "flags", "stream_id")

    def __init__(self, stream_id: int, data: bytes, flags: frozenset[str]) -> None:
        self.stream_id = stream_id
        self.data = data
        self.flags = flags


_QUIET: Final[dict[type[Frame], type[Frame]]] = {
    kind: type(kind.__name__, (kind,), {"__repr__": object.__repr__})
    for kind in (HeadersFrame, DataFrame, WindowUpdateFrame)
}


class _Frames(FrameBuffer):
    """Gives frames that are not written out at length, and heads that are no frames."""

    def __next__(self) -> Any:
        data = self._data
        if len(data) >= HEADER_BYTES and data[3] == HEADERS and not self._headers_buffer:
            flags, end = data[4], HEADER_BYTES + int.from_bytes(data[:3], "big")
            stream_id = int.from_bytes(data[5:HEADER_BYTES], "big") & _STREAM_BITS
            if flags & _LOOKED_AT == END_HEADERS and stream_id and len(data) >= end:
                block = bytes(data[HEADER_BYTES:end])
                del data[:end]
                return _Head(stream_id, block, _ENDS if flags & END_STREAM else _GOES_ON)
        found = super().__next__()
        found.__class__ = _QUIET.get(found.__class__, found.__class__)
        return found


class _Stream(H2Stream):
    """Without checks that are off, or that `connection.py` makes (of a body's length)."""

    def receive_headers(self, headers: Any, end_stream: bool, header_encoding: Any) -> Any:
        """A request's, or its trailers."""
        states = self.state_machine
        found: list[Any] = states.process_input(StreamInputs.RECV_HEADERS)
        event = found[0]
        if end_stream:
            ended = states.process_input(StreamInputs.RECV_END_STREAM)
            event.stream_ended = ended[0]
            found += ended
        elif isinstance(event, TrailersReceived):
            raise ProtocolError("trailers without END_STREAM")
        event.headers = headers
        return [], found

    def _track_content_length(self, length: int, end_stream: bool) -> None:
        pass


class TunedH2(H2Connection):
    """Without a limit on inbound streams: who uses it looks after that."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder: Any = HeadEncoder()
        self.decoder = HeadDecoder()
        self.incoming_buffer = _Frames(server=True)
        table: dict[Any, Any] = self._frame_dispatch_table
        table[_Head] = table[HeadersFrame]
        for kind, quiet in _QUIET.items():
            table[quiet] = table[kind]
        self._walk_at = _WALK_COUNT

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _Stream
        return stream

    def write_head(
        self, stream_id: int, fields: Iterable[tuple[bytes, bytes]], is_last: bool
    ) -> None:
        """A response's head (also an interim one) or its trailers, as `send_headers`."""
        fields = list(fields)
        is_interim = fields[0][0] == b":status" and fields[0][1][:1] == b"1"
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        states = self.streams[stream_id].state_machine
        states.process_input(_INTERIM if is_interim else StreamInputs.SEND_HEADERS)
        if is_last:
            states.process_input(StreamInputs.SEND_END_STREAM)
        block = self.encoder.encode(fields)
        self._data_to_send += header_frames(stream_id, block, is_last=is_last)

    def write_body(self, stream_id: int, data: bytes, is_last: bool) -> None:
        """A piece of a body, for which there is room, as `send_data`."""
        stream = self.streams[stream_id]
        self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        stream.state_machine.process_input(StreamInputs.SEND_DATA)
        if is_last:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        size = len(data)
        self.outbound_flow_control_window -= size
        stream.outbound_flow_control_window -= size
        self._data_to_send += frame(DATA, END_STREAM if is_last else 0, stream_id, data)

    @property
    def open_inbound_streams(self) -> int:
        """0, for it is compared with a limit that there is not. The walk over all streams, by which
        h2 forgets those that have ended, is made when their number has doubled.
        """
        if len(self.streams) >= self._walk_at:
            H2Connection.open_inbound_streams.fget(self)  # type: ignore[attr-defined]
            self._walk_at = len(self.streams) + max(len(self.streams), _WALK_COUNT)
        return 0
