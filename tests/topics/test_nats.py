"""Topics of two machines that NATS joins: real servers, real clients, a real NATS that goes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.command import run_python, started
from tests.support.processes import ROOT
from tests.support.server import Served, Site
from tests.support.services import (
    NatsServer,
    nats_server,
    needs_nats,
)
from tests.support.tls import write_pair
from tests.support.waiting import in_threads, wait_until
from tests.topics.machines import Follower, followers, is_refused, machines, published
from tests.topics.test_topics import counted

pytestmark = [pytest.mark.tools, needs_nats]

APP = "tests.topics.test_topics:app"
HISTORY: dict[str, Any] = {"topics_history": "2000,60s"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.mark.parametrize("options", [{}, HISTORY], ids=["plain", "history"])
def test_a_message_comes_to_the_subscribers_of_both(
    server: NatsServer, options: dict[str, Any]
) -> None:
    with machines(server.url, **options) as (one, other):
        with followers(one, other, other) as (here, there, also):
            ids = [published(one, 1), published(other, "é"), published(one, [None])]
            for each in (here, there, also):
                each.has([1, "é", [None]])
                assert each.ids == ids
            here.send("from a client")
            there.has([1, "é", [None], "from a client"])
            assert counted(one) == [1, 3]
            assert counted(other) == [2, 3]
            assert counted(one, "b") == [0, 0]
        wait_until(lambda: counted(one) == [0, 0], "nobody is left")


def test_only_joined_topics_are_subscribed(server: NatsServer) -> None:
    with machines(server.url) as (one, other):
        assert published(one, 1, "c")
        assert server.subjects("topics.") == []
        with followers(one, topic="a"), followers(other, topic="b%20.c"):
            assert server.subjects("topics.live") == ["topics.live.a", "topics.live.b=20=2ec"]
        wait_until(lambda: server.subjects("topics.") == [], "nothing is subscribed")


@pytest.mark.parametrize("options", [{}, HISTORY], ids=["plain", "history"])
def test_two_prefixes_are_two_worlds(server: NatsServer, options: dict[str, Any]) -> None:
    with (
        machines(server.url, **options) as (one, _),
        machines(server.url, topics_prefix="mine", **options) as (other, _),
        followers(one, other) as (here, there),
    ):
        published(one, 1)
        published(other, 2)
        here.has([1])
        there.has([2])


def test_who_comes_back_to_the_other_machine_has_missed_nothing(server: NatsServer) -> None:
    with machines(server.url, **HISTORY) as (one, other):
        with followers(one) as (client,):
            position = client.subscribed
        assert position is not None
        ids = [published(one if number % 2 else other, number) for number in range(700)]
        with followers(other, since=position["id"]) as (client,):
            client.has(list(range(700)))
            assert client.ids == ids
            published(one, "live")
            client.has([*range(700), "live"])
        with followers(one, since=ids[-1]) as (client,):
            published(other, "next")
            client.has(["live", "next"])


def test_more_than_is_kept_is_said_to_be_lost(server: NatsServer) -> None:
    with machines(server.url, topics_history="100,60s") as (one, other):
        first = published(one, 0)
        for number in range(150):
            last = published(one, number)
        for since, is_complete in ((first, False), (last, True), ("x", False), ("1-1", False)):
            with followers(other, since=since) as (client,):
                assert client.subscribed is not None
                assert client.subscribed["complete"] is is_complete
                assert client.values == []
        with followers(other, since=first) as (client,):
            published(one, "live")
            client.has(["live"])


def test_what_is_too_old_is_said_to_be_lost(server: NatsServer) -> None:
    with machines(server.url, topics_history="100,1s") as (one, other):
        old = published(one, "first")
        published(one, "old")

        def is_too_old() -> bool:
            with followers(other, since=old) as (client,):
                assert client.subscribed is not None
                return not client.subscribed["complete"]

        wait_until(is_too_old, "it is a second old")


def test_who_joins_in_a_flood_has_no_gap_and_nothing_twice(server: NatsServer) -> None:
    """The answer about what was missed, and what comes live meanwhile, meet without a seam."""
    with machines(server.url, **HISTORY) as (one, other), followers(one) as (whole,):
        ended = threading.Event()

        def publish(site: Site) -> None:
            with followers(site) as (client,):
                number = 0
                while not ended.is_set():
                    number += 1
                    client.send(f"{number}")
                    client.has_count(number - 200)
                client.send(f"end {site.port}")
                client.waits(lambda: f"end {site.port}" in client.values, "all are published")

        with in_threads(publish, [one, other]):
            late: list[Follower] = []
            for number in range(1, 13):
                whole.has_count(number * 150)
                since = whole.ids[number * 150 - 90]
                late.append(Follower((one, other)[number % 2], since=since))
            ended.set()
        last = published(one, "last")
        for each in (whole, *late):
            each.has_last(last)
        for each in late:
            assert each.subscribed is not None
            assert each.subscribed["complete"]
            start = len(whole.ids) - len(each.ids)
            assert each.ids == whole.ids[start:]
            each.close()


@pytest.mark.parametrize("kill", [False, True], ids=["ended", "killed"])
def test_a_restart_of_nats_loses_and_doubles_nothing(server: NatsServer, kill: bool) -> None:
    options = {**HISTORY, "topics_buffer": 10_000}
    with machines(server.url, **options) as (one, other), followers(one, other) as clients:
        with in_threads(lambda site: _publish_many(site, 300), [one, other]):
            for restart in range(3):
                clients[0].has_count(60 * (restart + 1))
                server.stop(kill=kill)
                server.start()
        last = published(one, "last")
        for client in clients:
            client.has_last(last)
            assert client.lost == []
            for name in (one.port, other.port):
                numbers = [v[1] for v in client.values[:-1] if v[0] == name]
                assert numbers == list(range(300))
        assert clients[0].ids == clients[1].ids


def _publish_many(site: Site, count: int) -> None:
    for number in range(count):
        published(site, [site.port, number])


def test_without_a_buffer_publish_raises_at_once(server: NatsServer) -> None:
    with machines(server.url, **HISTORY) as (one, other), followers(one, other) as clients:
        published(one, 1)
        server.stop()
        wait_until(lambda: is_refused(one) and is_refused(other), "publish raises")
        server.start()
        wait_until(lambda: not (is_refused(one) or is_refused(other)), "NATS is back")
        last = published(other, "last")
        for client in clients:
            client.has_last(last)
            assert client.values[0] == 1
            assert client.lost == []


def test_a_buffer_keeps_so_many(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    with machines(server.url, topics_buffer=5, **HISTORY) as (one, _), followers(one) as (client,):
        published(one, "before")
        server.stop()
        refused: list[bool] = []
        with in_threads(lambda _: refused.append(is_refused(one)), range(8)):
            wait_until(lambda: len(refused) == 3, "three of eight are refused")
            assert refused == [True] * 3
            server.start()
        assert refused == [True] * 3 + [False] * 5
        client.has(["before", 1, 1, 1, 1, 1])
        assert "that waited: 5, that were refused: 3;" in caplog.text


def test_a_wrong_password_is_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats", "--user", "me", "--pass", "right") as server:
        url = f"nats://me:wr0ng@127.0.0.1:{server.port}"
        with started(app=APP, environ={"ASGI_POLLER_TOPICS": url}) as command:
            command.wait_ready()
            command.wait_for(r"ERROR: +Topics: nats://127.* cannot be reached: .*Authorization")
            assert is_refused(Served(command.address[1]))
            command.stop()
            assert len(command.said("Topics: ")) == 1
            assert "wr0ng" not in command.text
        good = f"nats://me:right@127.0.0.1:{server.port}"
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "ASGI_POLLER_TOPICS": good}
        found = run_python("-m", "asgi_poller", "check", APP, env=environ)
        assert "answers: NATS" in found.stdout
        with machines(good) as (one, other), followers(other) as (client,):
            published(one, 1)
            client.has([1])


def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    files = write_pair(tmp_path, "nats", authority.issue_cert("127.0.0.1"))
    authority_file = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(authority_file)
    options = ("--tls", "--tlscert", files.certificate, "--tlskey", files.key)
    with nats_server(tmp_path / "nats", *options) as server:
        url = f"tls://127.0.0.1:{server.port}?ssl_ca_certs={authority_file}"
        with machines(url, **HISTORY) as (one, other), followers(one, other) as clients:
            published(one, 1)
            for client in clients:
                client.has([1])
