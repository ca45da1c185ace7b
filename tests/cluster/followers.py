"""Who follows the feed and who posts to it, in threads of the test: what each got is kept,
and held to what was posted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from examples.cluster.follow import follow
from tests.support.waiting import DEADLINE_S, wait_until

LAST = "last"
_ATTEMPT_S = 5.0  # for one post
_PAUSE_S = 0.1  # before the next attempt


class Got(NamedTuple):
    """An entry as a follower got it."""

    id: str
    text: str


@dataclass(slots=True)
class Follower:
    """`connections` counts how often it was subscribed; `problems` is what must not happen."""

    room: str
    got: list[Got] = field(default_factory=list)
    connections: int = 0
    problems: list[str] = field(default_factory=list)

    def take(self, message: dict[str, Any]) -> bool:
        """A message has come; whether it was the last of all."""
        if message.get("subscribed"):
            self.connections += 1
            if not message["complete"]:
                self.problems.append(f"a gap after {len(self.got)} entries")
            return False
        entry = Got(message["id"], message["json"]["text"])
        self.got.append(entry)
        return entry.text == LAST


@dataclass(slots=True)
class Poster:
    """Posts numbers to a room, each until the answer is 200: then it is in `taken`, (id, text). A
    text is NUMBER.ATTEMPT; one without an answer may have been taken or not.
    """

    address: str
    room: str
    taken: list[Got] = field(default_factory=list)
    failures: int = 0

    def post(self, client: httpx.Client, number: int | str, over: threading.Event) -> None:
        """Try until it is taken, or all is over."""
        attempt = 0
        while not over.is_set():
            text = f"{number}.{attempt}" if isinstance(number, int) else number
            with contextlib.suppress(httpx.HTTPError):
                url = f"http://{self.address}/rooms/{self.room}"
                answer = client.post(url, json={"text": text})
                if answer.status_code == 200:
                    self.taken.append(Got(answer.json()["id"], text))
                    return
                assert answer.status_code in (502, 503, 504), answer
            attempt += 1
            self.failures += 1
            over.wait(_PAUSE_S)


class Feed:
    """Followers of some rooms, and a poster for each, at HOST:PORT."""

    def __init__(self, address: str, rooms: Sequence[str], count: int) -> None:
        self.followers = [Follower(rooms[index % len(rooms)]) for index in range(count)]
        self.posters = [Poster(address, room) for room in rooms]
        self._address = address
        self._enough, self._over = threading.Event(), threading.Event()
        self._problems: list[BaseException] = []

    @contextlib.contextmanager
    def running(self, pause_s: float) -> Iterator[None]:
        """Follow and post while the block runs, each room's poster every `pause_s` seconds; then
        wait until everybody has all that was posted.
        """
        following = threading.Thread(target=self._follow, daemon=True)
        posting = [
            threading.Thread(target=self._post, args=(poster, pause_s), daemon=True)
            for poster in self.posters
        ]
        following.start()
        try:
            wait_until(lambda: all(each.connections for each in self.followers), "all follow")
            for thread in posting:
                thread.start()
            yield
            self._enough.set()
            for thread in posting:
                thread.join(DEADLINE_S)
                assert not thread.is_alive(), "the last entry cannot be posted"
            following.join(DEADLINE_S)
            assert not following.is_alive(), self._who_waits()
        finally:
            self._over.set()
            self._enough.set()
        assert self._problems == []

    def everybody_is_back(self) -> None:
        """Wait until each follower is subscribed, and has an entry that was posted after this
        call.
        """
        self._everybody_has_a_new_entry()
        # The first may be among what was missed, which comes before "subscribed".
        self._everybody_has_a_new_entry()

    @contextlib.contextmanager
    def posts_fail(self) -> Iterator[None]:
        """Afterwards wait until each poster has been refused since."""
        before = [poster.failures for poster in self.posters]
        yield
        pairs = list(zip(self.posters, before, strict=True))
        wait_until(lambda: all(it.failures > count for it, count in pairs), "posts fail")

    def check(self) -> None:
        """Nothing is missing, nothing came twice, and all are in one order, which keeps that of
        each poster.
        """
        assert self._problems_of_all() == set()
        for poster in self.posters:
            followers = [each for each in self.followers if each.room == poster.room]
            order = followers[0].got
            assert len({got.id for got in order}) == len(order), "an id came twice"
            assert len({got.text for got in order}) == len(order), "an entry came twice"
            for each in followers:
                assert each.got == order, f"others got {len(order)}, this one {len(each.got)}"
            taken = set(poster.taken)
            assert [got for got in order if got in taken] == poster.taken

    def _everybody_has_a_new_entry(self) -> None:
        marks = {poster.room: len(poster.taken) for poster in self.posters}
        wait_until(
            lambda: all(len(it.taken) > marks[it.room] for it in self.posters), "entries are taken"
        )
        ids = {poster.room: poster.taken[marks[poster.room]].id for poster in self.posters}
        waiting = list(self.followers)

        def all_have_it() -> bool:
            assert not any(each.problems for each in self.followers), self._problems_of_all()
            waiting[:] = [
                each for each in waiting if all(got.id != ids[each.room] for got in each.got)
            ]
            return not waiting

        wait_until(all_have_it, "everybody has what was posted last")

    def _problems_of_all(self) -> set[str]:
        return {problem for each in self.followers for problem in each.problems}

    def _who_waits(self) -> str:
        late = [each for each in self.followers if not each.got or each.got[-1].text != LAST]
        return f"{len(late)} have not got all, such as {late[0]}" if late else ""

    def _post(self, poster: Poster, pause_s: float) -> None:
        number = 0
        try:
            with httpx.Client(timeout=_ATTEMPT_S) as client:
                while not self._enough.wait(pause_s):
                    poster.post(client, number, self._over)
                    number += 1
                poster.post(client, LAST, self._over)
        except BaseException as error:
            self._problems.append(error)

    def _follow(self) -> None:
        async def one(follower: Follower) -> None:
            url = f"ws://{self._address}/rooms/{follower.room}"
            async with contextlib.aclosing(follow(url)) as messages:
                async for message in messages:
                    if follower.take(message):
                        return

        async def everybody() -> None:
            tasks = [asyncio.ensure_future(one(each)) for each in self.followers]
            work = asyncio.ensure_future(asyncio.wait(tasks))
            over = asyncio.ensure_future(asyncio.to_thread(self._over.wait))
            await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    self._problems.append(result)
            self._over.set()

        asyncio.run(everybody())
