"""An event loop's link to the hub of several processes, which may die and come back.

What is published goes to the hub when there is one, and is taken when it says so. What was said to
a hub that died before it answered may have been delivered or not: `publish` says TopicsUnavailable.
A hub that comes back is asked for what was missed since the last publication of each topic; a new
one knows nothing of that, and says so: a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics import wire
from asgi_poller.topics import wire_messages as said
from asgi_poller.topics.links import Answer, Answered, Receiver, recover
from asgi_poller.topics.mailbox import connected
from asgi_poller.topics.publication import Missed, Publication

_logger = logging.getLogger("asgi_poller.error")

#: Without a hub for so long, what waits for one fails, and so does what comes until there is one.
WAIT_S: Final = 10.0
#: Between attempts: doubled each time.
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0
#: What comes from the hub is worked on for so long before the loop's other work has a turn.
_HELPING_S: Final = 0.002
_HELPING_COUNT: Final = 64
_GONE: Final = "topics: this server's hub is gone, and may have delivered this or not"
_NONE: Final = "topics: this server has no hub now"


@dataclass(slots=True)
class _Join:
    topic: str
    since: str | None
    answered: Answered
    is_own: bool = False  # of the link, which asks for what was missed


class HubLink:
    """See Link. `connect` gives one of a pair of stream sockets whose other end a HubServer gets,
    or raises OSError; it does not wait.
    """

    def __init__(self, connect: Callable[[], socket.socket], receiver: Receiver) -> None:
        self._connect = connect
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._line: _Line | None = None  # to a hub that has said welcome
        self._is_down = False
        self._is_closed = False
        self._number = 0
        self._joins: dict[int, _Join] = {}
        self._publications: dict[int, asyncio.Future[str]] = {}
        self._unsent: dict[int, bytes] = {}  # publications
        self._counts: dict[int, tuple[str, asyncio.Future[tuple[int, int]]]] = {}
        self._give_up = self._loop.call_later(WAIT_S, self._be_down)
        self._task = self._loop.create_task(self._stay_connected())

    # Link

    async def publish(self, topic: str, form: str, data: str | bytes) -> str:
        """See Link."""
        request = self._next()
        message = wire.publish(
            request, topic, form, data.encode() if isinstance(data, str) else data
        )
        self._require_hub()
        if self._line is not None:
            self._line.put(message)
        else:
            self._unsent[request] = message
        taken: asyncio.Future[str] = self._loop.create_future()
        self._publications[request] = taken
        try:
            return await taken
        finally:
            self._publications.pop(request, None)
            self._unsent.pop(request, None)

    def join(self, topic: str, since: str | None, answered: Answered) -> None:
        """See Link."""
        if self._is_down or self._is_closed:
            self._loop.call_soon(answered, TopicsUnavailable(_NONE))
            return
        self._ask(_Join(topic, since, answered))

    def leave(self, topic: str) -> None:
        """See Link."""
        if self._line is not None:
            self._line.put(wire.leave(topic))

    async def subscribers(self, topic: str) -> tuple[int, int]:
        """See Link."""
        self._require_hub()
        request = self._next()
        counted: asyncio.Future[tuple[int, int]] = self._loop.create_future()
        self._counts[request] = topic, counted
        if self._line is not None:
            self._line.put(wire.count(request, topic))
        try:
            return await counted
        finally:
            self._counts.pop(request, None)

    def resume(self) -> None:
        """See Link."""
        if self._line is not None:
            self._line.work()

    def close(self) -> None:
        """See Link."""
        self._is_closed = True
        self._task.cancel()
        self._give_up.cancel()
        if self._line is not None:
            self._line.close()
            self.lost(self._line)
        self._fail_all("topics: this event loop has ended")

    # The line's side

    def welcomed(self, line: _Line) -> None:
        """A hub serves this link: say again what it wants."""
        self._line = line
        self._is_down = False
        self._give_up.cancel()
        asked, self._joins = self._joins, {}
        for topic, position in self._receiver.positions():
            recovered = functools.partial(self._recovered, topic, position)
            self._ask(_Join(topic, position, recovered, is_own=True))
        for join in asked.values():
            self._ask(join)
        for message in self._unsent.values():
            line.put(message)
        self._unsent.clear()
        for request, (topic, _) in self._counts.items():
            line.put(wire.count(request, topic))

    def joined(self, request: int, answer: Answer) -> None:
        """What was missed, at its place between the publications."""
        join = self._joins.pop(request, None)
        if join is not None:
            join.answered(answer)

    def taken(self, request: int, id: str) -> None:
        """The hub has a publication."""
        taken = self._publications.get(request)
        if taken is not None and not taken.done():
            taken.set_result(id)

    def refused(self, request: int, problem: str) -> None:
        """The hub cannot do it now."""
        error = TopicsUnavailable(problem)
        if request in self._joins:
            self.joined(request, error)
        elif request in self._publications:
            _fail(self._publications[request], error)
        elif request in self._counts:
            _fail(self._counts[request][1], error)

    def counted(self, request: int, here: int, everywhere: int) -> None:
        """The answer to `subscribers`."""
        _, counted = self._counts.get(request, ("", None))
        if counted is not None and not counted.done():
            counted.set_result((here, everywhere))

    def lost(self, line: _Line) -> None:
        """The hub is gone. What it had not answered it may have done or not."""
        if self._line is not line:
            return
        self._line = None
        self._joins = {number: join for number, join in self._joins.items() if not join.is_own}
        for request, taken in self._publications.items():
            if request not in self._unsent:
                _fail(taken, TopicsUnavailable(_GONE))
        if not self._is_closed:
            self._give_up = self._loop.call_later(WAIT_S, self._be_down)

    # Inside

    def _next(self) -> int:
        self._number = (self._number + 1) & 0xFFFFFFFF
        return self._number

    def _require_hub(self) -> None:
        if self._is_down or self._is_closed:
            raise TopicsUnavailable(_NONE)

    def _ask(self, join: _Join) -> None:
        request = self._next()
        self._joins[request] = join
        if self._line is not None:
            self._line.put(wire.join(request, join.topic, join.since))

    def _recovered(self, topic: str, position: str, answer: Answer) -> None:
        """Give the loop what it missed of a topic."""
        missed = answer if isinstance(answer, Missed) else Missed((), position, is_complete=False)
        recover(self._receiver, topic, missed)

    async def _stay_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            line = _Line(self, self._receiver, self._loop)
            try:
                await connected(self._loop, functools.partial(_itself, line), self._connect())
            except OSError as error:
                _logger.debug("Topics: no link to the hub: %s.", error)
            else:
                await line.ended.wait()
                if line.was_welcome:
                    pause_s = _FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _be_down(self) -> None:
        self._is_down = True
        self._fail_all(_NONE)

    def _fail_all(self, problem: str) -> None:
        error = TopicsUnavailable(problem)
        for taken in self._publications.values():
            _fail(taken, error)
        for _, counted in self._counts.values():
            _fail(counted, error)
        joins, self._joins = self._joins, {}
        for join in joins.values():
            join.answered(error)


class _Line(asyncio.Protocol):
    """One connection of a HubLink."""

    def __init__(self, link: HubLink, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> None:
        self.ended = asyncio.Event()
        self.was_welcome = False
        self._link = link
        self._receiver = receiver
        self._loop = loop
        self._decoder = wire.Decoder(wire.FROM_HUB)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._missed: list[Publication] | None = None  # while an answer comes
        self._is_reading = True
        self._handlers: dict[type, Callable[[Any], None]] = {
            Publication: self._on_publication,
            said.Welcome: self._on_welcome,
            said.Taken: lambda message: link.taken(*message),
            said.Refused: lambda message: link.refused(*message),
            said.MissedBegin: self._on_missed,
            said.Joined: self._on_joined,
            said.Gap: lambda message: receiver.on_gap(*message),
            said.Ask: self._on_ask,
            said.Counts: lambda message: link.counted(*message),
        }

    def put(self, message: bytes) -> None:
        """Tell the hub; it is written at the end of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(message)

    def close(self) -> None:
        """Write what there is, and end."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def work(self) -> None:
        """Do what the hub says, a helping in each turn, and while the loop can write it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        until_s = time.monotonic() + _HELPING_S
        try:
            while not self._receiver.is_congested:
                for _ in range(_HELPING_COUNT):
                    message = self._decoder.next()
                    if message is None:
                        self._read(True)
                        return
                    self._do(message)
                if time.monotonic() > until_s:
                    self._loop.call_soon(self.work)
                    break
        except said.WireFault as fault:
            _logger.error("Topics: the hub sends nonsense, and is left: %s.", fault)
            transport.abort()
            return
        self._read(False)

    def _finish(self) -> None:
        """The hub is gone: do the last that it said."""
        with contextlib.suppress(said.WireFault):
            while (message := self._decoder.next()) is not None:
                self._do(message)

    def _do(self, message: Any) -> None:
        try:
            self._handlers[type(message)](message)
        except said.WireFault:
            raise
        except Exception:
            _logger.exception("Topics: what the hub said could not be done.")

    def _read(self, is_wanted: bool) -> None:
        if self._transport is None or is_wanted is self._is_reading:
            return
        self._is_reading = is_wanted
        self._transport.resume_reading() if is_wanted else self._transport.pause_reading()

    def _flush(self) -> None:
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    # What the hub says

    def _on_publication(self, publication: Publication) -> None:
        if self._missed is not None:
            self._missed.append(publication)
        else:
            self._receiver.on_publication(publication)

    def _on_welcome(self, message: said.Welcome) -> None:
        if message.version != wire.VERSION:
            raise said.WireFault("it is of another version: restart the server, not only workers")
        self.was_welcome = True
        self._link.welcomed(self)

    def _on_missed(self, message: said.MissedBegin) -> None:
        self._missed = []

    def _on_joined(self, message: said.Joined) -> None:
        publications, self._missed = self._missed or [], None
        answer = Missed(tuple(publications), message.position, message.is_complete)
        self._link.joined(message.request, answer)

    def _on_ask(self, message: said.Ask) -> None:
        self.put(wire.counted(message.request, self._receiver.count(message.topic)))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._decoder.feed(data)
        self.work()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._out.clear()
        if error is None:
            self._finish()
        self._link.lost(self)
        self.ended.set()


def _itself(line: _Line) -> _Line:
    return line


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
