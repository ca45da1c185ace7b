"""A hub in a process of its own, for tests of links: `python -m tests.support.hub FD [RULE ...]`
serves the mailbox FD.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from asgi_poller import platform
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.hub_link import HubLink
from asgi_poller.topics.hub_server import HubServer
from asgi_poller.topics.links import Link, Receiver
from asgi_poller.topics.mailbox import through
from asgi_poller.topics.publication import Missed, Publication
from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE_S


class HubProcess:
    """A mailbox, and a process that serves it when it is started."""

    def __init__(self, *rules: str) -> None:
        self._rules = rules
        self._theirs, self.mailbox = socket.socketpair(socket.AF_UNIX, platform.FD_SOCKET_TYPE)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        fd = self._theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hub", str(fd), *self._rules],
            cwd=ROOT,
            pass_fds=[fd],
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it, at once unless another signal is given."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE_S)
            self._process = None

    def link(self, receiver: Receiver) -> HubLink:
        """For the running loop."""
        return HubLink(through(self.mailbox), receiver)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        self.kill()
        self._theirs.close()
        self.mailbox.close()


class Recorder:
    """A receiver that keeps what comes, in order; a gap is None."""

    def __init__(self) -> None:
        self.got: dict[str, list[str | bytes | None]] = {}
        self.place: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.is_congested = False
        self._changed = asyncio.Event()

    def on_publication(self, publication: Publication) -> None:
        self.got.setdefault(publication.topic, []).append(publication.data)
        self.place[publication.topic] = publication.id
        self._changed.set()

    def on_gap(self, topic: str, position: str) -> None:
        self.got.setdefault(topic, []).append(None)
        self.place[topic] = position
        self._changed.set()

    def positions(self) -> Iterable[tuple[str, str]]:
        return list(self.place.items())

    def count(self, topic: str) -> int:
        return self.counts.get(topic, 0)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what has come makes it true."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_at(self, topic: str, id: str) -> None:
        """Wait for a publication."""
        await self.until(lambda: self.place.get(topic) == id)

    async def until_count(self, topic: str, count: int) -> None:
        """Wait until so much has come."""
        await self.until(lambda: len(self.got.get(topic, ())) >= count)

    async def until_topics(self, count: int) -> None:
        """Wait until something has come to so many."""
        await self.until(lambda: len(self.got) == count)

    async def join(self, link: Link, topic: str = "a", since: str | None = None) -> Missed:
        """Join a topic of `link`, whose receiver this is; what was missed."""
        answer = asyncio.get_running_loop().create_future()
        link.join(topic, since, answer.set_result)
        missed = await answer
        if isinstance(missed, Exception):
            raise missed
        assert isinstance(missed, Missed)
        self.place.setdefault(topic, missed.position)
        return missed


@contextlib.contextmanager
def hub_process(*rules: str) -> Iterator[HubProcess]:
    """One that has been started."""
    hub = HubProcess(*rules)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


@contextlib.asynccontextmanager
async def links(hub: HubProcess, count: int) -> AsyncIterator[list[tuple[HubLink, Recorder]]]:
    """So many on this loop, each with what it gets."""
    recorders = [Recorder() for _ in range(count)]
    made = [(hub.link(recorder), recorder) for recorder in recorders]
    try:
        yield made
    finally:
        for link, _ in made:
            link.close()


async def main(fd: int, rules: list[str]) -> None:
    """Serve a mailbox until nobody else has it, or SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    mailbox = socket.socket(fileno=fd)
    await HubServer(HistoryRules.parsed(rules)).serve(mailbox, ended)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
    os._exit(0)
