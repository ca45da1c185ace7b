"""What one event loop counts, as plain integers, and the row of cells that others read it from.

    on the loop's thread                          any process that has the memory
    counts.messages_received += 1
    counts.publish(row)     # now and then        values = LoopValues.read(row)

A row has one writer, and each cell is written with one store: a reader may see two cells from two
moments, never half a number.
"""

from __future__ import annotations

import array
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields

from asgi_poller.metrics.histogram import BUCKETS, NO_DURATIONS, Histogram, HistogramValue, value_in
from asgi_poller.metrics.refusals import REFUSALS, refusal_index

#: Seconds between two times that a loop publishes.
PUBLISH_S = 0.25

#: Close codes that are counted one by one; the last three gather RFC 6455's reserved ones, 3000 to
#: 3999 and 4000 to 4999.
CLOSE_CODES: tuple[int, ...] = (
    1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
)  # fmt: skip
CLOSE_CODE_NAMES = (*map(str, CLOSE_CODES), "other", "3xxx", "4xxx")
#: Who closed.
CLOSED_BY = ("peer", "application", "server")
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")

_CODE_INDEX = {code: index for index, code in enumerate(CLOSE_CODES)}
_OTHER = len(CLOSE_CODES)
_BY_INDEX = {by: index for index, by in enumerate(CLOSED_BY)}


def close_index(code: int, by: str) -> int:
    """Where the end of a WebSocket is counted in `closes`."""
    at = _CODE_INDEX.get(code)
    if at is None:
        at = _OTHER + (code // 1000 - 2 if 3000 <= code <= 4999 else 0)
    return at * len(CLOSED_BY) + _BY_INDEX[by]


class LoopCounts:
    """Owned by the loop's thread. Counts since the loop's start, unless a name says "open".

    Messages and bytes are those of WebSockets, bytes as on the connection: frame headers included
    and TLS not. A message is received when the application takes it, or when it can only wait. Each
    WebSocket counts its own; `ended_*` are those of WebSockets that have ended, and who publishes
    adds those that are open. `closes` is indexed by `close_index`, `responses` by the status' first
    digit less 2, `refusals` by their place in REFUSALS.

    `is_timed`: somebody wants `request` and `handshake`, which take a look at the clock each.
    """

    __slots__ = (
        "adopted",
        "bytes_received",
        "bytes_sent",
        "closes",
        "connections_open",
        "deflated_bytes",
        "ended_bytes_received",
        "ended_bytes_sent",
        "ended_messages_received",
        "ended_messages_sent",
        "handshake",
        "http2_connections_open",
        "http2_faults",
        "http2_streams",
        "inflated_bytes",
        "is_timed",
        "lag",
        "log_lines_dropped",
        "messages_received",
        "messages_sent",
        "pings_sent",
        "pings_unanswered",
        "raw_bytes_deflated",
        "raw_bytes_inflated",
        "refusals",
        "request",
        "requests_running",
        "responses",
        "slow_consumers",
        "topic_deliveries",
        "topic_drops",
        "topic_publications",
        "topic_subscriptions",
        "websockets_denied",
        "websockets_open",
        "websockets_opened",
    )

    def __init__(self) -> None:
        self.is_timed = False
        self.ended_messages_received = 0
        self.ended_messages_sent = 0
        self.ended_bytes_received = 0
        self.ended_bytes_sent = 0
        self.connections_open = 0
        self.websockets_open = 0  # accepted, and no Close has been sent or received
        self.requests_running = 0  # applications that are called, for requests and WebSockets
        self.http2_connections_open = 0
        self.http2_streams = 0  # requests and WebSockets that began on them, refused ones too
        self.http2_faults = 0  # connections that ended for the peer's fault: GOAWAY says which
        self.adopted = 0
        self.websockets_opened = 0
        self.websockets_denied = 0
        self.messages_received = 0
        self.messages_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        # of messages that were compressed, before; one that many WebSockets get is compressed once
        self.raw_bytes_deflated = 0
        self.deflated_bytes = 0  # and after
        self.inflated_bytes = 0  # of compressed messages that came, as they came
        self.raw_bytes_inflated = 0  # and inflated
        self.pings_sent = 0
        self.pings_unanswered = 0
        self.slow_consumers = 0  # times that a peer fell behind --ws-send-limit
        self.topic_subscriptions = 0  # open
        self.topic_publications = 0  # by applications on this loop
        self.topic_deliveries = 0  # of a publication, to one subscriber
        self.topic_drops = 0  # of a publication, for one subscriber that is too slow
        self.log_lines_dropped = 0  # of the process; counted in its first loop's row
        self.responses = [0] * len(STATUS_CLASSES)
        self.closes = [0] * (len(CLOSE_CODE_NAMES) * len(CLOSED_BY))
        self.refusals = [0] * len(REFUSALS)
        self.lag = Histogram()  # how late a timer of the loop comes
        self.request = Histogram()  # from a request's head to its response's end
        self.handshake = Histogram()  # from accept() to 101

    def count_refusal(self, reason: str) -> None:
        """Somebody was turned away for `reason`, as `refusal_index` takes it."""
        self.refusals[refusal_index(reason)] += 1

    def count_response(self, status: int) -> None:
        """A response has begun that is the server's own."""
        self.responses[status // 100 - 2] += 1

    def publish(self, row: memoryview[int]) -> None:
        """Copy all of it to `row`, of CELLS cells of 8 bytes."""
        values = [
            *(getattr(self, name) for name in PLAIN),
            *self.responses,
            *self.closes,
            *self.refusals,
            *(each for name in HISTOGRAMS for each in _cells(getattr(self, name))),
        ]
        row[: len(values)] = memoryview(array.array("q", values))


def _cells(histogram: Histogram) -> list[int]:
    return [*histogram.counts, histogram.sum_us]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopValues:
    """The counts of one loop, or of several together, at one moment; names as in LoopCounts."""

    connections_open: int = 0
    websockets_open: int = 0
    requests_running: int = 0
    http2_connections_open: int = 0
    http2_streams: int = 0
    http2_faults: int = 0
    adopted: int = 0
    websockets_opened: int = 0
    websockets_denied: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    raw_bytes_deflated: int = 0
    deflated_bytes: int = 0
    inflated_bytes: int = 0
    raw_bytes_inflated: int = 0
    pings_sent: int = 0
    pings_unanswered: int = 0
    slow_consumers: int = 0
    topic_subscriptions: int = 0
    topic_publications: int = 0
    topic_deliveries: int = 0
    topic_drops: int = 0
    log_lines_dropped: int = 0
    responses: tuple[int, ...] = (0,) * len(STATUS_CLASSES)
    closes: tuple[int, ...] = (0,) * (len(CLOSE_CODE_NAMES) * len(CLOSED_BY))
    refusals: tuple[int, ...] = (0,) * len(REFUSALS)
    lag: HistogramValue = NO_DURATIONS
    request: HistogramValue = NO_DURATIONS
    handshake: HistogramValue = NO_DURATIONS

    @classmethod
    def read(cls, row: Sequence[int]) -> LoopValues:
        """What `publish` has put into `row`."""
        cells = list(row)
        at = len(PLAIN)
        values: dict[str, object] = dict(zip(PLAIN, cells, strict=False))
        for name, length in LISTS.items():
            values[name] = tuple(cells[at : at + length])
            at += length
        for name in HISTOGRAMS:
            values[name] = value_in(cells[at : at + BUCKETS + 1])
            at += BUCKETS + 1
        return cls(**values)  # type: ignore[arg-type]  # by name, as they were published

    def __add__(self, other: LoopValues) -> LoopValues:
        """Both together."""
        summed: dict[str, object] = {}
        for name in PLAIN + HISTOGRAMS:
            summed[name] = getattr(self, name) + getattr(other, name)
        for name in LISTS:
            summed[name] = tuple(map(operator.add, getattr(self, name), getattr(other, name)))
        return LoopValues(**summed)  # type: ignore[arg-type]  # by name, all of them

    @property
    def ended(self) -> LoopValues:
        """What remains of a loop that has ended: nothing is open any more."""
        gone = dict.fromkeys(OPEN, 0)
        kept = {each.name: getattr(self, each.name) for each in fields(self)}
        return LoopValues(**{**kept, **gone})


NO_COUNTS = LoopValues()

#: What is true now, and not a count since the start.
OPEN = (
    "connections_open",
    "http2_connections_open",
    "websockets_open",
    "requests_running",
    "topic_subscriptions",
)
LISTS = {
    "responses": len(STATUS_CLASSES),
    "closes": len(CLOSE_CODE_NAMES) * len(CLOSED_BY),
    "refusals": len(REFUSALS),
}
HISTOGRAMS = ("lag", "request", "handshake")
PLAIN = tuple(
    each.name for each in fields(LoopValues) if each.name not in LISTS | dict.fromkeys(HISTOGRAMS)
)
_PUBLISHED = len(PLAIN) + sum(LISTS.values()) + len(HISTOGRAMS) * (BUCKETS + 1)
#: Cells of a row, rounded up to whole cache lines.
CELLS = -(-(_PUBLISHED + 1) // 8) * 8
#: The last one: when the loop ran, in microseconds of the machine's monotonic clock; 0: it does
#: not run.
RAN_AT = CELLS - 1
