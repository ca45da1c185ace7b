"""The topics of one machine: who wants which, and what was said lately.

Sans I/O, and not for threads: who owns a hub locks it, or keeps it on one loop. Every publication
gets the next number of the hub, so the numbers of a topic rise, with gaps where other topics were
published to. An id is the hub's name and that number: another hub, or this one after a restart,
has another name, and knows that it does not know what came after such an id.
"""

from __future__ import annotations

import fnmatch
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from asgi_poller.settings.topics import history_rule
from asgi_poller.topics.publication import Missed, Publication

L = TypeVar("L")

#: Of all topics together: beyond it the oldest publications of the topic at hand go first.
HISTORY_BYTES: Final = 64 * 1024 * 1024
#: What a publication costs beside its data, in bytes: its object, its id, its place in the list.
_OVERHEAD_BYTES: Final = 250
_SWEEP_COUNT: Final = 256  # topics looked at after so many publications, for what is too old


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of a topic is kept for those who come back: `count` publications, none older than
    `seconds`.
    """

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """What is kept of which topic: the first pattern that fits (as in `fnmatch`), or `default`."""

    default: Keep = Keep()
    patterns: tuple[tuple[str, Keep], ...] = ()

    @classmethod
    def parsed(cls, rules: Iterable[str]) -> HistoryRules:
        """From the values of --topics-history."""
        default, patterns = Keep(), []
        for pattern, count, seconds in map(history_rule, rules):
            keep = Keep(count, seconds) if seconds else Keep()
            if pattern:
                patterns.append((pattern, keep))
            else:
                default = keep
        return cls(default, tuple(patterns))

    def of(self, topic: str) -> Keep:
        """The rule for a topic."""
        for pattern, keep in self.patterns:
            if fnmatch.fnmatchcase(topic, pattern):
                return keep
        return self.default


@dataclass(slots=True)
class _Kept:
    number: int
    at: float
    publication: Publication


@dataclass(slots=True, eq=False)
class _Topic(Generic[L]):
    """`lost_number`: of the last publication that is not kept any more."""

    keep: Keep
    lost_number: int
    used_at: float
    links: dict[L, None] = field(default_factory=dict)
    kept: deque[_Kept] = field(default_factory=deque)


class Hub(Generic[L]):
    """`L` is a link: who wants publications of a topic, one for each event loop.

    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        rules: HistoryRules | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        self._rules = HistoryRules() if rules is None else rules
        self._clock = clock
        self._limit_bytes = history_bytes
        self._name = secrets.token_hex(4)
        self._number = 0
        self._kept_bytes = 0
        self._topics: dict[str, _Topic[L]] = {}
        self._next_sweep = _SWEEP_COUNT

    @property
    def kept_bytes(self) -> int:
        """What the histories take, about."""
        return self._kept_bytes

    def __len__(self) -> int:
        """Topics that somebody wants or that have a history."""
        return len(self._topics)

    def publish(self, topic: str, form: str, data: str | bytes) -> Publication:
        """Take a publication; the caller gives it to `links(topic)`."""
        self._number += 1
        publication = Publication(topic, f"{self._name}-{self._number}", form, data)
        if self._number >= self._next_sweep:
            self._sweep()
        known = self._topics.get(topic)
        if known is None:
            keep = self._rules.of(topic)
            if not keep.count:
                return publication  # nobody wants it, and nobody will ask for it
            known = self._topics[topic] = _Topic(keep, self._number - 1, 0.0)
        known.used_at = now = self._clock()
        if not known.keep.count:
            known.lost_number = self._number
            return publication
        known.kept.append(_Kept(self._number, now, publication))
        self._kept_bytes += _cost(publication)
        self._trim(known, now)
        return publication

    def links(self, topic: str) -> Sequence[L]:
        """Who gets what is published to a topic."""
        known = self._topics.get(topic)
        return () if known is None else tuple(known.links)

    def topics_of(self, link: L) -> Iterable[str]:
        """What a link wants."""
        return [name for name, known in self._topics.items() if link in known.links]

    def join(self, topic: str, link: L) -> bool:
        """`link` gets what is published to `topic` from now on; whether it is the first."""
        known = self._topics.get(topic)
        if known is None:
            known = _Topic(self._rules.of(topic), self._number, self._clock())
            self._topics[topic] = known
        is_first = not known.links
        known.links[link] = None
        return is_first

    def leave(self, topic: str, link: L) -> bool:
        """`link` gets nothing more of `topic`; whether nobody does now."""
        known = self._topics.get(topic)
        if known is None or link not in known.links:
            return False
        del known.links[link]
        known.used_at = self._clock()
        if known.links:
            return False
        if not known.keep.count:
            del self._topics[topic]
        return True

    def forget(self, link: L) -> list[str]:
        """`link` has ended: topics that nobody wants now."""
        return [topic for topic in self.topics_of(link) if self.leave(topic, link)]

    def missed(self, topic: str, since: str | None) -> Missed:
        """What was published to `topic` after `since`; None: nothing, only the position."""
        position = f"{self._name}-{self._number}"
        if since is None:
            return Missed((), position)
        number = self._parsed(since)
        known = self._topics.get(topic)
        if known is not None:
            self._trim(known, self._clock())
        if number is None or known is None or number < known.lost_number:
            return Missed((), position, is_complete=False)
        after = tuple(each.publication for each in known.kept if each.number > number)
        return Missed(after, position)

    def _parsed(self, since: str) -> int | None:
        name, _, digits = since.partition("-")
        if name != self._name or not digits.isascii() or not digits.isdecimal():
            return None
        number = int(digits[:20])
        return number if number <= self._number else None

    def _trim(self, topic: _Topic[Any], now: float) -> None:
        kept, keep = topic.kept, topic.keep
        oldest = now - keep.seconds
        while kept and (
            len(kept) > keep.count or kept[0].at < oldest or self._kept_bytes > self._limit_bytes
        ):
            gone = kept.popleft()
            topic.lost_number = gone.number
            self._kept_bytes -= _cost(gone.publication)

    def _sweep(self) -> None:
        """Let go of what is too old in topics that nobody publishes to any more. As many
        publications pass until the next time as there were topics: a constant share of each.
        """
        now = self._clock()
        for name, known in list(self._topics.items()):
            self._trim(known, now)
            is_quiet = known.used_at < now - known.keep.seconds
            if not known.links and not known.kept and is_quiet:
                del self._topics[name]
        self._next_sweep = self._number + max(_SWEEP_COUNT, len(self._topics))


def _cost(publication: Publication) -> int:
    return len(publication.data) + _OVERHEAD_BYTES
