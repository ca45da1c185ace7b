"""What a peer may make us do for nothing: frames and resets that cost us work and lead to nothing
(CVE-2019-9512 to 9518, CVE-2023-44487, CVE-2025-8671).

Each such thing takes from a budget. What is useful gives something back (a request that is served,
a body, what the peer reads), and time does: who uses the connection never comes to its end. Beyond
it the connection ends with ENHANCE_YOUR_CALM (RFC 9113, 10.5).
"""

from __future__ import annotations

from typing import Final

from asgi_poller.errors import Http2Fault
from asgi_poller.protocols.http2.frames import (
    CONTINUATION,
    DATA,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADER_BYTES,
    HEADERS,
    RST_STREAM,
)

# The figures are nghttp2's: 1,000 resets at once and 33 in a second after that, 10,000 and 330 of
# what costs less.
_BUDGET: Final = 10_000  # what a peer has at first, and at most
_GAIN_PER_S: Final = 330
_RESET_COST: Final = 10  # a request was begun, and its application called, for nothing
_REQUEST_GAIN: Final = _RESET_COST
_SENT_GAIN: Final = 2  # a WINDOW_UPDATE for the stream and one for the connection may follow
_SENT_BYTES: Final = 256  # but not for less than this where a window is that small
_BODY_BYTES: Final = 1024  # of a body are worth one frame
_FRAME_BYTES: Final = 512  # of any other frame cost as much as one more


class FloodGuard:
    """Of one connection. Methods return the fault that ends it, or None."""

    __slots__ = ("_budget", "_since_s")

    def __init__(self) -> None:
        self._budget = _BUDGET
        self._since_s = 0.0

    def at(self, now_s: float) -> None:
        """It is `now_s`, in monotonic seconds."""
        gain = int((now_s - self._since_s) * _GAIN_PER_S)
        if gain:
            self._since_s = now_s
            self._gain(gain)

    def frame(self, kind: int, flags: int, size: int) -> Http2Fault | None:
        """A frame has come, whose payload has `size` bytes."""
        if kind == HEADERS or (kind == DATA and (size or flags & END_STREAM)):
            return None  # a request or its body: `refused` and `received` say what they are worth
        if kind == CONTINUATION and size >= _BODY_BYTES:
            return None  # a long head, which has a limit
        return self._spend(_RESET_COST if kind == RST_STREAM else 1 + size // _FRAME_BYTES)

    def refused(self) -> Http2Fault | None:
        """A stream was refused, or its request was not valid."""
        return self._spend(_RESET_COST)

    def resets(self, output: bytes) -> Http2Fault | None:
        """What h2 answers by itself: RST_STREAM for frames that it does not want."""
        at, count = 0, 0
        while at + HEADER_BYTES <= len(output):
            count += output[at + 3] == RST_STREAM
            at += HEADER_BYTES + (output[at] << 16 | output[at + 1] << 8 | output[at + 2])
        return self._spend(count * _RESET_COST) if count else None

    def served(self) -> None:
        """A request has been answered, and its stream has ended in order."""
        self._gain(_REQUEST_GAIN)

    def received(self, size: int) -> None:
        """So many bytes of a request's body have come."""
        self._gain(size // _BODY_BYTES)

    def sent(self, size: int, *, is_cut: bool) -> None:
        """So many bytes of a response's body are sent; `is_cut`: there was room for no more."""
        if not is_cut or size >= _SENT_BYTES:
            self._gain(_SENT_GAIN)

    def _gain(self, gain: int) -> None:
        self._budget = min(_BUDGET, self._budget + gain)

    def _spend(self, cost: int) -> Http2Fault | None:
        self._budget -= cost
        if self._budget < 0:
            return Http2Fault(
                ENHANCE_YOUR_CALM, "too many frames or resets for nothing", name="http2_flood"
            )
        return None
