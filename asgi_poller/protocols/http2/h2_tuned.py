"""What of h2 is done otherwise, because it costs much for each request or ends too much: beside its
states, which stay its own.

- Before each new stream h2 counts those that are open, and walks over all of them to do so; and it
  remembers 65,536 of those that have ended.
- A body that does not have the length that its head says ends the connection in h2; it is for the
  stream alone (RFC 9113, 8.1.1), and counted in `connection.py`.
- hpack encodes each response's fields again (`head_encoder.py`).
- hpack decodes each request's fields again. A client that asks for the same thing again sends the
  same bytes, and they say the same for as long as its table stays as it is.
- Each frame that comes is written out for a log that there is not, and each is an object with a set
  of its flags first, also one that goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection
from h2.events import TrailersReceived
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream, StreamInputs
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, WindowUpdateFrame

from asgi_poller.protocols.http2.frames import DATA, END_STREAM, frame, header_frames, whole_head
from asgi_poller.protocols.http2.head_encoder import HeadEncoder

_WALK_COUNT: Final = 32  # streams that have come since the last walk over them, at least
_KEPT_BLOCKS: Final = 16  # of a connection
_KEPT_BLOCK_BYTES: Final = 512
_KEPT_BLOCK_FIELDS: Final = 32  # which one byte each may stand for
_TABLE_SIZE: Final = 0x20  # RFC 7541, 6.3: 001 in the first three bits
_KIND: Final = 0xE0
_ENDS: Final = frozenset(("END_HEADERS", "END_STREAM"))
_GOES_ON: Final = frozenset(("END_HEADERS",))
_INTERIM: Final = StreamInputs.SEND_INFORMATIONAL_HEADERS


class HeadDecoder(Decoder):
    """Keeps what blocks of fields said that left the table as it was, until it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[bytes, Any] = {}

    def decode(self, data: bytes, raw: bool = False) -> Any:
        """See hpack. h2 always asks for what is raw, and changes nothing of what it gets."""
        kept = self.kept.get(data)
        if kept is not None:
            return kept
        entries = self.header_table.dynamic_entries
        count, newest = len(entries), entries[0] if entries else None
        before, self.kept = self.kept, {}  # an error may leave the table half changed
        fields: Any = super().decode(data, raw)
        is_same = len(entries) == count and (entries[0] if entries else None) is newest
        if is_same and (not data or data[0] & _KIND != _TABLE_SIZE):
            self.kept = before if len(before) < _KEPT_BLOCKS else {}
            if len(data) <= _KEPT_BLOCK_BYTES and len(fields) <= _KEPT_BLOCK_FIELDS:
                self.kept[data] = fields
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
        if not self._headers_buffer and (head := whole_head(self._data)) is not None:
            stream_id, block, is_last, end = head
            del self._data[:end]
            return _Head(stream_id, block, _ENDS if is_last else _GOES_ON)
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

    MAX_CLOSED_STREAMS = 4096
    decoder: HeadDecoder
    highest_inbound_stream_id: int

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder: Any = HeadEncoder()
        self.decoder = HeadDecoder()
        self.incoming_buffer = _Frames(server=True)
        table: dict[Any, Any] = self._frame_dispatch_table
        table[_Head] = self._receive_head
        for kind, quiet in _QUIET.items():
            table[quiet] = table[kind]
        self._walk_at = _WALK_COUNT

    def _receive_head(self, head: _Head) -> Any:
        """`_receive_headers_frame`, for what need not be read again."""
        fields = self.decoder.kept.get(head.data)
        if fields is None:
            return self._receive_headers_frame(head)  # type: ignore[arg-type]  # as far as it looks
        events = self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        stream: Any = self._get_or_create_stream(head.stream_id, AllowedStreamIDs.ODD)
        frames, more = stream.receive_headers(fields, "END_STREAM" in head.flags, None)
        return frames, events + more

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        if stream_id <= self.highest_inbound_stream_id or stream_id % 2 == 0:
            return super()._begin_new_stream(stream_id, allowed_ids)  # says what is wrong with it
        if len(self.streams) >= self._walk_at:
            self._forget_all()
        stream = _Stream(
            stream_id,
            config=self.config,
            inbound_window_size=self.local_settings.initial_window_size,
            outbound_window_size=self.remote_settings.initial_window_size,
        )
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        self.streams[stream_id] = stream
        self.highest_inbound_stream_id = stream_id
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

    def forget(self, stream_id: int) -> None:
        """What h2 does in its walk, for one that has ended."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by

    def _forget_all(self) -> None:
        """The walk. It is made when the number of streams has doubled."""
        for stream_id in list(self.streams):
            self.forget(stream_id)
        self._walk_at = len(self.streams) + max(len(self.streams), _WALK_COUNT)

    @property
    def open_inbound_streams(self) -> int:
        """0, for it is compared with a limit that there is not."""
        return 0
