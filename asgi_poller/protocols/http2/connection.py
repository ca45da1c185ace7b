"""One HTTP/2 connection, server side, on h2: bytes to events and back (RFC 9113).

h2 has the states, HPACK and the flow control. Beside it is done here:

- Frames are looked at before h2 gets them: what only costs us work is counted (`flood_guard.py`),
  and a GOAWAY does not end the streams that are under way, which it does in h2.
- A request that is not valid, or one stream too many, costs its stream and not its connection.
- Windows: what is received is credited to the connection at once and to its stream when it is
  wanted: who does not read holds up no other stream, and what waits has a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from traceback import clear_frames
from typing import Any, Final

from h2 import events as h2_events
from h2.exceptions import ProtocolError

from asgi_poller.errors import Http2Fault, HttpFault
from asgi_poller.protocols.http2.events import (
    BodyEnded,
    BodyReceived,
    EndKnown,
    Event,
    PeerLeaves,
    RequestReceived,
    RequestRefused,
    StreamReset,
    WindowOpened,
)
from asgi_poller.protocols.http2.flood_guard import FloodGuard
from asgi_poller.protocols.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    LAST_STREAM,
    NO_ERROR,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    goaway_frame,
    is_goaway,
)
from asgi_poller.protocols.http2.h2_connection import made_h2, words_of
from asgi_poller.protocols.http2.limits import Http2Limits
from asgi_poller.protocols.http2.requests import announced_bytes, check_trailers, request_head
from asgi_poller.protocols.http2.tunnel import Tunnel, TunnelWindow, payload, stream_of

_PING: Final = b"asgi-pol"
_END_PING: Final = b"asgi-end"  # behind the warning of the end
Field = tuple[bytes, bytes]


class Http2Connection:
    """Feed `receive`; it returns events. What is to be written is in `take_output`.

    Owned by the connection's loop. `receive` raises Http2Fault when the connection must end: the
    GOAWAY that says so is among the output then, and nothing more may be fed.
    """

    __slots__ = (
        "_guard",
        "_h2",
        "_in_headers",
        "_is_begun",
        "_is_broken",
        "_is_settled",
        "_limits",
        "_missing_bytes",
        "_output",
        "_preface_bytes",
        "_resets_in_read",
        "_tunnel_window",
        "_tunnels",
        "_unread",
        "abandoned_count",
        "is_leaving",
        "last_stream",
        "open_streams",
    )

    def __init__(self, limits: Http2Limits) -> None:
        self._limits = limits
        self._guard = FloodGuard()
        self._output: list[bytes] = []  # what is not in h2's own buffer; that comes after it
        self._unread = b""
        self._preface_bytes = 0  # of it that have come
        self._in_headers = False  # CONTINUATION is to follow
        self._is_begun = False  # the first frame has come
        self._is_settled = False  # the peer's settings have come
        self._resets_in_read = 0  # of which it is still to be seen what has become of them
        self._is_broken = False  # a fault was raised; h2 may take nothing more
        self._missing_bytes: dict[int, int] = {}  # of bodies whose length was announced
        self._tunnels: dict[int, Tunnel] = {}  # streams that are WebSockets, until one side ends
        self._tunnel_window = TunnelWindow(limits.connection_window_bytes)
        self.is_leaving = False  # the last GOAWAY is sent: no further stream
        #: Applications that still run for streams that have been reset, which have a limit of
        #: their own: a peer that opens and resets (CVE-2023-44487) gets no more than twice as
        #: many as one that waits.
        self.abandoned_count = 0
        self.last_stream = 0  # that was taken
        self.open_streams: set[int] = set()  # on which something is still to be sent or received
        self._h2, settings = made_h2(limits)
        self._output.append(settings)

    # What comes

    @property
    def is_mid_frame(self) -> bool:
        """Whether the preface, a frame or a header block has begun and is not complete."""
        return bool(self._unread) or self._in_headers or self._preface_bytes < len(PREFACE)

    @property
    def is_mid_block(self) -> bool:
        """Whether a header block has begun and is not complete (RFC 9113, 4.3)."""
        unread = self._unread
        return self._in_headers or (len(unread) > 3 and unread[3] in (HEADERS, CONTINUATION))

    @property
    def has_settings(self) -> bool:
        """Whether the peer has sent all that opens a connection (RFC 9113, 3.4)."""
        return self._is_settled

    def receive(self, data: bytes, now_s: float) -> list[Event]:
        """The events that `data` completes; it is `now_s`, in monotonic seconds. Raises
        Http2Fault.
        """
        self._guard.at(now_s)
        found: list[Event] = []
        self._resets_in_read = 0
        if self._preface_bytes < len(PREFACE):
            data = self._take_preface(data)
        data = self._unread + data if self._unread else data
        at = done = 0
        size = len(data)
        in_batch = False  # a request's head, perhaps a WebSocket's
        while size - at >= HEADER_BYTES:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > FRAME_BYTES:
                self._pass(data[done:at], found)
                raise self.fail(Http2Fault(FRAME_SIZE_ERROR, "a frame is too large"))
            end = at + HEADER_BYTES + length
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == DATA and (self._tunnels or in_batch) and not flags & END_STREAM:
                stream_id = stream_of(data, at)
                if in_batch or (done < at and stream_id in self._tunnels):
                    self._pass(data[done:at], found)  # what comes before it
                    done, in_batch = at, False
                if stream_id in self._tunnels and self._take_tunneled(data, (at, end), found):
                    at = done = end
                    continue
            self._check(self._guard.frame(kind, flags, length))
            if not self._is_begun:
                self._is_begun = True
                if kind != SETTINGS or flags & ACK:  # RFC 9113, 3.4
                    raise self.fail(Http2Fault(PROTOCOL_ERROR, "the first frame is no SETTINGS"))
            if kind in (HEADERS, CONTINUATION):
                self._in_headers = not flags & END_HEADERS
                in_batch = True
            elif kind == GOAWAY and not self._in_headers and is_goaway(data[at:end]):
                self._pass(data[done:at], found)
                found.append(PeerLeaves())
                done = end
            at = end
        self._unread = data[at:]
        self._pass(data[done:at], found)
        return found

    def _take_tunneled(self, data: bytes, place: tuple[int, int], found: list[Event]) -> bool:
        """DATA of a WebSocket, from and to a place in `data`; False: it is for h2 to say what is
        wrong with it.
        """
        piece = payload(data, *place)
        if piece is None or self._in_headers:
            return False
        stream_id, used = stream_of(data, place[0]), place[1] - place[0] - HEADER_BYTES
        fault = self._guard.frame(DATA, 0, len(piece)) or self._tunnels[stream_id].consume(used)
        if fault is not None:
            raise self.fail(fault)
        self._output += self._tunnel_window.consume(used)
        if piece:
            self._guard.received(len(piece))
            found.append(BodyReceived(stream_id, piece, used))
        elif used:
            self.credit(stream_id, used)  # padding alone
        return True

    def _take_preface(self, data: bytes) -> bytes:
        begun = self._preface_bytes
        part = data[: len(PREFACE) - begun]
        if part != PREFACE[begun : begun + len(part)]:
            raise self.fail(Http2Fault(PROTOCOL_ERROR, "this is not HTTP/2"))
        self._preface_bytes += len(part)
        self._h2.receive_data(part)
        return data[len(part) :]

    def _pass(self, frames: bytes, found: list[Event]) -> None:
        """Give whole frames to h2."""
        if not frames:
            return
        self._h2_output()  # what we reset ourselves is not the peer's fault
        events: list[Any] = []
        broken: Http2Fault | None = None
        try:
            events = self._h2.receive_data(frames)
        except ProtocolError as error:
            broken = Http2Fault(int(error.error_code), words_of(error))
            clear_frames(error.__traceback__)  # h2's hold their own exceptions
        if broken is not None:  # not within `except`: it would hold what it stems from
            self._h2_output()
            self.is_leaving = True
            self._is_broken = True
            raise broken
        answers = self._h2_output()
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event, found)
        self._check(self._guard.resets(answers))

    def _check(self, fault: Http2Fault | None) -> None:
        """What the guard says."""
        if fault is not None:
            raise self.fail(fault)

    def fail(self, fault: Http2Fault) -> Http2Fault:
        """The connection ends, for the peer's fault: the same one, once it is said."""
        self.go_away(fault.code, fault.reason)
        self._is_broken = True
        return fault

    def _on_request(self, event: Any, found: list[Event]) -> None:
        stream_id: int = event.stream_id
        is_complete = event.stream_ended is not None
        limit = self._limits.stream_count
        abandoned_count = self.abandoned_count + self._resets_in_read
        if self.is_leaving or len(self.open_streams) >= limit or abandoned_count >= limit:
            self._reset_in_h2(stream_id, REFUSED_STREAM)
            self._check(self._guard.refused())
            return
        self.last_stream = stream_id
        self.open_streams.add(stream_id)
        try:
            head = request_head(
                event.headers,
                self._limits.head,
                is_complete=is_complete,
                websockets=self._limits.websockets,
            )
        except HttpFault as fault:
            fault.__traceback__ = None  # it would hold `found`, and that holds the fault
            self._check(self._guard.refused())
            is_head = (b":method", b"HEAD") in event.headers
            found.append(RequestRefused(stream_id, fault, is_head, is_complete))
            return
        if head.upgrade and not is_complete:
            window_bytes = self._limits.stream_window_bytes
            self._tunnels[stream_id] = Tunnel(self._h2, stream_id, window_bytes)
        if (length := announced_bytes(head)) is not None:
            self._missing_bytes[stream_id] = length
        found.append(RequestReceived(stream_id, head, is_complete))

    def _on_data(self, event: Any, found: list[Event]) -> None:
        used: int = event.flow_controlled_length
        if used:
            self._h2.increment_flow_control_window(used)
        if event.stream_id not in self.open_streams:
            return
        if event.stream_id in self._missing_bytes:
            self._missing_bytes[event.stream_id] -= len(event.data)
            if self._missing_bytes[event.stream_id] < 0:
                self._break_off(event.stream_id, found)
                return
        if event.data:
            self._guard.received(len(event.data))
            found.append(BodyReceived(event.stream_id, bytes(event.data), used))
        elif used and event.stream_ended is None:
            self.credit(event.stream_id, used)  # padding alone

    def _on_end(self, event: Any, found: list[Event]) -> None:
        self._tunnels.pop(event.stream_id, None)
        if event.stream_id in self.open_streams:
            if self._missing_bytes.pop(event.stream_id, 0):
                self._break_off(event.stream_id, found)
            else:
                found.append(BodyEnded(event.stream_id))

    def _break_off(self, stream_id: int, found: list[Event]) -> None:
        """A request turns out not to be valid: its stream ends (RFC 9113, 8.1.1)."""
        self.reset(stream_id, PROTOCOL_ERROR)
        found.append(StreamReset(stream_id, PROTOCOL_ERROR))

    def _on_trailers(self, event: Any, found: list[Event]) -> None:
        try:
            check_trailers(event.headers)
        except HttpFault:
            if event.stream_id in self.open_streams:
                self._break_off(event.stream_id, found)

    def _on_reset(self, event: Any, found: list[Event]) -> None:
        self._forget(event.stream_id)
        if event.stream_id in self.open_streams:
            self.open_streams.discard(event.stream_id)
            self._resets_in_read += 1
            found.append(StreamReset(event.stream_id, int(event.error_code)))

    def _on_window(self, event: Any, found: list[Event]) -> None:
        found.append(WindowOpened(event.stream_id))

    def _on_settings(self, event: Any, found: list[Event]) -> None:
        self._is_settled = True
        found.append(WindowOpened(0))  # the initial window may be larger now

    def _on_ping_answer(self, event: Any, found: list[Event]) -> None:
        if event.ping_data == _END_PING:
            found.append(EndKnown())

    # What is sent

    def take_output(self) -> bytes:
        """What is to be written now."""
        self._h2_output()
        output, self._output = self._output, []
        return output[0] if len(output) == 1 else b"".join(output)

    def _h2_output(self) -> bytes:
        """What h2 wants to send since it was last looked at."""
        data = self._h2.data_to_send()
        if data:
            self._output.append(data)
        return data

    def send_head(self, stream_id: int, fields: Iterable[Field], *, is_last: bool) -> None:
        """A response's head (also an interim one) or its trailers. `is_last`: nothing follows."""
        if self._is_writable(stream_id):
            self._h2.write_head(stream_id, fields, is_last)

    def room(self, stream_id: int) -> int:
        """Bytes of a body that may be sent now on a stream, in one piece."""
        if not self._is_writable(stream_id):
            return 0
        tunnel = self._tunnels.get(stream_id)
        if tunnel is not None:
            return min(tunnel.room, FRAME_BYTES)
        window: int = self._h2.local_flow_control_window(stream_id)
        return min(window, self._h2.max_outbound_frame_size, FRAME_BYTES)

    def send_body(
        self, stream_id: int, data: bytes, *, is_last: bool, is_cut: bool = False
    ) -> None:
        """A piece of a body, for which there must be room; `is_cut`: more is there."""
        if not self._is_writable(stream_id):
            return
        tunnel = None if is_last else self._tunnels.get(stream_id)
        if tunnel is None:
            self._h2.write_body(stream_id, data, is_last)
        else:
            self._h2_output()
            self._output.append(tunnel.data_frame(data))
        self._guard.sent(len(data), is_cut=is_cut)

    def _is_writable(self, stream_id: int) -> bool:
        """Whether h2 takes something for it. A reset or a fault that came in the same read as an
        earlier event is known to h2 when that event is handled: what is said to it goes nowhere.
        """
        if self._is_broken:
            return False
        if stream_id in self._tunnels:
            return True
        stream = self._h2.streams.get(stream_id)
        return stream is not None and not stream.closed

    def credit(self, stream_id: int, window_bytes: int) -> None:
        """The stream's peer may send so many bytes more."""
        tunnel = self._tunnels.get(stream_id)
        if tunnel is not None:
            if not self._is_broken:
                self._h2_output()
                self._output.append(tunnel.credit(window_bytes))
            return
        stream = self._h2.streams.get(stream_id)
        if not self._is_broken and stream is not None and stream.open:
            self._h2.increment_flow_control_window(window_bytes, stream_id)

    def close_stream(self, stream_id: int) -> None:
        """Both sides have said all on it."""
        self._forget(stream_id)
        if stream_id in self.open_streams:  # else the peer has reset it
            self.open_streams.discard(stream_id)
            self._guard.served()
        self._h2.forget(stream_id)

    def reset(self, stream_id: int, code: int) -> None:
        """End a stream before its end (RFC 9113, 6.4)."""
        self._forget(stream_id)
        if stream_id in self.open_streams:
            self.open_streams.discard(stream_id)
            self._reset_in_h2(stream_id, code)

    def _forget(self, stream_id: int) -> None:
        self._tunnels.pop(stream_id, None)
        self._missing_bytes.pop(stream_id, None)

    def _reset_in_h2(self, stream_id: int, code: int) -> None:
        if self._is_writable(stream_id):
            self._h2.reset_stream(stream_id, code)

    def ping(self) -> None:
        """PING (RFC 9113, 6.7)."""
        if not self._is_broken:
            self._h2.ping(_PING)

    def warn_of_end(self) -> None:
        """The connection will end; what is on its way is still taken (RFC 9113, 6.8)."""
        self._h2_output()
        self._output.append(goaway_frame(LAST_STREAM, NO_ERROR))
        self._h2.ping(_END_PING)

    def go_away(self, code: int, reason: str = "") -> None:
        """No further stream is taken. It is said once; a fault is said in any case."""
        if self.is_leaving and code == NO_ERROR:
            return
        self.is_leaving = True
        self._h2_output()
        self._output.append(goaway_frame(self.last_stream, code, reason.encode("ascii", "replace")))


_HANDLERS: Final[dict[type, Callable[[Http2Connection, Any, list[Event]], None]]] = {
    h2_events.RequestReceived: Http2Connection._on_request,
    h2_events.DataReceived: Http2Connection._on_data,
    h2_events.StreamEnded: Http2Connection._on_end,
    h2_events.TrailersReceived: Http2Connection._on_trailers,
    h2_events.StreamReset: Http2Connection._on_reset,
    h2_events.WindowUpdated: Http2Connection._on_window,
    h2_events.RemoteSettingsChanged: Http2Connection._on_settings,
    h2_events.PingAckReceived: Http2Connection._on_ping_answer,
}
