"""What JetStream keeps of topics: one stream for all, in which a subject is a topic.

Numbers are those of the stream, so a topic's have gaps. Whether something was trimmed after a
number follows from what is still there: old ones go first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamConfig, StreamInfo

from asgi_poller.topics.hub import Keep
from asgi_poller.topics.publication import Missed, Publication
from asgi_poller.topics.upstream_message import publication_of

_TIMEOUT_S: Final = 5.0
#: Seconds in which JetStream knows a publication that comes twice.
_TWICE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Serial:
    """The `number` of a message in the stream that was made at `epoch`, in milliseconds."""

    epoch: int
    number: int

    @property
    def id(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parsed(cls, id: str) -> Serial | None:
        """From an id that a client gives; None: it is none."""
        parts = id.split("-")
        if len(parts) != 2 or not id.isascii():
            return None
        if not all(each.isdecimal() and len(each) <= 18 for each in parts):
            return None
        return cls(int(parts[0]), int(parts[1]))


class NatsHistory:
    """Owned by the hub's loop. All but `serial` and `of` raise what nats-py raises."""

    def __init__(self, name: str, subjects: str, keep: Keep) -> None:
        self._name = name
        self._keep = keep
        self._config = StreamConfig(
            name=name,
            subjects=[subjects],
            max_msgs_per_subject=keep.count,
            max_age=keep.seconds,
            duplicate_window=min(_TWICE_S, keep.seconds),
        )
        self._epoch = 0
        self._stream: JetStreamContext | None = None

    async def open(self, client: Client) -> None:
        """Make the stream, or make it as it should be."""
        stream = client.jetstream(timeout=_TIMEOUT_S)
        try:
            info = await stream.add_stream(self._config)
        except nats.js.errors.BadRequestError:  # there is one with other settings
            info = await stream.update_stream(self._config)
        self._epoch = _made_at(info)
        self._stream = stream

    def of(self, number: int) -> Serial:
        """In the stream that there is."""
        return Serial(self._epoch, number)

    def serial(self, message: Msg) -> Serial:
        """That of a message from a consumer."""
        return self.of(message.metadata.sequence.stream)

    async def last(self) -> Serial:
        """The place from which on everything is new."""
        info = await self._context.stream_info(self._name)
        return Serial(_made_at(info), info.state.last_seq)

    async def is_complete(self, subject: str, since: Serial) -> bool:
        """Whether all that was published to `subject` after that is still there."""
        info = await self._context.stream_info(self._name, subjects_filter=subject)
        state = info.state
        if since.epoch != _made_at(info) or since.number > state.last_seq:
            return False
        if state.first_seq > since.number + 1:
            return False  # what was between is too old, whatever topics it was of
        if (state.subjects or {}).get(subject, 0) < self._keep.count:
            return True
        first = await self._context.get_msg(self._name, seq=1, subject=subject, next=True)
        return first.seq is not None and first.seq <= since.number

    async def follow(
        self, subject: str, since: Serial, heard: Callable[[Msg], Awaitable[None]]
    ) -> Any:
        """What comes after it, and live, in order, until it is unsubscribed."""
        return await self._context.subscribe(
            subject, stream=self._name, ordered_consumer=True, config=_from(since), cb=heard
        )

    async def missed(self, topic: str, subject: str, since: str | None) -> Missed:
        """See Upstream."""
        end = await self.last()
        if since is None:
            return Missed((), end.id)
        serial = Serial.parsed(since)
        if serial is None or not await self.is_complete(subject, serial):
            return Missed((), end.id, is_complete=False)
        try:
            last = await self._context.get_last_msg(self._name, subject)
        except nats.js.errors.NotFoundError:
            return Missed((), end.id)
        if last.seq is None or last.seq <= serial.number:
            return Missed((), end.id)
        publications = await self._read(topic, subject, serial, last.seq)
        if not await self.is_complete(subject, serial):
            return Missed((), end.id, is_complete=False)  # it was trimmed while it was read
        return Missed(tuple(publications), max(end.id, self.of(last.seq).id, key=_number))

    async def _read(self, topic: str, subject: str, since: Serial, last: int) -> list[Publication]:
        publications = []
        reading = await self._context.subscribe(
            subject, stream=self._name, ordered_consumer=True, config=_from(since)
        )
        try:
            while True:
                message = await reading.next_msg(_TIMEOUT_S)
                serial = self.serial(message)
                if serial.number <= last:
                    publication = publication_of(topic, serial.id, message.data)
                    if publication is not None:
                        publications.append(publication)
                if serial.number >= last:
                    return publications
        finally:
            await reading.unsubscribe()

    @property
    def _context(self) -> JetStreamContext:
        if self._stream is None:
            raise nats.errors.ConnectionClosedError
        return self._stream


def _from(since: Serial) -> ConsumerConfig:
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=since.number + 1
    )


def _made_at(info: StreamInfo) -> int:
    made = info.created
    return 0 if made is None else int(made.timestamp() * 1000)


def _number(id: str) -> int:
    serial = Serial.parsed(id)
    return 0 if serial is None else serial.number
