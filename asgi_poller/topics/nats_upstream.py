"""Topics of several machines, joined by NATS.

Without a history a topic is a subject. With one, all subjects are a stream of JetStream: an ordered
consumer for each joined topic, from the last number that was heard on, brings what was missed and
what comes live alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import secrets
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.nats_history import NatsHistory, Serial
from asgi_poller.topics.outage import Outage, delays, plain
from asgi_poller.topics.outbox import Outbox, Outgoing, ServiceLost
from asgi_poller.topics.publication import Missed
from asgi_poller.topics.upstream import UpstreamReceiver
from asgi_poller.topics.upstream_message import PLAIN, body_of, parsed_live, publication_of
from asgi_poller.topics.upstream_tasks import Tasks

_logger = logging.getLogger("asgi_poller.error")

LOST: Final = (OSError, asyncio.TimeoutError, nats.errors.Error)
_TIMEOUT_S: Final = 5.0
#: Seconds for the answers of all machines about their subscribers: how many will come is not known.
_COUNT_S: Final = 0.5
_MACHINE_COUNT: Final = 256
_UNAVAILABLE: Final = 503  # of JetStream's API
_PART: Final = "connection"


@dataclass(slots=True, eq=False)
class _Joined:
    """A topic that this machine wants. `at` is the last that was heard of a history."""

    topic: str
    id: str
    at: Serial | None = None
    is_live: bool = False
    subscriptions: list[Any] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)

    def wake(self, error: TopicsUnavailable | None) -> None:
        """Those that wait until it is live."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None) if error is None else each.set_exception(error)


class NatsUpstream:
    """See Upstream. `url` is one for nats-py, `shown` what of it may be shown; `rules` have no
    patterns.
    """

    def __init__(
        self,
        url: str,
        shown: str,
        *,
        prefix: str,
        rules: HistoryRules,
        buffer_count: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._tls: dict[str, Any] = {} if tls is None else {"tls": tls}
        self._prefix = prefix
        self._machine = secrets.token_hex(6)
        self._joined: dict[str, _Joined] = {}
        self._tasks = Tasks()
        self._wanted = asyncio.Event()  # some topic is to be subscribed
        self._tried = asyncio.Event()  # to connect
        self._client: Client | None = None
        self._acks: dict[int, Outgoing] = {}
        self._acked = asyncio.Event()
        self._refusal = ""  # of one of them, for the moment
        self._inbox = ""
        self._history = (
            NatsHistory(prefix, f"{prefix}.live.>", rules.default) if rules.default.count else None
        )
        self.outage = Outage(shown, buffer_count)
        self._outbox = Outbox(self._send, self.reach, self.outage, buffer_count)
        self._receiver: UpstreamReceiver | None = None

    # Upstream

    async def start(self, receiver: UpstreamReceiver) -> None:
        """See Upstream."""
        self._receiver = receiver
        self._tasks.keep(self._outbox.run)
        self._tasks.keep(self._stay_connected)

    async def close(self) -> None:
        """See Upstream."""
        await self._tasks.close()

    async def publish(self, topic: str, form: str, data: bytes) -> str:
        """See Upstream."""
        return await self._outbox.publish(topic, form, data)

    def join(self, topic: str) -> None:
        """See Upstream."""
        if topic not in self._joined:
            self._joined[topic] = _Joined(topic, _no_id())
            self._wanted.set()

    def leave(self, topic: str) -> None:
        """See Upstream."""
        joined = self._joined.pop(topic, None)
        if joined is not None:
            joined.is_live = False
            joined.wake(TopicsUnavailable("topics: nobody wants the topic any more"))
            self._tasks.spawn(_unsubscribe(joined))

    async def missed(self, topic: str, since: str | None) -> Missed:
        """See Upstream."""
        joined = self._joined.get(topic)
        if joined is None:
            raise TopicsUnavailable("topics: the topic is not joined")
        if not joined.is_live:
            if self.outage.is_on:
                raise TopicsUnavailable(self.outage.reason)
            live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            joined.waiting.append(live)
            await live
        if self._history is None:
            return Missed((), joined.id, is_complete=since is None or since == joined.id)
        try:
            return await self._history.missed(topic, self._subject("live", topic), since)
        except LOST as error:
            raise TopicsUnavailable(f"{self.outage.reason}: {plain(error)}") from None

    def order(self, id: str) -> Any:
        """See Upstream."""
        serial = None if self._history is None else Serial.parsed(id)
        return None if serial is None else (serial.epoch, serial.number)

    async def subscribers(self, topic: str, here: int) -> int:
        """See Upstream. Every machine that has joined the topic is asked; for half a second what
        is answered counts.
        """
        client = self._client
        if client is None:
            raise TopicsUnavailable(self.outage.reason)
        total = here

        async def add(message: Msg) -> None:
            nonlocal total
            machine, _, count = message.data.partition(b" ")
            if machine != self._machine.encode():
                total += int(count)

        inbox = client.new_inbox()
        try:
            answers = await client.subscribe(inbox, cb=add)
            await client.publish(self._subject("count", topic), b"", reply=inbox)
            await asyncio.sleep(_COUNT_S)
            await answers.unsubscribe()
        except LOST as error:
            raise TopicsUnavailable(f"{self.outage.reason}: {plain(error)}") from None
        return total

    async def reach(self) -> str:
        """See Upstream."""
        client = self._client
        try:
            if client is None:
                client = await self._connected(asyncio.Event())
                try:
                    await client.flush(5)
                    if self._history is not None:
                        await self._history.open(client)
                finally:
                    await client.close()
            else:
                await client.flush(5)
        except LOST as error:
            raise ServiceLost(_reason(error)) from None
        return "NATS" if self._history is None else "NATS with JetStream"

    # The connection

    async def _connected(self, ended: asyncio.Event) -> Client:
        """A new connection; `ended` is set when it has. The library does not connect again by
        itself: it would not say what was lost meanwhile.
        """
        client = Client()

        async def on_end() -> None:
            ended.set()
            self._wanted.set()

        async def on_error(error: Exception) -> None:
            _logger.debug("Topics: %s", error)

        async with asyncio.timeout(_TIMEOUT_S):
            await client.connect(
                self._url,
                **self._tls,
                name="asgi-poller",
                allow_reconnect=False,
                connect_timeout=5,
                ping_interval=10,
                max_outstanding_pings=1,
                disconnected_cb=on_end,
                closed_cb=on_end,
                error_cb=on_error,
            )
        return client

    async def _stay_connected(self) -> None:
        for delay_s in delays():
            ended = asyncio.Event()
            client: Client | None = None
            try:
                client = await self._connected(ended)
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*", cb=self._on_ack)
                if self._history is not None:
                    await self._history.open(client)
                self._client = client
                self._tried.set()
                await self._live(ended)
            except LOST as error:
                self._tried.set()
                self.outage.begin(_PART, ServiceLost(_reason(error)))
            finally:
                self._client = None
                self._be_silent()
                if client is not None and not client.is_closed:
                    await client.close()
            if ended.is_set() and self.outage.is_on:
                return  # it was connected: the next attempts begin at once
            await asyncio.sleep(delay_s)

    async def _live(self, ended: asyncio.Event) -> None:
        """Subscribe what is wanted, until the connection ends: then ServiceLost is raised."""
        while not ended.is_set():
            self._wanted.clear()
            for joined in list(self._joined.values()):
                if not joined.is_live:
                    await self._subscribe(joined)
            self.outage.end(_PART)
            await self._wanted.wait()
        raise nats.errors.ConnectionClosedError

    async def _subscribe(self, joined: _Joined) -> None:
        client = self._client
        assert client is not None
        live, count = (self._subject(what, joined.topic) for what in ("live", "count"))
        counting = functools.partial(self._on_question, joined)
        joined.subscriptions = [await client.subscribe(count, cb=counting)]
        if self._history is None:
            heard = functools.partial(self._on_plain, joined)
            joined.subscriptions.append(await client.subscribe(live, cb=heard))
            await client.flush(5)
        else:
            await self._follow(joined, live)
        if self._joined.get(joined.topic) is joined:
            joined.is_live = True
            joined.wake(None)
        else:
            await _unsubscribe(joined)

    async def _follow(self, joined: _Joined, subject: str) -> None:
        """From the last that was heard, or from now, on."""
        assert self._history is not None
        assert self._receiver is not None
        at = joined.at
        if at is not None and not await self._history.is_complete(subject, at):
            self.outage.lost_topics += 1
            at = None
        start = await self._history.last() if at is None else at
        if at is None and joined.at is not None:
            self._receiver.on_gap(joined.topic, start.id)
        joined.at, joined.id = start, start.id
        heard = functools.partial(self._on_kept, joined)
        joined.subscriptions.append(await self._history.follow(subject, start, heard))

    def _be_silent(self) -> None:
        assert self._receiver is not None
        for joined in self._joined.values():
            was_live, joined.is_live = joined.is_live, False
            joined.wake(TopicsUnavailable(self.outage.reason))
            if was_live and self._history is None:
                joined.id = _no_id()
                self.outage.lost_topics += 1
                self._receiver.on_gap(joined.topic, joined.id)

    # What is heard

    async def _on_plain(self, joined: _Joined, message: Msg) -> None:
        live = parsed_live(message.data)
        if live is None or live.kind != PLAIN or self._joined.get(joined.topic) is not joined:
            return
        last = joined.numbers.pop(live.machine, 0)  # it is put at the end again
        joined.numbers[live.machine] = max(last, live.number)
        if len(joined.numbers) > _MACHINE_COUNT:
            del joined.numbers[next(iter(joined.numbers))]
        if live.number > last:  # not sent once more, after a connection that had ended
            self._deliver(joined, f"{live.machine.decode()}-{live.number}", live.body)

    async def _on_kept(self, joined: _Joined, message: Msg) -> None:
        assert self._history is not None
        serial = self._history.serial(message)
        is_new = joined.at is not None and serial.number > joined.at.number
        if is_new and self._joined.get(joined.topic) is joined:
            joined.at = serial
            self._deliver(joined, serial.id, message.data)

    def _deliver(self, joined: _Joined, id: str, body: bytes) -> None:
        assert self._receiver is not None
        publication = publication_of(joined.topic, id, body)
        if publication is not None:
            joined.id = id
            self._receiver.on_publication(publication)

    async def _on_question(self, joined: _Joined, message: Msg) -> None:
        assert self._receiver is not None
        count = await self._receiver.subscribers_here(joined.topic)
        if self._client is not None and message.reply:
            await self._client.publish(message.reply, f"{self._machine} {count}".encode())

    # What is sent

    async def _send(self, batch: Sequence[Outgoing]) -> None:
        """See Outbox."""
        if self._client is None and not self.outage.is_on:  # it has only just begun to connect
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), _TIMEOUT_S)
        client = self._client
        if client is None:
            raise ServiceLost("it is not connected")
        try:
            if self._history is None:
                await self._send_plain(client, batch)
            else:
                await self._send_kept(client, batch)
        except LOST as error:
            raise ServiceLost(_reason(error)) from None

    async def _send_plain(self, client: Client, batch: Sequence[Outgoing]) -> None:
        machine = self._machine.encode()
        for each in batch:
            body = b"%b%b %d\n%b" % (PLAIN, machine, each.number, body_of(each.form, each.data))
            await self._put(client, each, body, {})
        await client.flush(5)  # its answer comes after all of these
        for each in batch:
            each.taken(f"{self._machine}-{each.number}")

    async def _send_kept(self, client: Client, batch: Sequence[Outgoing]) -> None:
        """Of each topic one after the other: JetStream may refuse one for a moment, while it stops
        or has no leader, and take the next, which would change their order.
        """
        topics: dict[str, deque[Outgoing]] = {}
        for each in batch:
            topics.setdefault(each.topic, deque()).append(each)
        while topics:
            wave = [queue.popleft() for queue in topics.values()]
            topics = {topic: queue for topic, queue in topics.items() if queue}
            self._acks = {each.number: each for each in wave}
            self._refusal = ""
            for each in wave:
                given = {
                    "reply": f"{self._inbox}.{each.number}",
                    "headers": {"Nats-Msg-Id": f"{self._machine}-{each.number}"},
                }
                await self._put(client, each, body_of(each.form, each.data), given)
            async with asyncio.timeout(_TIMEOUT_S):
                while not self._refusal and not all(each.done.done() for each in wave):
                    self._acked.clear()
                    await self._acked.wait()
            if self._refusal:
                raise ServiceLost(self._refusal)

    async def _put(
        self, client: Client, each: Outgoing, body: bytes, given: dict[str, Any]
    ) -> None:
        try:
            await client.publish(self._subject("live", each.topic), body, **given)
        except nats.errors.MaxPayloadError:
            each.failed(f"topics: NATS takes at most {client.max_payload} bytes")

    async def _on_ack(self, message: Msg) -> None:
        assert self._history is not None
        each = self._acks.pop(int(message.subject.rpartition(".")[2]), None)
        if each is None:
            return
        try:
            answer = json.loads(message.data or b"{}")  # nobody is there who could answer
            problem = answer.get("error")
            if problem is None and "seq" in answer:
                each.taken(self._history.of(int(answer["seq"])).id)
            elif problem is None or problem.get("code") == _UNAVAILABLE:
                self._refusal = "JetStream is not available"
            else:
                each.failed(f"topics: NATS refuses: {problem.get('description')}")
        except ValueError:
            each.failed("topics: NATS answers nonsense")
        self._acked.set()

    def _subject(self, what: str, topic: str) -> str:
        return f"{self._prefix}.{what}.{token_of(topic)}"


def token_of(topic: str) -> str:
    """A topic's name as one token of a subject: what may not be in one is = and two digits for each
    byte.
    """
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b"-_" else f"={byte:02x}"
        for byte in topic.encode()
    )


def _no_id() -> str:
    """A place without a publication, in a topic without a history."""
    return f"0.{secrets.token_hex(8)}"


def _reason(error: BaseException) -> str:
    return plain(error) if str(error) else type(error).__name__


async def _unsubscribe(joined: _Joined) -> None:
    subscriptions, joined.subscriptions = joined.subscriptions, []
    for each in subscriptions:
        try:
            await each.unsubscribe()
        except LOST:
            pass  # the connection has ended, and that with it
