"""One topic on one event loop: its subscribers, and what they have not all got yet.

Publications come into a log, and passes over the subscribers write what each of them lacks, joined:
what came meanwhile is in the same write. A pass stops after a helping, so that many subscribers do
not hold the loop. A subscriber that is slow stays where it is in the log, which costs nothing but
the log: it goes on when its peer has read. What is more than BACKLOG_BYTES behind is let go of, and
whoever lacks it loses it, or its WebSocket.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.frames import CLOSE_POLICY_VIOLATION
from asgi_poller.topics.framing import IDS, KINDS, Framer, is_own
from asgi_poller.topics.publication import Publication
from asgi_poller.topics.subscription import CLOSE, ENDED, Subscription

_logger = logging.getLogger("asgi_poller.error")

#: Of one topic, kept on one loop for those who are behind.
BACKLOG_BYTES: Final = 1024 * 1024
#: Of one topic, not written yet to subscribers that are not slow: who publishes waits.
CONGESTED_BYTES: Final = BACKLOG_BYTES // 4
#: Subscribers that are written to between two looks at the clock.
HELPING_COUNT: Final = 64
_OVERHEAD_BYTES: Final = 250
_TOO_SLOW = "messages are not read"


class TopicLog:
    """Owned by the loop's thread. `position` is the id of the last publication that came."""

    def __init__(self, name: str, framer: Framer, counts: LoopCounts) -> None:
        self.name = name
        self.position = ""
        self.joining = 0  # subscribers that wait for an answer
        self.is_joined = False
        self.subscriptions: dict[Subscription, None] = {}
        self._framer = framer
        self._counts = counts
        self._log: list[Publication] = []
        self._first = 0  # the number of the first in `_log`
        self._bytes = 0  # of all of it
        self._fresh_from = 0  # who is not behind has got everything before this number
        self._fresh_bytes = 0  # from there on
        self._behind: dict[Subscription, None] = {}
        self._pass: list[Subscription] = []  # who is still to be written to
        self._at = 0
        self._pass_end = 0  # `end` when it began
        self._shared: dict[tuple[int, int], Any] = {}  # frames by kind and first number
        self._common: list[Any] = [None] * KINDS  # those of the pass, from `_start` on
        self._start = 0

    @property
    def is_needed(self) -> bool:
        return bool(self.subscriptions) or self.joining > 0

    @property
    def is_congested(self) -> bool:
        """Whether so much waits for subscribers that are not slow that publishers wait."""
        return self._fresh_bytes > CONGESTED_BYTES

    @property
    def end(self) -> int:
        """The number of the next publication."""
        return self._first + len(self._log)

    def add(self, publication: Publication) -> None:
        """A publication has come: the caller runs `step` until there is nothing to do."""
        self.position = publication.id
        self._log.append(publication)
        size = len(publication.data) + _OVERHEAD_BYTES
        self._bytes += size
        self._fresh_bytes += size
        self._forget_frames()
        if self._bytes > BACKLOG_BYTES and self._behind:
            self._let_go()

    def join(self, subscription: Subscription) -> None:
        """It gets what comes from now on."""
        subscription.next = self.end
        self.subscriptions[subscription] = None

    def leave(self, subscription: Subscription) -> None:
        """It gets nothing more."""
        subscription.next = ENDED
        self.subscriptions.pop(subscription, None)
        if subscription in self._behind:
            del self._behind[subscription]
            if not self._behind:
                self._clear()

    def step(self) -> bool:
        """Write to some subscribers; whether there is more to do."""
        end = self.end
        if self._at >= len(self._pass):
            if not self.subscriptions or not self._log:
                self._clear()
                return False
            self._pass = list(self.subscriptions)
            self._at = 0
            self._pass_end = end
            self._start = self._pass[0].next
            for subscription in self._pass:  # the first that is not behind is like nearly all
                if subscription not in self._behind:
                    self._start = subscription.next
                    break
        start, common = self._start, self._common
        at = self._at
        self._at = stop = min(at + HELPING_COUNT, len(self._pass))
        count = end - start
        delivered = 0
        for subscription in self._pass[at:stop]:
            try:
                frames = common[subscription.kind]
                if subscription.next != start or frames is None:
                    if subscription.next < end:
                        self._catch_up(subscription)
                elif subscription.deliver(frames, count):
                    subscription.next = end
                    delivered += count
                elif subscription.next != ENDED:
                    self._behind[subscription] = None
            except Exception:  # the others are still to be written to
                self._cut_off(subscription)
        self._counts.topic_deliveries += delivered
        if stop < len(self._pass):
            return True
        self._pass = []
        self._at = 0
        if self._pass_end != end:
            return True  # what came meanwhile the first of them have not got
        self._fresh_from = end
        self._fresh_bytes = 0
        self._clear()
        return False

    def tell_gap(self) -> None:
        """Some publications never came: who has ids is told, and may ask for them."""
        for subscription in list(self.subscriptions):
            kind, target = subscription.kind, subscription.target
            if kind >= IDS:  # also who is slow: there are few gaps
                target.greet(self._framer.lost(self.name, None, kind, target=target))

    def resume(self, subscription: Subscription) -> None:
        """Its peer has read: write what it lacks."""
        if subscription in self._behind:
            self._catch_up(subscription)
            if not self._behind:
                self._clear()

    def _catch_up(self, subscription: Subscription) -> None:
        end = self.end
        count = end - subscription.next
        if subscription.lost and self._tell_lost(subscription):
            subscription.lost = 0
        if subscription.target.deliver(self._frames(subscription), count):
            subscription.next = end
            self._behind.pop(subscription, None)
            self._counts.topic_deliveries += count
        elif subscription.next != ENDED:
            self._behind[subscription] = None

    def _frames(self, subscription: Subscription) -> Any:
        """What it lacks."""
        kind, first = subscription.kind, subscription.next
        publications: Sequence[Publication] = self._log[first - self._first :]
        if is_own(kind):
            return self._framer.frames(publications, kind, subscription.target)
        frames = self._shared.get((kind, first))
        if frames is None:
            frames = self._framer.frames(publications, kind, None)
            self._shared[(kind, first)] = frames
            if first == self._start:
                self._common[kind] = frames
        return frames

    def _tell_lost(self, subscription: Subscription) -> bool:
        """Whether it takes it, or need not know."""
        kind, target = subscription.kind, subscription.target
        if kind < IDS:
            return True
        note = self._framer.lost(self.name, subscription.lost, kind, target=target)
        return target.deliver(note, 0)

    def _cut_off(self, subscription: Subscription) -> None:
        _logger.exception("A subscriber of a topic could not be written to, and is cut off.")
        self.leave(subscription)
        try:
            subscription.target.abort()
        except Exception:  # the others are still to be written to
            _logger.exception("A subscriber of a topic could not be cut off.")

    def _let_go(self) -> None:
        """Half of what only slow subscribers lack goes: they lose it, or their WebSocket."""
        gone = 0
        most = min(self._fresh_from - self._first, len(self._log))
        while self._bytes > BACKLOG_BYTES // 2 and gone < most:
            self._bytes -= len(self._log[gone].data) + _OVERHEAD_BYTES
            gone += 1
        del self._log[:gone]
        self._first += gone
        for subscription in list(self._behind):
            lost = self._first - subscription.next
            if lost <= 0:
                continue
            self._counts.topic_drops += lost
            if subscription.slow == CLOSE:
                subscription.target.close(CLOSE_POLICY_VIOLATION, _TOO_SLOW)
            else:
                subscription.lost += lost
                subscription.next = self._first

    def _forget_frames(self) -> None:
        if self._shared:
            self._shared.clear()
            self._common = [None] * KINDS

    def _clear(self) -> None:
        """Keep only what somebody lacks."""
        if self._pass:
            return
        self._forget_frames()
        if not self._behind:
            self._first = self._fresh_from = self.end
            self._log.clear()
            self._bytes = self._fresh_bytes = 0
