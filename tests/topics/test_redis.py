"""Topics of two machines that Redis joins: real servers, real clients, a real Redis that goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio
import trustme

from asgi_poller.topics.outbox import ServiceLost
from asgi_poller.topics.redis_service import service_of
from tests.support.command import run_python, started
from tests.support.processes import ROOT, free_port
from tests.support.server import Served, Site
from tests.support.services import (
    RedisServer,
    needs_redis,
    redis_cluster,
    redis_server,
)
from tests.support.tls import write_pair
from tests.support.waiting import in_threads, wait_until
from tests.topics.machines import Follower, followers, is_refused, machines, published
from tests.topics.test_topics import counted

pytestmark = [pytest.mark.tools, needs_redis]

APP = "tests.topics.test_topics:app"
HISTORY: dict[str, Any] = {"topics_history": "2000,60s"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.mark.parametrize("options", [{}, HISTORY], ids=["plain", "history"])
def test_a_message_comes_to_the_subscribers_of_both(
    server: RedisServer, options: dict[str, Any]
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


def test_only_joined_topics_are_subscribed(server: RedisServer) -> None:
    with machines(server.url) as (one, other):
        assert published(one, 1, "c")
        assert server.channels() == []
        with followers(one, topic="a"), followers(other, topic="b"):
            assert server.channels() == ["topics:{a}:live", "topics:{b}:live"]
        wait_until(lambda: server.channels() == [], "nothing is subscribed")


@pytest.mark.parametrize("options", [{}, HISTORY], ids=["plain", "history"])
def test_two_prefixes_are_two_worlds(server: RedisServer, options: dict[str, Any]) -> None:
    with (
        machines(server.url, **options) as (one, _),
        machines(server.url, topics_prefix="mine", **options) as (other, _),
        followers(one, other) as (here, there),
    ):
        published(one, 1)
        published(other, 2)
        here.has([1])
        there.has([2])


def test_who_comes_back_to_the_other_machine_has_missed_nothing(server: RedisServer) -> None:
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


def test_more_than_is_kept_is_said_to_be_lost(server: RedisServer) -> None:
    with machines(server.url, topics_history="1000,60s;short=1000,1s") as (one, other):
        first = published(one, 0)
        for number in range(1300):  # Redis trims in steps of a hundred
            last = published(one, number)
        for since, is_complete in ((first, False), (last, True), ("x", False), ("a-1-2", False)):
            with followers(other, since=since) as (client,):
                assert client.subscribed is not None
                assert client.subscribed["complete"] is is_complete
                assert client.values == []
        with followers(other, since=first) as (client,):
            published(one, "live")
            client.has(["live"])
        old = published(one, "first", "short")
        published(one, "old", "short")

        def is_too_old() -> bool:
            with followers(other, topic="short", since=old) as (client,):
                assert client.subscribed is not None
                return not client.subscribed["complete"]

        wait_until(is_too_old, "it is a second old")


def test_who_joins_in_a_flood_has_no_gap_and_nothing_twice(server: RedisServer) -> None:
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
def test_a_restart_of_redis_loses_and_doubles_nothing(server: RedisServer, kill: bool) -> None:
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


def test_without_a_buffer_publish_raises_at_once(server: RedisServer) -> None:
    with machines(server.url, **HISTORY) as (one, other), followers(one, other) as clients:
        published(one, 1)
        server.stop()
        wait_until(lambda: is_refused(one) and is_refused(other), "publish raises")
        server.start()
        wait_until(lambda: not is_refused(one), "Redis is back")
        last = published(other, "last")
        for client in clients:
            client.has_last(last)
            assert client.values[0] == 1
            assert client.lost == []


def test_a_buffer_keeps_so_many(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
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


def test_an_outage_is_two_lines_and_topics_work_behind_it(server: RedisServer) -> None:
    options = ("--topics", server.url, "--topics-history", "100,60s")
    with started(*options, app=APP) as command:
        command.wait_ready()
        site = Served(command.address[1])
        with followers(site) as (client,):
            server.stop()
            command.wait_for(r"ERROR: +Topics: redis://127\.0\.0\.1:\d+ cannot be reached: ")
            wait_until(lambda: is_refused(site), "publish raises")
            server.start()
            line = command.wait_for(r"Topics: redis://127.* is back after \d+\.\d s\. (.*)")
            assert line[1].startswith("Publications that waited: 0, that were refused: ")
            published(site, 1)
            client.has([1])
        assert len(command.said("Topics: ")) == 2


def test_a_wrong_password_is_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--requirepass", "right") as server:
        url = f"redis://:wr0ng@127.0.0.1:{server.port}/0"
        with started(app=APP, environ={"ASGI_POLLER_TOPICS": url}) as command:
            command.wait_ready()
            command.wait_for(
                r"ERROR: +Topics: redis://127\.0\.0\.1:\d+/0 cannot be .* username-password pair"
            )
            assert is_refused(Served(command.address[1]))
            command.stop()
            assert len(command.said("Topics: ")) == 1
            assert "wr0ng" not in command.text
        found = check(url)
        assert found.returncode == 1
        assert "invalid username-password pair" in found.stderr
        assert "wr0ng" not in found.stderr + found.stdout
        good = f"redis://:right@127.0.0.1:{server.port}"
        assert "--topics: redis://127.0.0.1" in check(good).stdout
        with machines(good) as (one, other), followers(other) as (client,):
            published(one, 1)
            client.has([1])


def check(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`asgi-poller check`, with the URL where nobody sees it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "ASGI_POLLER_TOPICS": url}
    return run_python("-m", "asgi_poller", "check", APP, *options, env=environ)


def test_check_says_what_cannot_be_reached() -> None:
    found = check(f"redis://:hidden@127.0.0.1:{free_port()}")
    assert found.returncode == 1
    assert "error: --topics: redis://127.0.0.1" in found.stderr
    assert found.stderr.count("\n") == 1
    assert "hidden" not in found.stderr + found.stdout
    for url, problem in (
        ("redis://host:port", "host or port is wrong"),
        ("http://localhost", "it begins with one of redis://"),
        ("redis://", "the host is missing"),
        ("redis://localhost/0?timeout=3", "does not take what the URL says"),
        ("rediss://localhost?ssl_ca_certs=/nowhere", "there is no file /nowhere"),
        ("redis+cluster://localhost/3", "no database but 0"),
    ):
        found = check(url)
        assert found.returncode == 2, found
        assert found.stderr.count("\n") == 1
        assert "--topics: " in found.stderr
        assert problem in found.stderr


def test_the_password_is_not_in_the_settings_that_are_shown() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    url = "redis://user:hidden4@localhost:6379/0?ssl_password=secret"
    for form in ("text", "toml", "json"):
        found = run_python(
            *("-m", "asgi_poller", "config", APP, "--topics", url, "--format", form), env=environ
        )
        assert found.returncode == 0, found
        assert "hidden4" not in found.stdout
        assert "secret" not in found.stdout
        if form == "text":
            assert "--topics redis://localhost:6379/0" in found.stdout


def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    files = write_pair(tmp_path, "redis", authority.issue_cert("127.0.0.1"))
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority_file = str(tmp_path / "ca.pem")
    tls = (
        *("--tls-cert-file", files.certificate, "--tls-key-file", files.key),
        *("--tls-ca-cert-file", authority_file, "--tls-auth-clients", "no"),
    )
    with redis_server(tmp_path / "redis", tls=tls) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        found = check(url)
        assert found.returncode == 1
        assert "CERTIFICATE_VERIFY_FAILED" in found.stderr
        with (
            machines(f"{url}?ssl_ca_certs={authority_file}", **HISTORY) as (one, other),
            followers(one, other) as clients,
        ):
            published(one, 1)
            for client in clients:
                client.has([1])


@pytest.mark.parametrize("options", [{}, HISTORY], ids=["plain", "history"])
def test_a_cluster_has_each_topic_on_one_server(tmp_path: Path, options: dict[str, Any]) -> None:
    with redis_cluster(tmp_path) as nodes:
        url = nodes[0].url.replace("redis://", "redis+cluster://")
        assert "a Redis Cluster" in check(url).stdout
        topics = [f"topic {number}}}" for number in range(9)]
        with machines(url, topics_buffer=1000, **options) as (one, other):
            with contextlib.ExitStack() as stack:
                clients = {
                    topic: stack.enter_context(followers(one, other, topic=quote(topic)))
                    for topic in topics
                }
                shards = [node.shard_channels() for node in nodes]
                assert all(shards)  # by chance one in a thousand: the names are always the same
                assert sum(map(len, shards)) == len(topics)
                for topic in topics:
                    published(other, topic, quote(topic))
                for topic, (here, there) in clients.items():
                    here.has([topic])
                    there.has([topic])
                assert counted(one, quote(topics[0])) == [1, 2]
                # one server goes and comes back
                nodes[1].stop()
                nodes[1].start()
                for topic in topics:
                    published(one, "again", quote(topic))
                for topic, (here, there) in clients.items():
                    if options:  # without a history, who listens again a moment later misses it
                        here.has([topic, "again"])
                        there.has([topic, "again"])


def test_a_connection_of_a_cluster_that_closes_under_a_command_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library closes all of them when a server says that the Cluster is down."""

    async def close(connection: Any) -> None:
        await connection.disconnect(nowait=True)

    async def run(url: str) -> None:
        service = service_of(url)
        try:
            assert await service.run([[("SET", "key", 1)]]) == [[True]]
            with monkeypatch.context() as patch:
                patch.setattr(redis.asyncio.Connection, "check_health", close)  # as another task
                with pytest.raises(ServiceLost, match="a server of the Cluster was closed"):
                    await service.run([[("SET", "key", 2)]])
            assert await service.run([[("GET", "key")]]) == [[b"1"]]
        finally:
            await service.close()

    with redis_cluster(tmp_path) as nodes:
        asyncio.run(run(nodes[0].url.replace("redis://", "redis+cluster://")))


def test_workers_share_one_hub_whose_death_loses_nothing(server: RedisServer) -> None:
    """What is kept in Redis outlives the hub, which is not so without --topics."""
    options = ("--workers", "2", "--topics", server.url, "--topics-history", "1000,60s")
    with started(*options, app=APP) as command, machines(server.url, **HISTORY) as (other, _):
        command.wait_for("All 2 workers are ready")
        site = Served(command.address[1])
        with followers(*[site] * 6, other) as clients:
            for number in range(50):
                published((site, other)[number % 2], number)
            hub = command.wait_for(r"Started topic hub \[(\d+)\]")
            os.kill(int(hub[1]), signal.SIGKILL)
            for number in range(50, 100):
                published(other, number)
            command.wait_for(r"Started topic hub", count=2)
            for client in clients:
                client.has(list(range(100)))
                assert client.lost == []
            assert counted(other)[1] == 7


def test_a_missing_library_is_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['redis'] = None; from asgi_poller.cli import main; main()"
    found = run_python("-c", code, APP, "--port", "0", "--topics", "redis://localhost")
    assert found.returncode == 2
    assert found.stderr.strip() == (
        "asgi-poller: error: --topics: needs redis-py: pip install 'asgi-poller[redis]'"
    )
