"""Topics of several machines, joined by Redis.

Without a history a topic is a channel: what is published is what is heard. With one it is a stream
too (redis_scripts.py): the channel says what is new, the stream what was missed, and the numbers of
publications, which have no gap, which of the two is to be asked.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from asgi_poller.settings.service_url import shown_service
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.outage import Outage, delays, plain
from asgi_poller.topics.outbox import Outbox, Outgoing, ServiceLost
from asgi_poller.topics.publication import Missed
from asgi_poller.topics.redis_listener import RedisListener
from asgi_poller.topics.redis_scripts import PUBLISH
from asgi_poller.topics.redis_service import Command, service_of
from asgi_poller.topics.redis_store import RedisStore
from asgi_poller.topics.upstream import UpstreamReceiver
from asgi_poller.topics.upstream_message import PLAIN, QUESTION, Place, body_of
from asgi_poller.topics.upstream_tasks import Tasks

#: Seconds for all machines to say how many subscribers they have: each asks its loops (COUNT_S).
_COUNT_S: Final = 3.0


class RedisUpstream:
    """See Upstream. `url` is one that split_service takes; `rules` say which topics have a history,
    `buffer_count` how many publications wait during an outage.
    """

    def __init__(
        self, url: str, prefix: str, rules: HistoryRules, *, buffer_count: int = 0
    ) -> None:
        self._rules = rules
        self._machine = secrets.token_hex(6)
        self._tasks = Tasks()
        self._questions: set[bytes] = set()  # of this machine, under way
        self.outage = Outage(shown_service(url), buffer_count)
        self._service = service_of(url)
        self._store = RedisStore(self._service, prefix, self.outage)
        self._outbox = Outbox(self._send, self.reach, self.outage, buffer_count)
        self._listener = RedisListener(
            self._store, rules, self.outage, asked=self._asked, tasks=self._tasks
        )

    # Upstream

    async def start(self, receiver: UpstreamReceiver) -> None:
        """See Upstream."""
        self._listener.receiver = receiver
        for run in (self._outbox.run, self._listener.run, self._listener.renew):
            self._tasks.keep(run)
        self._tasks.spawn(self._look_at_once())

    async def close(self) -> None:
        """See Upstream."""
        await self._tasks.close()
        await self._service.close()

    async def publish(self, topic: str, form: str, data: bytes) -> str:
        """See Upstream."""
        return await self._outbox.publish(topic, form, data)

    def join(self, topic: str) -> None:
        """See Upstream."""
        self._listener.join(topic)

    def leave(self, topic: str) -> None:
        """See Upstream."""
        self._listener.leave(topic)

    async def missed(self, topic: str, since: str | None) -> Missed:
        """See Upstream."""
        return await self._listener.missed(topic, since)

    def order(self, id: str) -> Any:
        """See Upstream."""
        place = Place.parsed(id)
        return None if place is None else (place.ms, place.number)

    async def subscribers(self, topic: str, here: int) -> int:
        """See Upstream. Each machine that has joined the topic is asked, by its channel."""
        question = secrets.token_hex(8).encode()
        answers_key = self._answers_key(topic, question)
        self._questions.add(question)
        try:
            command = (self._service.publish_command, self._store.channel(topic))
            asked = await self._store.ask((*command, QUESTION + question + b"\n"))
            count = int(asked) - self._listener.is_live(topic)
            total, until_s = here, asyncio.get_running_loop().time() + _COUNT_S
            for _ in range(count):
                rest_s = until_s - asyncio.get_running_loop().time()
                answer = await self._store.ask(("BLPOP", answers_key, f"{max(rest_s, 0.01):.3f}"))
                if answer is None:
                    break
                total += int(answer[1])
            return total
        finally:
            self._questions.discard(question)

    async def reach(self) -> str:
        """What the service is. Raises ServiceLost while it cannot be reached, and for a wrong
        password.
        """
        answer = (await self._service.run([[("PING",)]]))[0][0]
        if isinstance(answer, Exception):
            raise ServiceLost(plain(answer))
        return self._service.kind

    # What is sent

    async def _send(self, batch: Sequence[Outgoing]) -> None:
        """See Outbox. Those of one topic are one command where it has a history."""
        topics: dict[str, list[Outgoing]] = {}
        for each in batch:
            topics.setdefault(each.topic, []).append(each)
        work = [self._commands(topic, outgoing) for topic, outgoing in topics.items()]
        answers = await self._service.run([commands for commands, _ in work])
        for (_, taken), found in zip(work, answers, strict=True):
            taken(found)

    def _commands(
        self, topic: str, outgoing: list[Outgoing]
    ) -> tuple[list[Command], Callable[[list[Any]], None]]:
        """What publishes these, and what takes the answers."""
        channel, command = self._store.channel(topic), self._service.publish_command
        keep = self._rules.of(topic)
        if keep.count:
            given: list[Any] = [keep.count, channel, command, self._machine]
            for each in outgoing:
                given += (each.number, body_of(each.form, each.data))
            script = self._store.script(PUBLISH, topic, keep, *given)
            return [script], functools.partial(_taken_by_script, outgoing)
        machine = self._machine.encode()
        commands: list[Command] = [
            (
                command,
                channel,
                b"%b%b %d\n%b" % (PLAIN, machine, each.number, body_of(each.form, each.data)),
            )
            for each in outgoing
        ]
        return commands, functools.partial(_taken, outgoing, self._machine)

    # How many subscribers there are

    def _asked(self, topic: str, question: bytes) -> None:
        if question not in self._questions:
            self._tasks.spawn(self._answer(topic, question))

    async def _answer(self, topic: str, question: bytes) -> None:
        count = await self._listener.receiver.subscribers_here(topic)
        key = self._answers_key(topic, question)
        try:
            await self._service.run([[("RPUSH", key, count), ("EXPIRE", key, 10)]])
        except ServiceLost:
            pass  # it is not counted

    def _answers_key(self, topic: str, question: bytes) -> str:
        return self._store.key(topic, f"answers:{question.decode()}")

    async def _look_at_once(self) -> None:
        """A wrong password is said when the server starts."""
        try:
            await self.reach()
        except ServiceLost as error:
            self.outage.begin("start", error)
            for delay_s in delays():
                await asyncio.sleep(delay_s)
                try:
                    await self.reach()
                except ServiceLost:
                    continue
                self.outage.end("start")
                return


def _taken(outgoing: list[Outgoing], machine: str, answers: list[Any]) -> None:
    for each, answer in zip(outgoing, answers, strict=True):
        if isinstance(answer, Exception):
            each.failed(f"topics: Redis refuses: {plain(answer)}")
        else:
            each.taken(f"{machine}-{each.number}")


def _taken_by_script(outgoing: list[Outgoing], answers: list[Any]) -> None:
    if isinstance(answers[0], Exception):
        for each in outgoing:
            each.failed(f"topics: Redis refuses: {plain(answers[0])}")
        return
    for each, id in zip(outgoing, answers[0], strict=True):
        each.taken(Place.from_words(id).id)
