"""What was published to one topic and is not written to all subscribers of one loop.

Each publication has a number, one more than the one before it. It is framed once for each kind of
subscriber, when the first of them gets it; what several lack is joined once, into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from asgi_poller.topics.framing import KINDS, Framer
from asgi_poller.topics.publication import Publication

#: What one subscriber is given in one write, if it is more than one message.
PIECE_BYTES: Final = 65536
#: What a publication costs beside its data, in bytes: objects, id, frames.
OVERHEAD_BYTES: Final = 250


def data_bytes(publication: Publication) -> int:
    """Its size, without what clients see beside its data."""
    data = publication.data
    return len(data.encode()) if isinstance(data, str) and not data.isascii() else len(data)


def pieces_of(publications: Sequence[Publication]) -> Iterator[Sequence[Publication]]:
    """Cut as they are written: one, and more while they are small."""
    start = size = 0
    for at, publication in enumerate(publications):
        own_bytes = data_bytes(publication)
        if at > start and size + own_bytes > PIECE_BYTES:
            yield publications[start:at]
            start, size = at, 0
        size += own_bytes
    if publications:
        yield publications[start:]


class Entry:
    """A publication, or, without one, a gap: some that never came. `data_bytes` are its own,
    `cost_bytes` what it takes in all, about.
    """

    __slots__ = ("cost_bytes", "data_bytes", "frames", "publication")

    def __init__(self, publication: Publication | None) -> None:
        self.publication = publication
        self.data_bytes = 0 if publication is None else data_bytes(publication)
        self.cost_bytes = self.data_bytes + OVERHEAD_BYTES
        self.frames: list[Any] = [None] * KINDS


class Piece:
    """Publications that are written together: up to the number `stop`, `count` without gaps.
    `frames` are what subscribers of each kind get, or None as long as nobody did.
    """

    __slots__ = ("_entries", "count", "data_bytes", "frames", "stop")

    def __init__(self, entries: list[Entry], stop: int, data_bytes: int) -> None:
        self._entries = entries
        self.stop = stop
        self.data_bytes = data_bytes
        self.count = 0
        for entry in entries:
            if entry.publication is not None:
                self.count += 1
        self.frames: list[Any] = [None] * KINDS

    def framed(self, kind: int, topic: str, framer: Framer) -> Any:
        """`frames[kind]`, made if it was not."""
        frames = []
        for entry in self._entries:
            frame = entry.frames[kind]
            if frame is None:
                if entry.publication is not None:
                    frame = framer.framed(entry.publication, kind)
                else:
                    frame = framer.told_lost(topic, None, kind)
                entry.frames[kind] = frame
            if frame is not None:
                frames.append(frame)
        joined = self.frames[kind] = framer.joined(frames, kind)
        return joined


class Backlog:
    """Owned by the loop's thread. `first` is the number of the oldest that is kept, `end` that of
    the next one to come; `cost_bytes` are those of all that are kept.
    """

    __slots__ = ("_entries", "_pieces", "cost_bytes", "first")

    def __init__(self) -> None:
        self.first = 0
        self.cost_bytes = 0
        self._entries: list[Entry] = []
        self._pieces: dict[int, Piece] = {}  # by the number that they begin with

    @property
    def end(self) -> int:
        return self.first + len(self._entries)

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.cost_bytes += entry.cost_bytes
        if self._pieces:
            self._pieces = {}

    def piece(self, start: int) -> Piece:
        """What comes from the number `start` on: one publication, and more while they are small.
        `first <= start < end`.
        """
        piece = self._pieces.get(start)
        if piece is None:
            at = start - self.first
            entries = self._entries
            size = entries[at].data_bytes
            stop = at + 1
            while stop < len(entries) and size + entries[stop].data_bytes <= PIECE_BYTES:
                size += entries[stop].data_bytes
                stop += 1
            piece = Piece(entries[at:stop], self.first + stop, size)
            self._pieces[start] = piece
        return piece

    def cost_between(self, start: int, stop: int) -> int:
        """Bytes, of those from the number `start` to before `stop`."""
        entries = self._entries[start - self.first : stop - self.first]
        return sum([entry.cost_bytes for entry in entries])

    def drop(self, before: int, most_bytes: int) -> None:
        """Forget the oldest, none from the number `before` on, until `most_bytes` are left."""
        gone = 0
        most = before - self.first
        while gone < most and self.cost_bytes > most_bytes:
            self.cost_bytes -= self._entries[gone].cost_bytes
            gone += 1
        if gone:
            del self._entries[:gone]
            self.first += gone
            self._pieces = {}
