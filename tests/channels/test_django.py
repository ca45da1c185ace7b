"""A Django project with Channels: consumers of different loops and workers hear each other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets.sync.client
from websockets.sync.client import ClientConnection

from tests.support.forms import GUNICORN, LOOPS, ONE, WORKERS, served
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.channels.django_app:app"


class Member:
    """A client of a room, and what its consumer has said of itself."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        greeting = self.heard()
        self.where = tuple(greeting["where"])
        self.channel = greeting["channel"]

    def heard(self) -> Any:
        return json.loads(self._client.recv(DEADLINE_S))

    def says(self, **content: str) -> None:
        self._client.send(json.dumps(content))


@pytest.fixture(scope="module", params=[ONE, LOOPS, WORKERS, GUNICORN])
def site(request: pytest.FixtureRequest) -> Iterator[tuple[Served, int]]:
    """A server, and how many loops it has in all."""
    with served(request.param, APP) as server:
        yield server, 1 if request.param in (ONE, GUNICORN) else 2


@contextlib.contextmanager
def members(site: tuple[Served, int], path: str = "/async") -> Iterator[tuple[Member, Member]]:
    """Two, on different loops if there are several."""
    server, loops = site
    with contextlib.ExitStack() as stack:
        joined: list[Member] = []

        def has_two() -> bool:
            url = server.url(path, "ws")
            client = websockets.sync.client.connect(url, open_timeout=DEADLINE_S)
            member = Member(stack.enter_context(client))
            if loops == 1 or member.where not in [each.where for each in joined]:
                joined.append(member)
            else:
                client.close()
            return len(joined) == 2

        wait_until(has_two, "there is a member on each of two loops")
        yield joined[0], joined[1]


def test_a_group_is_of_all_loops_and_workers(site: tuple[Served, int]) -> None:
    with members(site) as (one, two):
        for number in range(20):
            speaker = (one, two)[number % 2]
            speaker.says(text=str(number))
            assert one.heard() == two.heard() == {"text": str(number)}


def test_and_in_order(site: tuple[Served, int]) -> None:
    with members(site) as (one, two):
        for number in range(40):  # fewer than a channel holds
            one.says(text=str(number))
        expected = [{"text": str(number)} for number in range(40)]
        for member in (one, two):
            assert [member.heard() for _ in range(40)] == expected


def test_a_channel_of_another_worker_can_be_sent_to(site: tuple[Served, int]) -> None:
    with members(site) as (one, two):
        one.says(to=two.channel, text="for two")
        assert two.heard() == {"text": "for two"}
        two.says(to=one.channel, text="for one")
        assert one.heard() == {"text": "for one"}


def test_a_channel_of_another_worker_can_be_put_into_a_group(site: tuple[Served, int]) -> None:
    with members(site) as (one, two):
        one.says(add=two.channel, group="new")
        assert one.heard() == "added"
        one.says(to=two.channel, text="marker")  # behind it: it has been added
        assert two.heard() == {"text": "marker"}
        wait_until(lambda: reaches(one, two, "new"))
        one.says(discard=two.channel, group="new")
        assert one.heard() == "discarded"
        one.says(to=two.channel, text="marker")
        assert two.heard() == {"text": "marker"}
        assert not reaches(one, two, "new")


def reaches(one: Member, two: Member, group: str) -> bool:
    """Whether a message to `group` comes to `two` before one that goes to all."""
    one.says(group=group, text="for the group")
    one.says(text="for all")
    assert one.heard() == {"text": "for all"}
    first = two.heard()
    if first == {"text": "for all"}:
        return False
    assert first == {"text": "for the group"}
    assert two.heard() == {"text": "for all"}
    return True


def test_sync_consumers_and_views_too(site: tuple[Served, int]) -> None:
    server, _ = site
    with members(site, "/sync") as (one, two):
        one.says(text="sync")
        assert one.heard() == two.heard() == {"text": "sync"}
        answer = httpx.get(server.url("/say?text=view"), timeout=DEADLINE_S)
        assert answer.text == "said"
        assert one.heard() == two.heard() == {"text": "view"}
