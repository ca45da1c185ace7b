"""What a graceful shutdown waits for, what became of it, and the sentences that say so."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

FORCE_HINT = " (CTRL+C to force quit)"


@dataclass(frozen=True, slots=True)
class Left:
    """What has not ended. `tasks` are calls of the application whose connection has ended, such as
    the handler of a closed WebSocket; `connections` have no call: their last bytes are on the way,
    or their TLS handshake.
    """

    websockets: int = 0
    requests: int = 0
    tasks: int = 0
    connections: int = 0

    def __add__(self, other: Left) -> Left:
        return Left(
            self.websockets + other.websockets,
            self.requests + other.requests,
            self.tasks + other.tasks,
            self.connections + other.connections,
        )

    @property
    def count(self) -> int:
        """All of it."""
        return self.websockets + self.requests + self.tasks + self.connections

    def __str__(self) -> str:
        return listed(
            counted(self.websockets, "WebSocket"),
            counted(self.requests, "request"),
            counted(self.tasks, "task"),
            counted(self.connections, "connection"),
        )


NOTHING = Left()


@dataclass(slots=True)
class DrainCounts:
    """One loop's shutdown; the loop's thread writes, any reads. `began_with` is what there was,
    `handshakes` how many WebSockets the server closed and the peer answered (RFC 6455, 7.1.2),
    `cut_off` what was still there at the end of the time.
    """

    began_with: Left = field(default_factory=Left)
    handshakes: int = 0
    cut_off: Left = field(default_factory=Left)


@dataclass(frozen=True, slots=True)
class Drained:
    """The end of a shutdown: numbers of all its loops, or of all its workers. `took_s` in seconds.
    True if nothing was cut off.
    """

    began_with: Left
    handshakes: int
    cut_off: Left
    took_s: float

    @classmethod
    def of(cls, counts: Iterable[DrainCounts], took_s: float) -> Drained:
        """The loops' counts together."""
        counts = list(counts)
        return cls(
            sum((each.began_with for each in counts), NOTHING),
            sum(each.handshakes for each in counts),
            sum((each.cut_off for each in counts), NOTHING),
            took_s,
        )

    def __add__(self, other: Drained) -> Drained:
        """Two that went on at the same time."""
        return Drained(
            self.began_with + other.began_with,
            self.handshakes + other.handshakes,
            self.cut_off + other.cut_off,
            max(self.took_s, other.took_s),
        )

    def __bool__(self) -> bool:
        return not self.cut_off.count

    @property
    def is_worth_a_line(self) -> bool:
        """Whether there was anybody."""
        began = self.began_with
        return bool(began.websockets or began.requests or self.handshakes or self.cut_off.count)

    def __str__(self) -> str:
        """What became of them."""
        lost = self.began_with.websockets - self.handshakes - self.cut_off.websockets
        done = self.began_with.requests - self.cut_off.requests
        good = listed(
            counted(self.handshakes, "WebSocket", "closed with a handshake"),
            counted(lost, "WebSocket", "gone without"),
            counted(done, "request", "finished"),
        )
        cut_off = f"{self.cut_off} cut off" if self.cut_off.count else ""
        return "; ".join(filter(None, (cut_off, good))) or "nothing was open"


def counted(count: int, noun: str, what: str = "") -> str:
    """`3 requests finished`; nothing for none, or fewer."""
    if count <= 0:
        return ""
    return f"{count:,} {noun}{'' if count == 1 else 's'} {what}".rstrip()


def listed(*parts: str) -> str:
    """`a, b and c`, without those that are empty."""
    *first, last = [*filter(None, parts)] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def progress(left: Left, rest_s: float) -> str:
    """The line while a shutdown goes on, `rest_s` seconds before it is cut short."""
    they = "it is" if left.count == 1 else "they are"
    return f"Draining: {left} left, {seconds(rest_s)} until {they} cut off."


def seconds(rest_s: float) -> str:
    """Whole seconds, rounded up: it is never said that there are none."""
    return f"{max(1, math.ceil(rest_s))} s"
