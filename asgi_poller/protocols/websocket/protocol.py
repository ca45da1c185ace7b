"""What arrives on a WebSocket, from octets to events, and what leaves it, from messages to octets
(RFC 6455, RFC 7692).

Whole data frames, which nearly all are, take under 1 µs in `_read_frames`; fragments, control
frames and what is wrong go through `_read_other`. `wsproto_full.py` does the same with wsproto, and
a property test holds both to the same events for the same octets.
"""

from __future__ import annotations

from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # PyPy, or a wheel without the C extension: the same function, slower
    from websockets.utils import apply_mask

from asgi_poller.errors import WebSocketFault
from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.fragments import PIECE_BYTES, FragmentedMessage
from asgi_poller.protocols.websocket.frames import (
    CLOSE_INVALID_DATA,
    CLOSE_MESSAGE_TOO_BIG,
    CLOSE_PROTOCOL_ERROR,
    FIN_BINARY,
    FIN_BINARY_DEFLATED,
    FIN_CLOSE,
    FIN_PING,
    FIN_PONG,
    FIN_TEXT,
    FIN_TEXT_DEFLATED,
    MAX_CONTROL_BYTES,
    RSV1,
    SHORT_BINARY,
    SHORT_TEXT,
    Event,
    check_data,
    check_first,
    control_fault,
    decode_control,
    encode_close,
    encode_frame,
    extended_length,
    max_compressed_bytes,
)
from asgi_poller.protocols.websocket.permessage_deflate import SERVER_WINDOW_BITS, Deflate

# A burst of tiny frames, or of small compressed ones that grow, is read in parts: the rest
# stays here until it is asked for, so that one read can neither flood the application's queue nor
# hold the loop.
_READ_BUDGET_FRAMES = range(256)
_READ_BUDGET_BYTES = 1024 * 1024  # inflated
_VIEW_BYTES = 4096  # above this a memoryview is cheaper than a slice
_NOTHING: list[Event] = []  # what an incomplete frame gives; never changed

# First octets that the fast lane takes (RFC 6455, 5.2): FIN, no reserved bit but an agreed RSV1,
# text or binary
FAST_NONE: frozenset[int] = frozenset()
_FAST_PLAIN = frozenset({FIN_TEXT, FIN_BINARY})
_FAST_DEFLATED = _FAST_PLAIN | {FIN_TEXT_DEFLATED, FIN_BINARY_DEFLATED}
_CONTINUATIONS = frozenset({0x00, 0x80})
_FIN_CONTROLS = frozenset({FIN_CLOSE, FIN_PING, FIN_PONG})
_OUT_OF_ORDER = {
    True: "a continuation frame without a message",
    False: "a message within a fragmented one",
}


# How the frames of a message depend on the WebSocket that they are for: not at all, on deflate as
# nearly all have agreed on it, or on more than that.
FRAMED_PLAIN: Final = 0
FRAMED_DEFLATED: Final = 1
FRAMED_ALONE: Final = 2


class FrameCache:
    """The last compressed message of a loop: one message sent to a thousand WebSockets is
    compressed once. `counts` are the loop's, of what compression saves.
    """

    __slots__ = ("counts", "frame", "message")

    def __init__(self, counts: LoopCounts | None = None) -> None:
        self.counts = LoopCounts() if counts is None else counts
        self.message: str | bytes | None = None
        self.frame = b""


class WebSocketWire:
    """One WebSocket's octets. Sans I/O: `receive` what the socket gave, write what `text`,
    `binary`, ... return.

    Owned by the WebSocket's loop. `max_bytes` bounds a message, inflated; `deflate` is the
    negotiated extension and messages of `deflate_threshold` octets or more are compressed with it.
    After `receive` the caller must look at `has_buffered`: while it is true, call `receive(b"")`
    again as soon as it can take more.
    """

    __slots__ = (
        "_buffer",
        "_cache",
        "_deflate",
        "_deflate_threshold",
        "_fast",
        "_fast_between_messages",
        "_fragments",
        "_lone_bytes",
        "_max_bytes",
        "_need",
        "has_buffered",
        "has_ended",
    )

    def __init__(
        self,
        max_bytes: int,
        deflate: Deflate | None = None,
        deflate_threshold: int = 0,
        cache: FrameCache | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._lone_bytes = 125 if max_bytes > 125 else max_bytes  # min() costs a whole call
        self._deflate = deflate
        self._deflate_threshold = deflate_threshold
        self._cache = FrameCache() if cache is None else cache
        self._fast_between_messages = _FAST_PLAIN if deflate is None else _FAST_DEFLATED
        self._fast = self._fast_between_messages
        self._fragments: FragmentedMessage | None = None  # the message at hand, if it has begun
        self._buffer: bytearray | None = None  # a frame's beginning
        self._need = 0  # octets `_buffer` must hold before it is worth another look
        self.has_ended = False
        self.has_buffered = False

    @property
    def framing(self) -> int:
        """Which other WebSockets' frames are the same for the same message: FRAMED_PLAIN, ..."""
        deflate = self._deflate
        if deflate is None:
            return FRAMED_PLAIN
        if deflate.server_takeover or deflate.server_bits != SERVER_WINDOW_BITS:
            return FRAMED_ALONE
        return FRAMED_DEFLATED

    @property
    def inflates(self) -> bool:
        """Whether messages may be larger than what they came in."""
        return self._deflate is not None

    def parse_single(self, data: bytes) -> str | bytes | None:
        """The message, if `data` is one short frame of the fast lane and nothing else: the read
        that is commonest of all needs no loop and no list. None: `receive` it.
        """
        length = len(data) - 6
        if (
            0 <= length <= self._lone_bytes
            and data[1] == length + 128
            and self._buffer is None
            and (first := data[0]) in self._fast
        ):
            if first == FIN_BINARY:
                return apply_mask(data[6:], data[2:6])
            if first == FIN_TEXT:
                try:
                    return apply_mask(data[6:], data[2:6]).decode()
                except UnicodeDecodeError:
                    pass  # receive() says what is wrong with it
        return None

    def receive(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order; a Close or a WebSocketFault is the last there
        will ever be.

        The list is the caller's to keep, but not to change while it is empty.
        """
        buffer = self._buffer
        if buffer is None:
            return self._read(data)
        buffer += data
        if len(buffer) < self._need:
            return _NOTHING
        self._buffer = None
        return self._read(buffer)

    def _read(self, data: bytes | bytearray) -> list[Event]:
        events: list[Event] = []
        if self.has_ended:
            return events  # nothing after a Close or a fault counts
        try:
            at, need, is_cut = self._read_frames(data, events)
        except UnicodeDecodeError:
            return self._end(events, WebSocketFault(CLOSE_INVALID_DATA, "text is not UTF-8"))
        except WebSocketFault as fault:
            # its traceback knows this frame, and this frame the fault: a circle
            return self._end(events, fault.with_traceback(None))
        fragments = self._fragments
        is_unread = fragments is not None and fragments.is_unread
        self.has_buffered = is_cut and (at < len(data) or is_unread)
        if at < len(data):
            self._buffer = bytearray(memoryview(data)[at:])
            self._need = need
        return events

    def _read_frames(
        self, data: bytes | bytearray, events: list[Event], at: int = 0
    ) -> tuple[int, int, bool]:
        """Frames, up to the read budget. In `data` a frame starts `at`, its payload at `start`,
        its end is `stop`.

        Returns where it stopped, how long the frame there is where that is known, and whether it
        stopped because that is enough for once.
        """
        end = len(data)
        inflated = 0
        if self._fragments is not None and self._fragments.is_unread:
            self._go_on(self._fragments, events)
            return at, 0, True
        for _ in _READ_BUDGET_FRAMES:
            if end - at < 2:
                break
            first = data[at]
            length = data[at + 1] - 128  # MASK is the high bit: negative without it
            if length < 0 or first not in self._fast:
                count = len(events)
                taken = self._read_other(data, at, events)
                if taken <= 0:
                    return at, -taken, False
                at += taken
                if self._fragments is not None and self._fragments.is_unread:
                    return at, 0, True
                if self._deflate is not None and len(events) > count:
                    inflated += _message_bytes(events[-1])
                    if inflated >= _READ_BUDGET_BYTES:
                        return at, 0, True
                continue
            start = at + 6
            if length > 125:
                start, length = extended_length(data, at)
                if not start:
                    break
            if length > self._max_bytes and (
                not first & RSV1 or length > max_compressed_bytes(self._max_bytes)
            ):
                raise WebSocketFault(CLOSE_MESSAGE_TOO_BIG, "message too big")
            stop = start + length
            if stop > end:
                return at, stop - at, False
            view = data if length < _VIEW_BYTES else memoryview(data)
            payload = apply_mask(view[start:stop], data[start - 4 : start])
            at = stop
            if first == FIN_BINARY:
                events.append(payload)
            elif first == FIN_TEXT:
                events.append(payload.decode())
            else:
                inflated += self._inflate(first, payload, events)
                if inflated >= _READ_BUDGET_BYTES:
                    return at, 0, True
        else:
            return at, 0, True
        return at, 0, False

    def _inflate(self, first: int, payload: bytes, events: list[Event]) -> int:
        """A compressed message, or a piece of it; how much of the read budget that took."""
        assert self._deflate is not None  # only then is such a first byte fast
        if len(payload) > PIECE_BYTES:
            fragments = FragmentedMessage(first, self._max_bytes, self._deflate)
            self._take_fragment(fragments, payload, events, is_last=True)
            return _READ_BUDGET_BYTES
        message = self._deflate.decompress(payload, self._max_bytes)
        counts = self._cache.counts
        counts.inflated_bytes += len(payload)
        counts.raw_bytes_inflated += len(message)
        events.append(message if first == FIN_BINARY_DEFLATED else message.decode())
        return len(message)

    def _end(self, events: list[Event], fault: WebSocketFault) -> list[Event]:
        events.append(fault)
        self._end_input()
        self.has_buffered = False
        return events

    def _end_input(self) -> None:
        self.has_ended = True
        self._fragments = None
        self._fast = self._fast_between_messages = FAST_NONE

    def _read_other(self, data: bytes | bytearray, at: int, events: list[Event]) -> int:
        """Read a frame that is no whole message: how many octets that took. If it is not complete,
        none or less: minus how many are needed, where that is known.

        Raises WebSocketFault for what RFC 6455, 5 does not allow.
        """
        first, second = data[at], data[at + 1]
        if first in _FIN_CONTROLS and 0x80 <= second <= 0x80 + MAX_CONTROL_BYTES:
            return self._read_control(data, at, events)
        check_first(first)
        if first & 0x08:
            raise control_fault(first, second)
        start, length = at + 6, second & 127
        if length > 125:
            start, length = extended_length(data, at)
            if not start:
                return 0
        fragments = self._fragments
        if fragments is None or first not in _CONTINUATIONS:
            new = FragmentedMessage(first, self._max_bytes, self._deflate)
            new.check(length)
        else:
            new = fragments
            new.check(length)
        check_data(first, second, is_deflated=self._deflate is not None)
        if (fragments is None) is (first in _CONTINUATIONS):
            raise WebSocketFault(CLOSE_PROTOCOL_ERROR, _OUT_OF_ORDER[fragments is None])
        stop = start + length
        if stop > len(data):
            return at - stop
        view = data if length < _VIEW_BYTES else memoryview(data)
        payload = apply_mask(view[start:stop], data[start - 4 : start])
        self._take_fragment(new, payload, events, is_last=bool(first & 0x80))
        return stop - at

    def _take_fragment(
        self, fragments: FragmentedMessage, payload: bytes, events: list[Event], *, is_last: bool
    ) -> None:
        fragments.put(payload, is_last=is_last)
        self._fragments = fragments
        self._fast = FAST_NONE
        self._go_on(fragments, events)

    def _go_on(self, fragments: FragmentedMessage, events: list[Event]) -> None:
        """Read the fragment at hand, or a piece of it."""
        if fragments.read() and fragments.is_last:
            events.append(fragments.finish())
            counts = self._cache.counts
            counts.inflated_bytes += fragments.compressed_bytes
            counts.raw_bytes_inflated += fragments.inflated_bytes
            self._fragments = None
            self._fast = self._fast_between_messages

    def _read_control(self, data: bytes | bytearray, at: int, events: list[Event]) -> int:
        """As `_read_other`, for a control frame whose header is in order."""
        first, length = data[at], data[at + 1] & 127
        start = at + 6
        if start + length > len(data):
            return 0
        payload = apply_mask(data[start : start + length], data[start - 4 : start])
        events.append(decode_control(first, payload))
        if first != FIN_CLOSE:
            return 6 + length
        self._end_input()
        return len(data) - at  # nothing after a Close counts

    # What leaves. Each returns the octets to write.

    def text(self, message: str) -> bytes:
        """One text message (RFC 6455, 5.6), compressed where that was agreed and is worth it."""
        payload = message.encode()
        length = len(payload)
        if self._deflate is not None and length >= self._deflate_threshold:
            return self._deflated(FIN_TEXT_DEFLATED, message, payload)
        if length < 126:
            return SHORT_TEXT[length] + payload
        return encode_frame(FIN_TEXT, payload)

    def binary(self, message: bytes) -> bytes:
        """One binary message (RFC 6455, 5.6), compressed where that was agreed and is worth it."""
        length = len(message)
        if self._deflate is not None and length >= self._deflate_threshold:
            return self._deflated(FIN_BINARY_DEFLATED, message, message)
        if length < 126:
            return SHORT_BINARY[length] + message
        return encode_frame(FIN_BINARY, message)

    def _deflated(self, first: int, message: str | bytes, payload: bytes) -> bytes:
        deflate, cache = self._deflate, self._cache
        assert deflate is not None
        # a compressed frame may be shared only where it depends neither on what its WebSocket was
        # sent before nor on a window that its peer asked for
        if deflate.server_takeover or deflate.server_bits != SERVER_WINDOW_BITS:
            return self._compressed(first, payload)
        if cache.message is message:
            return cache.frame
        frame = self._compressed(first, payload)
        # kept alive by the cache, so that no other message can have its identity
        cache.message = message
        cache.frame = frame
        return frame

    def _compressed(self, first: int, payload: bytes) -> bytes:
        """A frame, compressed if that makes it smaller: RFC 7692, 6 leaves it to the sender, and
        random octets only grow. With context takeover the peer's window must see all that ours saw,
        and a threshold of 0 asks for all of them.
        """
        deflate = self._deflate
        assert deflate is not None
        packed = deflate.compress(payload)
        counts = self._cache.counts
        counts.raw_bytes_deflated += len(payload)
        counts.deflated_bytes += len(packed)
        is_free = self._deflate_threshold > 0 and not deflate.server_takeover
        if is_free and len(packed) >= len(payload):
            return encode_frame(first & ~RSV1, payload)
        return encode_frame(first, packed)

    def ping(self, payload: bytes = b"") -> bytes:
        """A Ping of at most 125 octets (RFC 6455, 5.5.2)."""
        return encode_frame(FIN_PING, payload[:MAX_CONTROL_BYTES])

    def pong(self, payload: bytes) -> bytes:
        """The answer to a Ping (RFC 6455, 5.5.3)."""
        return encode_frame(FIN_PONG, payload)

    def close(self, code: int | None, reason: str = "") -> bytes:
        """A Close frame (RFC 6455, 5.5.1); the caller sends no data after it."""
        return encode_close(code, reason)


def _message_bytes(event: Event) -> int:
    return len(event) if isinstance(event, str | bytes) else 0
