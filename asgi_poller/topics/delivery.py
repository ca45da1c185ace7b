"""One topic on one event loop: its subscribers, and what they have not all got yet.

Publications come into a backlog, and passes over the subscribers write what each of them lacks,
joined: what came meanwhile is in the same write. A pass is made in helpings, so that many
subscribers do not hold the loop, and ends when all who are not slow have got what there was when it
began.

A subscriber that is slow stays behind at its place in the backlog, which costs nothing but the
backlog: passes leave it out, and it is served by itself when its peer has read. What is more than
BACKLOG_BYTES behind is let go of, and who lacks it loses it, or its WebSocket. Nothing is let
go of that somebody lacks who is not slow.
"""

from __future__ import annotations

import logging
from typing import Final

from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.frames import CLOSE_POLICY_VIOLATION
from asgi_poller.topics.backlog import PIECE_BYTES, Backlog, Entry, Piece
from asgi_poller.topics.framing import READER, Framer
from asgi_poller.topics.publication import Publication
from asgi_poller.topics.subscription import BEHIND, CLOSE, ENDED, Subscription

_logger = logging.getLogger("asgi_poller.error")

#: Of one topic, kept on one loop for those who are behind.
BACKLOG_BYTES: Final = 1024 * 1024
#: Of one topic, not written yet to subscribers that are not slow: who publishes waits. (Not Final:
#: tests make it smaller, also where this is compiled.)
CONGESTED_BYTES = BACKLOG_BYTES // 4
#: A helping: so many subscribers, and no more than about so many bytes.
HELPING_COUNT: Final = 64
HELPING_BYTES: Final = 1024 * 1024
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
        self._backlog = Backlog()
        self._fresh_from = 0  # who is not behind has got everything before this number
        self._fresh_bytes = 0  # from there on
        self._behind: dict[Subscription, None] = {}
        self._ready: dict[Subscription, None] = {}  # those of them whose peer has read
        self._pass: list[Subscription] = []  # empty: none is under way
        self._at = 0  # who is next in it
        self._most = HELPING_COUNT  # how many of it at a time
        self._goal = 0  # what it brings everybody to; without a pass, `_fresh_from`

    @property
    def is_needed(self) -> bool:
        return bool(self.subscriptions) or self.joining > 0

    @property
    def is_congested(self) -> bool:
        """Whether so much waits for subscribers that are not slow that publishers wait."""
        return self._fresh_bytes > CONGESTED_BYTES

    @property
    def is_due(self) -> bool:
        """Whether there is something to write: the caller runs `step` until there is not."""
        return bool(self._ready) or self._fresh_from < self._backlog.end

    def add(self, publication: Publication) -> None:
        """A publication has come."""
        self.position = publication.id
        self._add(Entry(publication))

    def add_gap(self) -> None:
        """Some publications never came: who has ids is told, and may ask for them."""
        self._add(Entry(None))

    def _add(self, entry: Entry) -> None:
        self._backlog.append(entry)
        self._fresh_bytes += entry.cost_bytes
        if self._backlog.cost_bytes > BACKLOG_BYTES:
            self._trim()

    def join(self, subscription: Subscription, *, is_greeted: bool = True) -> None:
        """It gets what comes from now on; if it `is_greeted`, at once, else after `greeted`."""
        self.subscriptions[subscription] = None
        if is_greeted:
            subscription.next = self._backlog.end
        else:
            subscription.is_greeting = True
            self._put_behind(subscription, self._backlog.end)

    def greeted(self, subscription: Subscription) -> None:
        """It has got what came before its place."""
        subscription.is_greeting = False
        self.resume(subscription)

    def leave(self, subscription: Subscription) -> None:
        """It gets nothing more."""
        subscription.next = ENDED
        self.subscriptions.pop(subscription, None)
        self._forget_behind(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Its peer has read."""
        if subscription.next != BEHIND or subscription.is_greeting:
            return
        if subscription.kind == READER:  # it has all of its topics at hand, one after the other
            self._serve(subscription)
        else:
            self._ready[subscription] = None

    def step(self) -> int:
        """A helping for some subscribers; how many were looked at."""
        count = self._serve_ready() if self._ready else 0
        if not self._pass:
            if self._fresh_from == self._backlog.end:
                return count
            self._pass = list(self.subscriptions)
            self._at = 0
            piece = self._backlog.piece(self._fresh_from)
            self._goal = piece.stop
            most_bytes = max(piece.data_bytes, min(PIECE_BYTES, self._fresh_bytes))
            self._most = max(1, min(HELPING_COUNT, HELPING_BYTES // most_bytes))
        at = self._at
        self._at = stop = min(at + self._most, len(self._pass))
        self._counts.topic_deliveries += self._write(self._pass[at:stop])
        if stop >= len(self._pass):
            self._end_pass()
        return count + stop - at

    def _write(self, subscriptions: list[Subscription]) -> int:
        """What each of them lacks; how many messages were written. Nearly all are at the same
        place.
        """
        end = self._backlog.end
        start, stop, count, delivered = -1, 0, 0, 0
        piece: Piece | None = None
        for subscription in subscriptions:
            try:
                if subscription.next != start or piece is None:
                    if subscription.next >= end:
                        if subscription.next == BEHIND:
                            self._lose(subscription)
                        continue
                    start = subscription.next
                    piece = self._backlog.piece(start)
                    stop, count = piece.stop, piece.count
                frames = piece.frames[subscription.kind]
                if frames is None:
                    frames = piece.framed(subscription.kind, self.name, self._framer)
                session = subscription.session
                if (
                    session.send_frames(frames, count)
                    if session is not None
                    else subscription.target.deliver(frames, count)
                ):
                    subscription.next = stop
                    delivered += count
                elif subscription.next != ENDED:
                    self._put_behind(subscription, start)
            except Exception:  # the others are still to be written to
                self._cut_off(subscription)
        return delivered

    def _end_pass(self) -> None:
        self._pass = []
        self._fresh_bytes -= self._backlog.cost_between(self._fresh_from, self._goal)
        self._fresh_from = self._goal
        self._trim()

    def _serve_ready(self) -> int:
        """A piece for each of those whose peers have read, up to a helping; how many got one."""
        given_bytes = count = 0
        while self._ready and count < HELPING_COUNT and given_bytes < HELPING_BYTES:
            subscription = next(iter(self._ready))
            del self._ready[subscription]
            count += 1
            given_bytes += self._serve(subscription)
        return count

    def _serve(self, subscription: Subscription) -> int:
        try:
            return self._catch_up(subscription)
        except Exception:  # the others are still to be written to
            self._cut_off(subscription)
            return 0

    def _catch_up(self, subscription: Subscription) -> int:
        """A piece of what it lacks, if its peer is ready; bytes."""
        self._lose(subscription)
        if subscription.next != BEHIND:
            return 0
        if subscription.lost:
            note = self._framer.told_lost(self.name, subscription.lost, subscription.kind)
            if note is not None:
                notes = self._framer.joined([note], subscription.kind)
                if not subscription.target.deliver(notes, 0):
                    return 0
            subscription.lost = 0
        given_bytes = 0
        if subscription.place < self._backlog.end:
            piece = self._backlog.piece(subscription.place)
            frames = piece.frames[subscription.kind]
            if frames is None:
                frames = piece.framed(subscription.kind, self.name, self._framer)
            if not subscription.target.deliver(frames, piece.count):
                return 0
            self._counts.topic_deliveries += piece.count
            subscription.place = piece.stop
            given_bytes = piece.data_bytes
        if subscription.place >= self._goal:  # passes have not come by here
            subscription.next = subscription.place
            self._forget_behind(subscription)
        else:
            self._ready[subscription] = None
        return given_bytes

    def _put_behind(self, subscription: Subscription, place: int) -> None:
        subscription.next = BEHIND
        subscription.place = place
        self._behind[subscription] = None

    def _forget_behind(self, subscription: Subscription) -> None:
        self._ready.pop(subscription, None)
        if subscription in self._behind:
            del self._behind[subscription]
            if not self._behind:
                self._trim()

    def _lose(self, subscription: Subscription) -> None:
        """If what it lacks has been let go of, it has lost that, or its WebSocket."""
        lost = self._backlog.first - subscription.place
        if lost <= 0:
            return
        self._counts.topic_drops += lost
        subscription.place = self._backlog.first
        if subscription.slow == CLOSE:
            subscription.target.close(CLOSE_POLICY_VIOLATION, _TOO_SLOW)
        else:
            subscription.lost += lost

    def _cut_off(self, subscription: Subscription) -> None:
        _logger.exception("A subscriber of a topic could not be written to, and is cut off.")
        self._forget_behind(subscription)
        subscription.next = ENDED  # it leaves when its connection does
        try:
            subscription.target.abort()
        except Exception:  # the others are still to be written to
            _logger.exception("A subscriber of a topic could not be cut off.")

    def _trim(self) -> None:
        """Keep what somebody lacks; for those who are behind, no more than BACKLOG_BYTES of it,
        and if it is more, half of that, so that this is not done for each publication.
        """
        if not self._behind:
            self._backlog.drop(self._fresh_from, 0)
        elif self._backlog.cost_bytes > BACKLOG_BYTES:
            self._backlog.drop(self._fresh_from, BACKLOG_BYTES // 2)
