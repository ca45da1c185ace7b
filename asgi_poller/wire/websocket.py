"""What arrives on a channel, from octets to events, and what leaves it, from messages to octets
(RFC 6455, RFC 7692).

Two lanes. wsproto is the authority on the protocol and costs 9 µs a frame. A data frame that is
complete, unfragmented and free of surprises needs none of what wsproto knows, so the *fast lane*
decodes it in under 1 µs. Every other octet goes to the *careful lane*, which is made when it is
first needed: most channels never have one.

The lanes meet at frame boundaries only. The fast lane looks at a frame's first octet; if the frame
is not for it, wsproto is fed exactly up to that frame's end. While a fragmented message is open
every frame goes to wsproto, which then has the whole of it.
"""

from __future__ import annotations

try:
    from websockets.speedups import apply_mask
except ImportError:  # PyPy, or a wheel without the C extension: the same function, slower
    from websockets.utils import apply_mask

from asgi_poller.errors import WebSocketFault
from asgi_poller.wire.deflate import SERVER_WINDOW_BITS, Deflate
from asgi_poller.wire.frames import (
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
    MAX_CONTROL_OCTETS,
    RSV1,
    SHORT_BINARY,
    SHORT_TEXT,
    Event,
    decode_control,
    encode_close,
    encode_frame,
)
from asgi_poller.wire.wsproto_lane import WsprotoLane, max_compressed_octets

# A burst of tiny frames, or of small compressed ones that grow, is cut into helpings: the rest
# stays here until it is asked for, so that one read can neither flood the application's queue nor
# hold the loop.
_HELPING_FRAMES = range(256)
_HELPING_OCTETS = 1024 * 1024  # inflated
_VIEW_OCTETS = 4096  # above this a memoryview is cheaper than a slice
_NOTHING: list[Event] = []  # what an incomplete frame gives; never changed

# First octets that the fast lane takes (RFC 6455, 5.2): FIN, no reserved bit but an agreed RSV1,
# text or binary
_FAST_NONE: frozenset[int] = frozenset()
_FAST_PLAIN = frozenset({FIN_TEXT, FIN_BINARY})
_FAST_DEFLATED = _FAST_PLAIN | {FIN_TEXT_DEFLATED, FIN_BINARY_DEFLATED}
_FIN_CONTROLS = frozenset({FIN_CLOSE, FIN_PING, FIN_PONG})
_KNOWN_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})


class FrameCache:
    """The last compressed message of a core: one message sent to a thousand channels is compressed
    once.
    """

    __slots__ = ("frame", "message")

    def __init__(self) -> None:
        self.message: str | bytes | None = None
        self.frame = b""


class WebSocketWire:
    """One channel's octets. Sans I/O: `receive` what the socket gave, write what `text`, `binary`,
    ... return.

    Owned by the channel's core. `max_octets` bounds a message, inflated; `deflate` is the
    negotiated extension and messages of `deflate_threshold` octets or more are compressed with it.
    After `receive` the caller must look at `is_holding`: while it is true, call `receive(b"")`
    again as soon as it can take more.
    """

    __slots__ = (
        "_buffer",
        "_cache",
        "_careful",
        "_careful_octets",
        "_deflate",
        "_deflate_threshold",
        "_fast",
        "_fast_between_messages",
        "_lone_octets",
        "_max_octets",
        "_need",
        "has_ended",
        "is_holding",
    )

    def __init__(
        self,
        max_octets: int,
        deflate: Deflate | None = None,
        deflate_threshold: int = 0,
        cache: FrameCache | None = None,
    ) -> None:
        self._max_octets = max_octets
        self._lone_octets = min(max_octets, 125)
        self._deflate = deflate
        self._deflate_threshold = deflate_threshold
        # a compressed frame may be shared only where it depends neither on what its channel was
        # sent before nor on a window that its peer asked for
        is_shared = deflate is not None and (
            not deflate.server_takeover and deflate.server_bits == SERVER_WINDOW_BITS
        )
        self._cache = cache if is_shared else None
        self._fast_between_messages = _FAST_PLAIN if deflate is None else _FAST_DEFLATED
        self._fast = self._fast_between_messages
        self._buffer: bytearray | None = None  # a frame's beginning
        self._need = 0  # octets `_buffer` must hold before it is worth another look
        self._careful: WsprotoLane | None = None
        self._careful_octets = 0  # of the frame at hand that still belong to the careful lane
        self.has_ended = False
        self.is_holding = False

    @property
    def inflates(self) -> bool:
        """Whether messages may be larger than what they came in."""
        return self._deflate is not None

    def lone(self, data: bytes) -> str | bytes | None:
        """The message, if `data` is one short frame of the fast lane and nothing else: the read
        that is commonest of all needs no loop and no list. None: `receive` it.
        """
        length = len(data) - 6
        if (
            0 <= length <= self._lone_octets
            and data[1] == length + 128
            and self._buffer is None
            and not self._careful_octets
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
            return self._end(events, fault)
        self.is_holding = is_cut and at < len(data)
        if at < len(data):
            self._buffer = bytearray(memoryview(data)[at:])
            self._need = need
        return events

    def _read_frames(self, data: bytes | bytearray, events: list[Event]) -> tuple[int, int, bool]:
        """A helping of frames. Positions in `data`: a frame starts `at`, its payload at `start`,
        its end is `stop`.

        Returns where it stopped, how long the frame there is where that is known, and whether it
        stopped because that is enough for once.
        """
        end = len(data)
        inflated = 0
        at = self._read_carefully(data, 0, events) if self._careful_octets else 0
        for _ in _HELPING_FRAMES:
            if end - at < 2:
                break
            first = data[at]
            length = data[at + 1] - 128  # MASK is the high bit: negative without it
            if length < 0 or first not in self._fast:
                taken = self._read_carefully(data, at, events)
                if not taken:
                    break
                at += taken
                if self._deflate is not None and events:
                    inflated += _message_octets(events[-1])
                    if inflated >= _HELPING_OCTETS:
                        return at, 0, True
                continue
            start = at + 6
            if length > 125:
                start, length = _extended_length(data, at)
                if not start:
                    break
            if length > self._max_octets and (
                not first & RSV1 or length > max_compressed_octets(self._max_octets)
            ):
                raise WebSocketFault(CLOSE_MESSAGE_TOO_BIG, "message too big")
            stop = start + length
            if stop > end:
                return at, stop - at, False
            view = data if length < _VIEW_OCTETS else memoryview(data)
            payload = apply_mask(view[start:stop], data[start - 4 : start])
            at = stop
            if first == FIN_BINARY:
                events.append(payload)
            elif first == FIN_TEXT:
                events.append(payload.decode())
            else:
                inflated += self._inflate(first, payload, events)
                if inflated >= _HELPING_OCTETS:
                    return at, 0, True
        else:
            return at, 0, True
        return at, 0, False

    def _inflate(self, first: int, payload: bytes, events: list[Event]) -> int:
        """A compressed message; how many octets it came to."""
        assert self._deflate is not None  # only then is such a first octet fast
        message = self._deflate.decompress(payload, self._max_octets)
        events.append(message if first == FIN_BINARY_DEFLATED else message.decode())
        return len(message)

    def _end(self, events: list[Event], fault: WebSocketFault) -> list[Event]:
        events.append(fault)
        self._end_input()
        self.is_holding = False
        return events

    def _end_input(self) -> None:
        self.has_ended = True
        self._fast = self._fast_between_messages = _FAST_NONE
        self._careful_octets = 0

    def _read_control(self, data: bytes | bytearray, at: int, events: list[Event]) -> int:
        """Take a control frame that leaves no question open; how many octets that were, 0 if it is
        not complete, -1 if it is not one.

        Every clean end has a Close and every idle channel its Pongs: a careful lane made for them
        would double a channel's memory, and the cost of opening and closing one.
        """
        first = data[at]
        length = data[at + 1] - 128
        if first not in _FIN_CONTROLS or not 0 <= length <= MAX_CONTROL_OCTETS:
            return -1
        start = at + 6
        if start + length > len(data):
            return 0
        payload = apply_mask(data[start : start + length], data[start - 4 : start])
        event = decode_control(first, payload)
        if event is None:
            return -1
        events.append(event)
        if first != FIN_CLOSE:
            return 6 + length
        self._end_input()
        return len(data) - at  # nothing after a Close counts

    def _read_carefully(self, data: bytes | bytearray, at: int, events: list[Event]) -> int:
        """Feed wsproto to the end of the frame at `at`, or of the frame it is in; how many octets
        it took.

        0 means that the frame's header is not complete.
        """
        end = len(data)
        octets = self._careful_octets
        if not octets:
            taken = self._read_control(data, at, events)
            if taken >= 0:
                return taken
            octets = _frame_octets(data, at)
            if not octets:
                return 0
            first = data[at]
            if not first & 0x08:  # a data frame: FIN decides who reads the next one (RFC 6455, 5.4)
                self._fast = self._fast_between_messages if first & 0x80 else _FAST_NONE
        if self._careful is None:
            self._careful = WsprotoLane(self._max_octets, self._deflate)
        taken = min(octets, end - at)
        self._careful_octets = octets - taken
        if not self._careful.receive(memoryview(data)[at : at + taken], events):
            self._end_input()
            return end - at  # nothing after it counts
        return taken

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
        assert self._deflate is not None
        cache = self._cache
        if cache is None:
            return encode_frame(first, self._deflate.compress(payload))
        if cache.message is message:
            return cache.frame
        frame = encode_frame(first, self._deflate.compress(payload))
        # kept alive by the cache, so that no other message can have its identity
        cache.message = message
        cache.frame = frame
        return frame

    def ping(self, payload: bytes = b"") -> bytes:
        """A Ping of at most 125 octets (RFC 6455, 5.5.2)."""
        return encode_frame(FIN_PING, payload[:MAX_CONTROL_OCTETS])

    def pong(self, payload: bytes) -> bytes:
        """The answer to a Ping (RFC 6455, 5.5.3)."""
        return encode_frame(FIN_PONG, payload)

    def close(self, code: int | None, reason: str = "") -> bytes:
        """A Close frame (RFC 6455, 5.5.1); the caller sends no data after it."""
        return encode_close(code, reason)


class CarefulWebSocketWire(WebSocketWire):
    """`--ws wsproto`: every frame, both ways, through wsproto. The reference that the fast lane is
    held against.
    """

    __slots__ = ()

    def __init__(
        self,
        max_octets: int,
        deflate: Deflate | None = None,
        deflate_threshold: int = 0,
        cache: FrameCache | None = None,
    ) -> None:
        super().__init__(max_octets, deflate, deflate_threshold, cache)
        self._fast_between_messages = self._fast = _FAST_NONE
        self._careful = WsprotoLane(max_octets, deflate)

    def _read_control(self, data: bytes | bytearray, at: int, events: list[Event]) -> int:
        return -1

    @property
    def _wsproto(self) -> WsprotoLane:
        assert self._careful is not None
        return self._careful

    def text(self, message: str) -> bytes:
        if self._deflate is not None and len(message.encode()) >= self._deflate_threshold:
            return super().text(message)  # compression is ours in both lanes
        return self._wsproto.send_message(message)

    def binary(self, message: bytes) -> bytes:
        if self._deflate is not None and len(message) >= self._deflate_threshold:
            return super().binary(message)
        return self._wsproto.send_message(message)

    def ping(self, payload: bytes = b"") -> bytes:
        return self._wsproto.send_ping(payload[:MAX_CONTROL_OCTETS])

    def pong(self, payload: bytes) -> bytes:
        return self._wsproto.send_pong(payload)

    def close(self, code: int | None, reason: str = "") -> bytes:
        return self._wsproto.send_close(code, reason)


def _extended_length(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Where the payload starts and its length, of a frame that says 126 or 127; (0, 0) if more
    octets are needed.

    Raises WebSocketFault for a length that is not in its shortest form (RFC 6455, 5.2).
    """
    left = len(data) - at
    if data[at + 1] & 127 == 126:
        if left < 4:
            return 0, 0
        length = (data[at + 2] << 8) | data[at + 3]
        if length < 126:
            raise _bad_length()
        return at + 8, length
    if left < 10:
        return 0, 0
    length = int.from_bytes(data[at + 2 : at + 10], "big")
    if length < 65536 or length >> 63:
        raise _bad_length()
    return at + 14, length


def _bad_length() -> WebSocketFault:
    return WebSocketFault(CLOSE_PROTOCOL_ERROR, "payload length is not in its shortest form")


def _frame_octets(data: bytes | bytearray, at: int) -> int:
    """How long the frame at `at` is in all; 0 if its header, mask included, is not complete.

    A header that is wrong whatever follows gives the rest of `data`: wsproto will say what is wrong
    with it.
    """
    left = len(data) - at
    first, second = data[at], data[at + 1]
    opcode, length = first & 0x0F, second & 127
    if opcode not in _KNOWN_OPCODES or (opcode & 0x08 and (length > 125 or not first & 0x80)):
        return left
    header = 2
    if length == 126:
        header = 4
        length = int.from_bytes(data[at + 2 : at + 4], "big")
    elif length == 127:
        header = 10
        length = int.from_bytes(data[at + 2 : at + 10], "big")
    header += 4 * (second >> 7)
    # wsproto would look at half a header twice, and its extension would count the frame twice
    return header + length if left >= header else 0


def _message_octets(event: Event) -> int:
    return len(event) if isinstance(event, str | bytes) else 0
