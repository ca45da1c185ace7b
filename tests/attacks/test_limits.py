"""Attacks the limits on connections, WebSockets, rates, heads and bodies: each holds in every form
of the server, and there is room again when something has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from tests.attacks.site import under_attack
from tests.support.client import GET, LAST_GET, Client, handshake, read_head
from tests.support.command import running
from tests.support.crowd import crowd
from tests.support.forms import FORMS, ONE, WORKERS, served
from tests.support.processes import is_alive
from tests.support.server import Served
from tests.support.waiting import wait_until

APP = "tests.attacks.echo:app"
STRANGER, OTHER = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 is a trusted proxy by default
READ_BY_POLLERS = "one process, pollers read heads"
UNFINISHED = (
    b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"  # stays
)
ALL_FORMS = (*FORMS, READ_BY_POLLERS)
# where a limit does not depend on the form so much, the rest is tried in the long run
EVERY_FORM = pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[] if form in (ONE, WORKERS) else [pytest.mark.long])
        for form in ALL_FORMS
    ],
)
DIRECT = pytest.mark.parametrize("direct_handshake", [False, True], ids=["loop", "poller"])
LIMITS = {"limit_connections": 20, "limit_connections_per_ip": 2, "limit_channels": 3}


@contextlib.contextmanager
def limited(form: str, **limits: float) -> Iterator[Served]:
    """The attacked application with these limits, in one of the forms."""
    options: dict[str, object] = {**limits, "lifespan": "off"}
    if form == READ_BY_POLLERS:
        options["direct_handshake"] = True
    with served(ONE if form == READ_BY_POLLERS else form, APP, **options) as site:
        yield site


@pytest.fixture(scope="module", params=ALL_FORMS)
def site(request: pytest.FixtureRequest) -> Iterator[Served]:
    """One server for the tests that may run into each other's last connections."""
    with limited(request.param, **LIMITS) as it:
        yield it


def status(answer: bytes) -> int:
    return int(answer[9:12]) if answer else 0


def room(site: Served, most: int) -> int:
    """How many connections get in at once, of `most`."""
    with contextlib.ExitStack() as stack:
        count = 0
        for _ in range(most):
            client = stack.enter_context(site.connect())
            with contextlib.suppress(ConnectionError):
                client.sendall(GET)
                count += status(read_head(client)) == 200
        return count


def is_let_in(site: Served, held: list[Client], first: bytes, source: str | None = None) -> bool:
    """Whether one more gets in, who then stays: in `held`."""
    client = site.connect(source)
    with contextlib.suppress(ConnectionError):
        client.sendall(first)
        if status(read_head(client)) in (100, 101):
            held.append(client)
            return True
    client.close()
    return False


def fill(site: Served, count: int, first: bytes, source: str | None = None) -> list[Client]:
    """Hold so many, as soon as those of an earlier test have ended."""
    held: list[Client] = []
    wait_until(
        lambda: is_let_in(site, held, first, source) and len(held) == count, f"{count} get in"
    )
    return held


# Connections, WebSockets and rates


def test_one_address_has_its_share_and_no_more(site: Served) -> None:
    greedy = fill(site, LIMITS["limit_connections_per_ip"], UNFINISHED, STRANGER)
    answer = site.ask(LAST_GET, STRANGER)
    assert status(answer) == 429
    assert b"\r\nretry-after: " in answer
    assert b"\r\ndate: " in answer
    assert status(site.ask(LAST_GET, OTHER)) == 200
    for _ in range(5):  # a proxy speaks for many
        assert status(site.ask(LAST_GET, "127.0.0.1")) == 200
    greedy.pop().close()
    wait_until(lambda: status(site.ask(LAST_GET, STRANGER)) == 200, "its share is free")
    greedy.pop().close()


def test_channels_over_the_limit_get_503_and_requests_are_served(site: Served) -> None:
    sockets = fill(site, LIMITS["limit_channels"], handshake())
    for _ in range(5):
        assert status(site.ask(handshake())) == 503
        assert status(site.ask(LAST_GET)) == 200
    sockets.pop().close()
    wait_until(lambda: is_let_in(site, sockets, handshake()), "there is room again")
    for client in sockets:
        site.echo(client)
        client.close()


def test_connections_over_the_limit_get_503_and_there_is_room_again(site: Served) -> None:
    """The last one: what it leaves would be in the others' way."""
    held = fill(site, LIMITS["limit_connections"], UNFINISHED)
    answer = site.ask(LAST_GET)
    assert status(answer) == 503
    assert b"\r\nretry-after: " in answer
    assert b"\r\nconnection: close\r\n" in answer
    held.pop().close()
    wait_until(lambda: status(site.ask(LAST_GET)) == 200, "there is room again")
    for client in held:
        client.close()


@EVERY_FORM
def test_every_way_a_connection_ends_makes_room(form: str) -> None:
    """Reset, refused, closed by either side, timed out: many times the limit."""
    with limited(form, limit_connections=8, timeout_request_header=0.1) as site:
        for number in range(120):
            with site.connect() as client, contextlib.suppress(ConnectionError):
                match number % 5:
                    case 0:
                        client.sendall(b"BROKEN\r\n\r\n")
                        client.recv(1000)
                    case 1:
                        client.sendall(GET[:20])
                        client.reset()
                    case 2:
                        client.sendall(LAST_GET)
                        client.recv(1000)
                    case 3:
                        client.sendall(handshake())
                    case 4 if number % 20 == 4:
                        client.sendall(GET[:20])
                        client.recv(1000)
        wait_until(lambda: room(site, 10) == 8, "all of the room is there again")


@EVERY_FORM
def test_a_storm_is_let_in_at_the_rate_and_nobody_is_lost(form: str) -> None:
    with limited(form, limit_accept_rate=50) as site:
        clients = [site.connect() for _ in range(80)]
        for client in clients:
            client.sendall(LAST_GET)
        assert {status(read_head(client)) for client in clients} == {200}
        for client in clients:
            client.close()


@EVERY_FORM
def test_past_limit_pending_503(form: str) -> None:
    with limited(form, limit_accept_rate=1, limit_pending=2) as site:
        clients = [site.connect() for _ in range(12)]
        for client in clients:
            with contextlib.suppress(ConnectionError):  # refused already
                client.sendall(LAST_GET)
        statuses = [status(read_head(client)) for client in clients[4:]]
        assert set(statuses) <= {200, 503, 0}  # one a second is let in meanwhile
        assert 503 in statuses
        for client in clients:
            client.close()


# What workers alone have


@pytest.mark.long
def test_a_dead_worker_s_connections_are_not_counted() -> None:
    with running("--limit-connections", "20", workers=2) as command:
        with crowd(command.address) as visitors:
            wait_until(lambda: not visitors.open(1)[0].problem, "earlier ones have ended")
            visitors.open(30)
            assert sum(visitors.by_worker().values()) == 20
            assert set(visitors.problems()) == {"HTTP/1.1 503 Service Unavailable"}

            victim = command.workers[0]
            had = visitors.by_worker()[victim]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: not is_alive(victim), "it is dead")
            command.wait_for("is ready", count=3)
            new = visitors.open(20)
            assert sum(client.worker > 0 for client in new) == had


def test_where_pollers_read_no_heads_each_worker_keeps_its_share() -> None:
    options = ("--limit-channels", "10", "--no-direct-handshake")
    with running(*options) as command, crowd(command.address) as visitors:
        visitors.open(20)
        assert set(visitors.by_worker().values()) == {5}


# Heads and bodies


LARGE_HEADS = {
    "100,000 bytes in one field": (
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        431,
    ),
    "100,000 bytes in fields": (
        b"GET / HTTP/1.1\r\nhost: a\r\n"
        + b"".join(b"x%d: %b\r\n" % (number, b"a" * 2000) for number in range(50))
        + b"\r\n",
        431,
    ),
    "10,000 fields": (
        b"GET / HTTP/1.1\r\nhost: a\r\n"
        + b"".join(b"x%d: y\r\n" % number for number in range(10_000))
        + b"\r\n",
        431,
    ),
    "a request line without end": (b"GET /" + b"a" * 100_000, 414),
    "a field without end": (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 100_000, 431),
    "a name without end": (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a" * 100_000, 431),
    "blank lines without end": (b"\r\n" * 60_000, 431),
}


@DIRECT
def test_large_heads(direct_handshake: bool) -> None:
    with under_attack(direct_handshake=direct_handshake) as site:
        for name, (data, expected) in LARGE_HEADS.items():
            answer = site.ask(data)
            assert status(answer) == expected, (name, answer[:200])
        site.is_well()
        assert len(site.record.requests) == 1  # the honest one


LARGE_BODIES = {
    "announced": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n",
    "sent": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n" + bytes(1001),
    "in chunks": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    + (b"1f4\r\n" + bytes(500) + b"\r\n") * 3,
    "in chunks of one": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"1\r\nx\r\n" * 1001,
}


@DIRECT
def test_large_bodies(direct_handshake: bool) -> None:
    with under_attack(limit_request_body=1000, direct_handshake=direct_handshake) as site:
        for name, data in LARGE_BODIES.items():
            assert status(site.ask(data)) == 413, name
        fitting = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"
        assert site.ask(fitting + bytes(1000)).endswith(b"\r\n\r\n1000")
