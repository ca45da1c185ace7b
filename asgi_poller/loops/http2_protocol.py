"""An asyncio protocol between the transport of one HTTP/2 client and its streams (RFC 9113)."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from asgi_poller.asgi.refusal_log import note_refusal
from asgi_poller.asgi.scope import Peer
from asgi_poller.errors import Http2Fault, HttpFault
from asgi_poller.loops.http2_keep_alive import Http2KeepAlive
from asgi_poller.loops.http2_stream import Http2Stream, Stream
from asgi_poller.loops.http2_websocket import open_websocket
from asgi_poller.loops.lingering_close import LingeringClose
from asgi_poller.loops.server_state import Connection, ServerState
from asgi_poller.loops.timer_wheel import NEVER
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http2.connection import Http2Connection
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
from asgi_poller.protocols.http2.frames import ENHANCE_YOUR_CALM, NO_ERROR

_log = logging.getLogger("asgi_poller.error")

_LAST_REQUEST_S: Final = 1.0  # while draining: for requests that are on their way
_FLUSH_BYTES: Final = 65536  # above this is written without waiting for the end of the turn
_UNREAD_BYTES: Final = 262144  # that the peer has not taken from us: above it we take nothing of it


class Http2Protocol:
    """One client, with any number of streams. An asyncio.Protocol by its methods, as HttpProtocol
    is. Owned by the loop's thread. What its streams say in one turn is written at the end of it.
    """

    is_websocket = False
    __slots__ = (
        "_block_by",
        "_early",
        "_end_at",
        "_idle_by",
        "_is_draining",
        "_is_ending",
        "_is_flushing",
        "_is_leaving",
        "_is_reading",
        "_keep_alive",
        "_streams",
        "_transport",
        "_unsent_bytes",
        "_unwritten_bytes",
        "_waits_for_frame",
        "_write_by",
        "http2",
        "is_choked",
        "peer",
        "server",
        "timer_tick",
    )
    _transport: asyncio.Transport  # from connection_made on

    def __init__(self, server: ServerState, peer: Peer, early: bytes = b"") -> None:
        self.server = server
        self.peer = peer
        limits = server.http2_limits
        assert limits is not None  # HTTP/2 is spoken
        self.http2 = Http2Connection(limits)
        self._early = early  # what has been read already
        self._streams: dict[int, Stream] = {}
        self._is_flushing = False  # the end of this turn is on its way
        self._unwritten_bytes = 0  # about so many, in this turn
        self._is_leaving = False  # the peer begins no more streams
        self._is_draining = False  # nor do we take any
        self._is_ending = False  # nothing is read as HTTP/2 any more
        self.is_choked = False
        self._is_reading = True
        self._unsent_bytes = 0  # when it was last looked whether the peer reads
        self._end_at = NEVER  # of what the connection waits for: a whole frame, a request
        self._idle_by = NEVER  # for a request; nothing else that comes moves it
        self._waits_for_frame = False
        self._keep_alive: Http2KeepAlive
        self._block_by = NEVER  # for a header block while streams are open
        self._write_by = NEVER
        self.timer_tick = NEVER

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        self._transport = transport  # type: ignore[assignment]  # typed as its base
        server.connection_made(self)
        if self.peer.scheme == "https":
            server.note_tls(self.peer, transport)
        self._begin(server.first_octet_ticks)

    def take_over(self, old: Connection, transport: asyncio.Transport) -> None:
        """Go on with a connection whose first bytes were those of HTTP/2."""
        self._transport = transport
        self.server.connection_replaced(old, self)
        transport.set_protocol(self)  # type: ignore[arg-type]  # it has the methods
        self._begin(self.server.wheel.ticks(self.server.config.timeout_request_header))

    def _begin(self, ticks: int) -> None:
        self.server.counts.http2_connections_open += 1
        wheel = self.server.wheel
        self._set_end(wheel.now() + ticks)
        self._keep_alive = Http2KeepAlive(self.server.config, wheel)
        if self._keep_alive.at:
            wheel.schedule(self, self._keep_alive.at)
        self.wrote(0)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return
        try:
            events = self.http2.receive(data, time.monotonic())
        except Http2Fault as fault:
            fault.__traceback__ = None  # its calls hold the fault, which would hold them
            self._break(fault)
            return
        self._keep_alive.heard()
        for event in events:
            if self._is_ending:
                break
            _HANDLERS[type(event)](self, event)
        self.wrote(0)
        self._await_request()
        self._await_block()

    def eof_received(self) -> bool:
        self._flush()
        return False

    def pause_writing(self) -> None:
        self.is_choked = True
        self._watch_writing()

    def resume_writing(self) -> None:
        self.is_choked = False
        self._write_by = NEVER
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self.server.wheel.cancel(self)
        self._is_ending = True
        try:
            self._tell_all()
        finally:  # whatever happens here, the server's books are to be right
            self.server.counts.http2_connections_open -= 1
            self.server.connection_lost(self)

    def _tell_all(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._tell(stream)

    def _tell(self, stream: Stream) -> None:
        """One stream's trouble is its own."""
        try:
            stream.was_reset()
        except Exception:
            _log.exception("A stream could not be ended.")

    # Events

    def _on_request(self, event: Any) -> None:
        if event.stream_id not in self.http2.open_streams:  # it has been reset since
            return
        self.peer.accepted_at = 0.0  # a WebSocket that comes after this did not wait since then
        self._is_busy()
        stream = Http2Stream(self, event.stream_id, is_complete=event.is_complete)
        self._streams[event.stream_id] = stream
        if event.head.upgrade:
            self._open_websocket(stream, event.head)
        else:
            stream.start(event.head)

    def _open_websocket(self, stream: Http2Stream, head: RequestHead) -> None:
        """An extended CONNECT (RFC 8441, 4): `stream` answers one that is not to be served."""
        try:
            websocket, session = open_websocket(self, stream.id, head)
        except HttpFault as fault:
            stream.refuse_broken(fault, is_head=False)
            return
        self._streams[stream.id] = websocket
        websocket.run(session)

    def _on_refused(self, event: Any) -> None:
        if event.stream_id not in self.http2.open_streams:
            return
        self._is_busy()
        stream = Http2Stream(self, event.stream_id, is_complete=event.is_complete)
        self._streams[event.stream_id] = stream
        stream.refuse_broken(event.fault, is_head=event.is_head)

    def _on_body(self, event: Any) -> None:
        if stream := self._streams.get(event.stream_id):
            stream.feed(event.data, event.window_bytes)

    def _on_body_end(self, event: Any) -> None:
        if stream := self._streams.get(event.stream_id):
            stream.feed_end()

    def _on_reset(self, event: Any) -> None:
        if stream := self._streams.pop(event.stream_id, None):
            self._tell(stream)

    def _on_window(self, event: Any) -> None:
        if event.stream_id == 0:
            self._pump()
        else:
            if stream := self._streams.get(event.stream_id):
                stream.pump(2**31)

    def _on_end_known(self, event: Any) -> None:
        if self._is_draining:
            self._say_last()

    def _on_leave(self, event: Any) -> None:
        self._is_leaving = True

    # For its streams

    def wrote(self, size: int) -> None:
        """See Http2Writer."""
        self._unwritten_bytes += size
        if self._unwritten_bytes > _FLUSH_BYTES:
            self._flush()
        elif not self._is_flushing:
            self._is_flushing = True
            self.server.loop.call_soon(self._flush)

    def stream_ended(self, stream_id: int) -> None:
        """See Http2Owner."""
        self._streams.pop(stream_id, None)
        if not self._streams:
            self._await_request()

    def abandon(self, task: asyncio.Task[None] | None) -> None:
        """See Http2Owner."""
        if task is not None and not task.done():
            self.http2.abandoned_count += 1
            task.add_done_callback(self._application_ended)

    def _application_ended(self, task: asyncio.Task[None]) -> None:
        self.http2.abandoned_count -= 1

    def _flush(self) -> None:
        self._is_flushing = False
        self._unwritten_bytes = 0
        if self._transport.is_closing():
            return
        data = self.http2.take_output()
        if not data:
            return
        transport = self._transport
        transport.write(data)
        # heads and answers to PINGs have no window: who does not read them may not ask for more
        if not self.is_choked or not self._is_reading or transport.is_closing():
            return
        if transport.get_write_buffer_size() > _UNREAD_BYTES:
            self._is_reading = False
            transport.pause_reading()

    def _pump(self) -> None:
        """Give each stream that waits its turn, a piece at a time. Who had one is the last the next
        time: else the first few would take all of a small window, and the others would starve.
        """
        streams, is_moving = self._streams, True
        while is_moving and not self.is_choked:
            is_moving = False
            for stream_id, stream in list(streams.items()):
                if stream.pump(1):
                    is_moving = True
                    if streams.pop(stream_id, None) is not None:
                        streams[stream_id] = stream

    # Deadlines

    def _set_end(self, tick: int) -> None:
        self._end_at = tick
        self.server.wheel.schedule(self, tick)

    def _is_busy(self) -> None:
        """A request has come. A drain still waits only for those that were on their way."""
        self.server.counts.http2_streams += 1
        self._idle_by = NEVER
        if not self._is_draining:
            self._end_at = NEVER

    def _await_request(self) -> None:
        """Where no stream is open: wait for the next, or for the rest of a frame."""
        if self._streams or self._is_ending:
            return
        config, wheel = self.server.config, self.server.wheel
        if self._is_draining:
            if self.http2.is_leaving:
                self._end()
            return
        if self._is_leaving:
            self._say_last()
            return
        if not self.http2.has_settings:
            return  # what was set at first stands
        if not self._idle_by:
            self._idle_by = wheel.after(config.timeout_keep_alive)
        is_mid_frame = self.http2.is_mid_frame
        if is_mid_frame and not (self._waits_for_frame and self._end_at):
            self._set_end(wheel.after(config.timeout_request_header))
        elif not is_mid_frame and (self._waits_for_frame or not self._end_at):
            self._set_end(self._idle_by)
        self._waits_for_frame = is_mid_frame

    def _await_block(self) -> None:
        """Beside open streams: they do not wait for a header block that never ends."""
        if self._is_ending or not self.http2.is_mid_block:
            self._block_by = NEVER
        elif self._streams and not self._block_by:
            wheel = self.server.wheel
            self._block_by = wheel.after(self.server.config.timeout_request_header)
            wheel.schedule(self, self._block_by)

    def on_timer(self, tick: int) -> int:
        if self._write_by and tick >= self._write_by and not self._is_read_on():
            return NEVER
        if self._is_ending:
            return self._write_by
        alive = self._keep_alive
        if alive.by and tick >= alive.by:
            _log.info("Cut off %s: it answers no PING.", self.peer.client)
            self.abort()
            return NEVER
        if self._block_by and tick >= self._block_by:
            late = Http2Fault(ENHANCE_YOUR_CALM, "a header block did not come in time")
            self._break(self.http2.fail(late))
            return self._write_by
        if alive.at and tick >= alive.at:
            self.http2.ping()
            alive.sent()
            self.wrote(0)
        if self._end_at and tick >= self._end_at:
            self._end_at = NEVER
            if self._is_draining or not self._streams:
                self._say_last()
        ticks = (self._end_at, self._block_by, alive.at, alive.by, self._write_by)
        return NEVER if self._is_ending else min((each for each in ticks if each), default=NEVER)

    def _watch_writing(self) -> None:
        """See that what waits to be written goes on its way: else the peer will never read it."""
        self._unsent_bytes = self._transport.get_write_buffer_size()
        limit_s = self.server.config.timeout_write
        self._write_by = NEVER
        if self._unsent_bytes and limit_s is not None:
            self._write_by = self.server.wheel.after(limit_s)
            self.server.wheel.schedule(self, self._write_by)

    def _is_read_on(self) -> bool:
        before = self._unsent_bytes
        self._watch_writing()
        if self._unsent_bytes and self._unsent_bytes >= before:
            _log.info("Cut off %s: it reads no response (--timeout-write).", self.peer.client)
            self.abort()
            return False
        return True

    # The end

    def shutdown(self) -> None:
        """The server stops: what is on its way is served for a moment, then only the streams that
        are open (RFC 9113, 6.8).
        """
        if self._is_draining or self._is_ending:
            return
        self._is_draining = True
        self.http2.warn_of_end()
        self.wrote(0)
        self._set_end(self.server.wheel.after(_LAST_REQUEST_S))

    def abort(self) -> None:
        try:
            self._flush()
        finally:
            self._transport.abort()

    def _say_last(self) -> None:
        """No further stream; the connection ends with those that are open."""
        self._is_draining = True
        self.http2.go_away(NO_ERROR)
        self.wrote(0)
        if not self._streams:
            self._end()

    def _break(self, fault: Http2Fault) -> None:
        """The peer broke a rule: GOAWAY says which (RFC 9113, 5.4.1)."""
        note_refusal(f"HTTP/2: {fault.reason}", self.peer.client)
        self.server.counts.http2_faults += 1
        self.server.counts.count_refusal(fault.name or "http2_protocol")
        self._end()
        self._tell_all()

    def _end(self) -> None:
        """Close once all is written. What the peer has still on its way, be it only the window for
        the last response, would destroy what it is still to read: it is taken and thrown away.
        """
        if self._is_ending:
            return
        self._flush()
        self._is_ending = True
        self._end_at = self._block_by = NEVER
        self._keep_alive.stop()
        transport = self._transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():
            transport.close()  # a slow peer: how long that may take is another limit
            self._watch_writing()
            return
        self.server.wheel.cancel(self)
        lost = functools.partial(self.connection_lost, None)
        LingeringClose(transport, self.server.wheel, lost).start()


_HANDLERS: Final[dict[type[Event], Callable[[Http2Protocol, Any], None]]] = {
    RequestReceived: Http2Protocol._on_request,
    RequestRefused: Http2Protocol._on_refused,
    BodyReceived: Http2Protocol._on_body,
    BodyEnded: Http2Protocol._on_body_end,
    StreamReset: Http2Protocol._on_reset,
    WindowOpened: Http2Protocol._on_window,
    EndKnown: Http2Protocol._on_end_known,
    PeerLeaves: Http2Protocol._on_leave,
}
