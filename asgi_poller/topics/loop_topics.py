"""Topics as one event loop sees them: its subscribers, and the link to everybody else's."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from asgi_poller.asgi.flow_control import YIELD_MASK
from asgi_poller.asgi.topics_port import EXTENSION
from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.errors import ApplicationFault
from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.protocol import FrameCache
from asgi_poller.topics.backlog import pieces_of
from asgi_poller.topics.delivery import TopicLog
from asgi_poller.topics.framing import IDS, READER, Framer, has_ids
from asgi_poller.topics.links import Answer, Link, Receiver
from asgi_poller.topics.publication import Missed, Publication, checked_topic, content
from asgi_poller.topics.subscription import DROP, SLOW, Subscribed, Subscription, Target
from asgi_poller.topics.target import TopicTarget, target_of

_logger = logging.getLogger("asgi_poller.error")

#: How long subscribers are written to before the loop's other work has a turn: seconds, and how
#: many, since uvloop writes when the turn ends, which the clock does not see before.
TURN_S: Final = 0.002
TURN_COUNT: Final = 256

MakeLink = Callable[[Receiver], Link]


class LoopTopics:
    """Owned by the loop's thread; `loop` may be read by any. Made on that loop.

    `make_link` is called when topics are first used.
    """

    def __init__(
        self,
        make_link: MakeLink,
        *,
        max_bytes: int,
        deflate_threshold: int,
        cache: FrameCache,
        counts: LoopCounts,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.make_link = make_link
        self._link: Link | None = None
        self._counts = counts
        self._framer = Framer(max_bytes, deflate_threshold, cache)
        self._logs: dict[str, TopicLog] = {}
        self._due: dict[TopicLog, None] = {}  # those with something to write
        self._is_armed = False  # `_write` is on its way
        self._waiting: dict[TopicLog, list[asyncio.Future[None]]] = {}  # publishers
        self.endings: set[Callable[[], None]] = set()  # called when the loop begins to end
        self.is_ending = False
        self.is_congested = False
        self.is_closed = False

    # The application's side

    async def subscribe(
        self,
        target: Target,
        topic: str,
        *,
        since: str | None = None,
        ids: bool = False,
        slow: str = DROP,
    ) -> Subscribed:
        """Deliver to `target` what is published to `topic` from now on, and before that what was
        since the id `since`. Once more for the same topic begins again. Raises ValueError and
        TopicsUnavailable.
        """
        checked_topic(topic)
        if slow not in SLOW:
            raise ValueError(f"slow is one of {', '.join(SLOW)}, not {slow!r:.60}")
        if since is not None and not isinstance(since, str):
            raise ValueError(f"since is an id, not {since!r:.60}")
        kind = target.framing
        subscription = Subscription(
            target,
            kind + IDS if ids and kind != READER else kind,
            slow,
            target.direct if isinstance(target, TopicTarget) else None,
        )
        self.unsubscribe(target, topic)
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = TopicLog(topic, self._framer, self._counts)
        target.subscriptions[topic] = subscription
        if since is None and log.is_joined and log.position:
            missed = Missed((), log.position)
            self._start(log, subscription, missed)
        else:
            joined: asyncio.Future[Missed] = self.loop.create_future()
            log.joining += 1
            self._linked().join(
                topic, since, functools.partial(self._answered, log, subscription, joined)
            )
            missed = await joined
        if subscription.is_greeting:
            await self._greet(log, subscription, missed)
        return Subscribed(topic, missed.position, missed.is_complete)

    def unsubscribe(self, target: Target, topic: str) -> bool:
        """Deliver nothing more of `topic` to `target`; whether it was subscribed."""
        subscription = target.subscriptions.pop(topic, None)
        if subscription is None:
            return False
        self._end(self._logs.get(topic), subscription)
        return True

    def leave(self, target: Target) -> None:
        """`target` has ended."""
        for topic, subscription in target.subscriptions.items():
            self._end(self._logs.get(topic), subscription)
        target.subscriptions.clear()

    def resume(self, target: Target) -> None:
        """The peer of `target` has read: it is not slow any more."""
        for topic, subscription in target.subscriptions.items():
            log = self._logs.get(topic)
            if log is not None:
                log.resume(subscription)
                self._schedule(log)

    async def publish(self, topic: str, form: str, data: str | bytes) -> str:
        """Publish to all subscribers, of all loops; the id. Waits while this loop has not written
        what was published before. Raises ValueError and TopicsUnavailable.
        """
        checked_topic(topic)
        link = self._linked()
        self._counts.topic_publications += 1
        published = await link.publish(topic, form, data)
        log = self._logs.get(topic)
        if log is not None and log.is_congested:
            while log.is_congested and not self.is_closed:
                room: asyncio.Future[None] = self.loop.create_future()
                self._waiting.setdefault(log, []).append(room)
                await room
        elif self._counts.topic_publications & YIELD_MASK == 0:
            await asyncio.sleep(0)  # who only publishes leaves the loop to others, too
        return published

    async def on_message(self, session: WebSocketSession, message: Message) -> None:
        """A message of the `websocket.topic` extension, from an application without the functions
        of `asgi_poller.topics`. Raises ApplicationFault.
        """
        try:
            await self._on_message(session, message)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ApplicationFault(f"{message['type']}: {problem}") from None

    async def _on_message(self, session: WebSocketSession, message: Message) -> None:
        kind = message["type"]
        topic = checked_topic(message["topic"])
        if kind == f"{EXTENSION}.publish":
            form, data = content(
                message.get("text"), message.get("bytes"), message.get("json"), nothing=None
            )
            await self.publish(topic, form, data)
        elif kind == f"{EXTENSION}.subscribe":
            await self.subscribe(
                target_of(session),
                topic,
                since=message.get("since"),
                ids=bool(message.get("ids", False)),
                slow=message.get("slow", DROP),
            )
        elif kind == f"{EXTENSION}.unsubscribe":
            if session.topic_target is not None:
                self.unsubscribe(session.topic_target, topic)
        else:
            raise ValueError("there is no such message")

    async def subscribers(self, topic: str) -> tuple[int, int]:
        """How many there are: of this machine, and of all."""
        return await self._linked().subscribers(checked_topic(topic))

    def begin_end(self) -> None:
        """The loop begins to end: who reads in the application is to stop."""
        self.is_ending = True
        for ending in list(self.endings):
            ending()

    def close(self) -> None:
        """The loop ends."""
        self.is_closed = True
        self.begin_end()
        if self._link is not None:
            self._link.close()
        for log in list(self._waiting):
            self._wake_publishers(log)

    def abandon(self) -> None:
        """The loop has ended already: nobody on it can be told. Any thread."""
        self.is_closed = True
        if self._link is not None:
            self._link.close()

    # Receiver

    def on_publication(self, publication: Publication) -> None:
        """See Receiver."""
        log = self._logs.get(publication.topic)
        if log is not None and log.subscriptions:
            log.add(publication)
            if log.is_congested:
                self.is_congested = True
            self._schedule(log)
        elif log is not None:
            log.position = publication.id

    def on_gap(self, topic: str, position: str) -> None:
        """See Receiver."""
        log = self._logs.get(topic)
        if log is not None:
            log.position = position
            if log.subscriptions:
                log.add_gap()
                self._schedule(log)

    def positions(self) -> Iterable[tuple[str, str]]:
        """See Receiver."""
        return [(name, log.position) for name, log in self._logs.items() if log.is_joined]

    def count(self, topic: str) -> int:
        """See Receiver."""
        log = self._logs.get(topic)
        return 0 if log is None else len(log.subscriptions)

    # Inside

    def _linked(self) -> Link:
        if self._link is None:
            self._link = self.make_link(self)
        return self._link

    def _answered(
        self,
        log: TopicLog,
        subscription: Subscription,
        joined: asyncio.Future[Missed],
        answer: Answer,
    ) -> None:
        """The link's answer, at its place between the publications."""
        log.joining -= 1
        target = subscription.target
        is_wanted = target.subscriptions.get(log.name) is subscription
        if isinstance(answer, Exception):
            if is_wanted:
                self.unsubscribe(target, log.name)
            self._leave_unneeded(log)
            if not joined.done():
                joined.set_exception(answer)
            return
        log.is_joined = True
        if not log.subscriptions:
            log.position = answer.position
        if not is_wanted or joined.done():  # it has ended meanwhile, or its application has
            self.unsubscribe(target, log.name) if is_wanted else self._leave_unneeded(log)
            if not joined.done():
                joined.set_result(answer)
            return
        self._start(log, subscription, answer)
        joined.set_result(answer)

    def _start(self, log: TopicLog, subscription: Subscription, missed: Missed) -> None:
        """From now on the subscriber gets what comes, if need be behind what it missed."""
        log.join(subscription, is_greeted=not missed.publications)
        self._counts.topic_subscriptions += 1
        if not missed.publications:
            self._say_subscribed(subscription, log.name, missed)

    async def _greet(self, log: TopicLog, subscription: Subscription, missed: Missed) -> None:
        """Tell the subscriber what it missed, as fast as its peer reads. Who gives up waiting
        is not subscribed.
        """
        kind, target = subscription.kind, subscription.target
        try:
            for piece in pieces_of(missed.publications):
                frames = [self._framer.framed(each, kind) for each in piece]
                target.greet(self._framer.joined(frames, kind), len(piece))
                self._counts.topic_deliveries += len(piece)
                await asyncio.sleep(0)
                await target.drain()
                if target.subscriptions.get(log.name) is not subscription:
                    return
        except asyncio.CancelledError:
            if target.subscriptions.get(log.name) is subscription:
                self.unsubscribe(target, log.name)
            raise
        self._say_subscribed(subscription, log.name, missed)
        log.greeted(subscription)
        self._schedule(log)

    def _say_subscribed(self, subscription: Subscription, topic: str, missed: Missed) -> None:
        """Behind what was missed: its id stands for all of that."""
        kind = subscription.kind
        if has_ids(kind):
            note = {
                "topic": topic,
                "id": missed.position,
                "subscribed": True,
                "complete": missed.is_complete,
            }
            notes = self._framer.joined([self._framer.control(note, kind)], kind)
            subscription.target.greet(notes, 0)

    def _end(self, log: TopicLog | None, subscription: Subscription) -> None:
        if log is None:
            return
        if subscription in log.subscriptions:
            self._counts.topic_subscriptions -= 1
        log.leave(subscription)
        self._leave_unneeded(log)

    def _leave_unneeded(self, log: TopicLog) -> None:
        if not log.is_needed and self._logs.get(log.name) is log:
            del self._logs[log.name]
            if self._link is not None:
                self._link.leave(log.name)

    def _schedule(self, log: TopicLog) -> None:
        if log.is_due:
            self._due[log] = None
            if not self._is_armed:
                self._is_armed = True
                self.loop.call_soon(self._write)

    def _write(self) -> None:
        """Some helpings for the subscribers, and the rest in the loop's next turn."""
        self._is_armed = False
        until_s = time.monotonic() + TURN_S
        left = TURN_COUNT
        due = self._due
        while due and left > 0:
            log = next(iter(due))
            del due[log]
            try:
                left -= 1 + log.step()
            except Exception:  # other topics are still to be written
                _logger.exception("A topic could not be delivered.")
                continue
            if log.is_due:  # the others first
                due[log] = None
            if log in self._waiting and not log.is_congested:
                self._wake_publishers(log)
            if time.monotonic() > until_s:
                break
        if due and not self._is_armed:
            self._is_armed = True
            self.loop.call_soon(self._write)
        if self.is_congested and not any(log.is_congested for log in due):
            self.is_congested = False
            if self._link is not None:
                self._link.resume()

    def _wake_publishers(self, log: TopicLog) -> None:
        for room in self._waiting.pop(log, ()):
            if not room.done():
                room.set_result(None)
