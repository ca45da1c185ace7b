"""Too much of something: connections, WebSockets, octets of heads and bodies, header fields."""

from __future__ import annotations

import contextlib

import pytest

from tests.attacks.site import Target, under_attack
from tests.support.client import (
    GET,
    LAST_GET,
    handshake,
    read_head,
    reset_on_close,
)
from tests.support.waiting import wait_until

DIRECT = pytest.mark.parametrize("direct_handshake", [False, True], ids=["core", "poller"])
STRANGER, OTHER = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 is a trusted proxy by default


def status(answer: bytes) -> int:
    return int(answer[9:12]) if answer else 0


@DIRECT
def test_channels_over_the_limit_get_503_and_requests_are_served(direct_handshake: bool) -> None:
    with under_attack(limit_channels=3, direct_handshake=direct_handshake) as site:
        channels = [site.websocket() for _ in range(3)]
        for _ in range(5):
            assert status(site.ask(handshake())) == 503
            assert status(site.ask(LAST_GET)) == 200
        channels.pop().close()
        wait_until(lambda: may_open(site), "there is room again")
        for channel in channels:
            site.echo(channel)
            channel.close()


def may_open(site: Target) -> bool:
    with site.connect() as client:
        client.sendall(handshake())
        return status(read_head(client)) == 101


@DIRECT
def test_connections_over_the_limit_get_503_and_there_is_room_again(direct_handshake: bool) -> None:
    with under_attack(limit_connections=4, direct_handshake=direct_handshake) as site:
        channels = [site.websocket() for _ in range(4)]
        answer = site.ask(LAST_GET)
        assert status(answer) == 503
        assert b"\r\nretry-after: " in answer
        channels.pop().close()
        wait_until(lambda: status(site.ask(LAST_GET)) == 200, "there is room again")
        for channel in channels:
            channel.close()


@DIRECT
def test_every_way_a_connection_ends_makes_room(direct_handshake: bool) -> None:
    """Reset, refused, closed by either side, timed out: a hundred times the limit."""
    with under_attack(
        limit_connections=8, direct_handshake=direct_handshake, timeout_request_header=0.2
    ) as site:
        for number in range(200):
            with site.connect() as client, contextlib.suppress(ConnectionError):
                client.settimeout(5)
                match number % 5:
                    case 0:
                        client.sendall(b"BROKEN\r\n\r\n")
                        client.recv(1000)
                    case 1:
                        reset_on_close(client)
                        client.sendall(GET[:20])
                    case 2:
                        client.sendall(LAST_GET)
                        client.recv(1000)
                    case 3:
                        client.sendall(handshake())
                    case 4 if number % 20 == 4:
                        client.sendall(GET[:20])
                        client.recv(1000)
        wait_until(lambda: room(site) == 8, "all of the room is there again")


def room(site: Target) -> int:
    """How many connections get in at once."""
    with contextlib.ExitStack() as stack:
        count = 0
        for _ in range(10):
            client = stack.enter_context(site.connect())
            with contextlib.suppress(ConnectionError):
                client.sendall(GET)
                count += status(read_head(client)) == 200
        return count


@DIRECT
def test_one_address_has_its_share_and_no_more(direct_handshake: bool) -> None:
    with under_attack(limit_connections_per_ip=2, direct_handshake=direct_handshake) as site:
        greedy = [site.websocket(source=STRANGER) for _ in range(2)]
        answer = site.ask(LAST_GET, STRANGER)
        assert status(answer) == 429
        assert b"\r\nretry-after: " in answer
        assert status(site.ask(LAST_GET, OTHER)) == 200
        for _ in range(5):  # a proxy speaks for many
            assert status(site.ask(LAST_GET, "127.0.0.1")) == 200
        greedy.pop().close()
        wait_until(lambda: status(site.ask(LAST_GET, STRANGER)) == 200, "its share is free")
        greedy.pop().close()


@DIRECT
def test_a_storm_is_let_in_at_the_rate_and_nobody_is_lost(direct_handshake: bool) -> None:
    with under_attack(limit_accept_rate=50, direct_handshake=direct_handshake) as site:
        clients = [site.connect() for _ in range(80)]
        for client in clients:
            client.sendall(LAST_GET)
        answers = [read_head(client) for client in clients]
        assert {status(answer) for answer in answers} == {200}
        for client in clients:
            client.close()


@DIRECT
def test_past_limit_pending_503(direct_handshake: bool) -> None:
    with under_attack(
        limit_accept_rate=1, limit_pending=2, direct_handshake=direct_handshake
    ) as site:
        clients = [site.connect() for _ in range(12)]
        for client in clients:
            with contextlib.suppress(ConnectionError):  # refused already
                client.sendall(LAST_GET)
        statuses = [status(read_head(client)) for client in clients[4:]]
        assert set(statuses) <= {200, 503, 0}  # one a second is let in meanwhile
        assert 503 in statuses
        for client in clients:
            client.close()


LARGE_HEADS = {
    "100,000 octets in one field": (
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        431,
    ),
    "100,000 octets in fields": (
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
@pytest.mark.parametrize(("octets", "expected"), LARGE_HEADS.values(), ids=LARGE_HEADS)
def test_large_heads(octets: bytes, expected: int, direct_handshake: bool) -> None:
    with under_attack(direct_handshake=direct_handshake) as site:
        answer = site.ask(octets)
        assert status(answer) == expected, answer[:200]
        site.is_well()
        assert len(site.record.requests) == 1  # the honest one


@DIRECT
@pytest.mark.parametrize(
    "octets",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n" + bytes(1001),
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        + (b"1f4\r\n" + bytes(500) + b"\r\n") * 3,
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1001,
    ],
    ids=["announced", "sent", "in chunks", "in chunks of one"],
)
def test_large_bodies(octets: bytes, direct_handshake: bool) -> None:
    with under_attack(limit_request_body=1000, direct_handshake=direct_handshake) as site:
        assert status(site.ask(octets)) == 413
        fitting = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"
        assert site.ask(fitting + bytes(1000)).endswith(b"\r\n\r\n1000")
