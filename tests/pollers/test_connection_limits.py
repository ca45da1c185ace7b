"""The counting of limits is exact, whoever connects and leaves at the same time."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.pollers.connection_limits import (
    ConnectionLimits,
    Refusal,
    TokenBucket,
    address_key,
    make_connection_limits,
)
from asgi_poller.serve.limits_wiring import SharedCounter
from tests.support.waiting import DEADLINE_S, in_threads


def peer(host: str) -> tuple[str, int]:
    return host, 40000


def must_enter(connection_limits: ConnectionLimits, host: str) -> int:
    ticket = connection_limits.enter(peer(host))
    assert isinstance(ticket, int)
    return ticket


def test_without_limits_there_is_no_admission() -> None:
    assert make_connection_limits(Config("main:app")) is None
    assert make_connection_limits(Config("main:app", limit_pending=1)) is None
    assert make_connection_limits(Config("main:app", limit_channels=1)) is not None
    assert make_connection_limits(Config("main:app", limit_accept_rate=0.5)) is not None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("192.0.2.1", 1), ("192.0.2.1", 2), True),
        (("192.0.2.1", 1), ("192.0.2.2", 1), False),
        (("::ffff:192.0.2.1", 1, 0, 0), ("192.0.2.1", 2), True),
        (("::ffff:192.0.2.1", 1, 0, 0), ("::ffff:192.0.2.2", 1, 0, 0), False),
        (("2001:db8:0:1::1", 1, 0, 0), ("2001:db8:0:1:ffff::9", 1, 0, 0), True),
        (("2001:db8:0:1::1", 1, 0, 0), ("2001:db8:0:2::1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2", 1, 0, 3), True),
        (("::1", 1, 0, 0), ("127.0.0.1", 1), False),
    ],
)
def test_who_counts_as_one_peer(one: object, other: object, same: bool) -> None:
    assert (address_key(one) == address_key(other)) is same


@pytest.mark.parametrize("unix", ["", "/run/client.sock", b"\0abstract", None, ()])
def test_peers_without_an_address_are_not_counted_by_it(unix: object) -> None:
    assert address_key(unix) is None
    connection_limits = ConnectionLimits(Config("main:app", limit_connections_per_ip=1))
    assert {type(connection_limits.enter(unix)) for _ in range(3)} == {int}


def test_an_address_that_is_none_is_counted_as_it_stands() -> None:
    assert address_key(("not:an:address", 1)) == "not:an:address"


def test_trusted_proxies_speak_for_many_and_are_not_counted_themselves() -> None:
    connection_limits = ConnectionLimits(
        Config("main:app", limit_connections_per_ip=1), exempt=TrustedHosts("10.0.0.0/8,unix")
    )
    tickets = [must_enter(connection_limits, "10.1.1.1") for _ in range(3)]
    assert connection_limits.identify(tickets[0], ("192.0.2.1", 5)) is None
    assert connection_limits.identify(tickets[1], ("192.0.2.1", 6)) is Refusal.CONNECTIONS_PER_IP
    assert connection_limits.identify(tickets[1], ("192.0.2.2", 6)) is None
    assert connection_limits.enter(peer("192.0.2.1")) is Refusal.CONNECTIONS_PER_IP
    connection_limits.end(tickets[0])
    must_enter(connection_limits, "192.0.2.1")
    assert connection_limits.open_count == 3


def test_a_dead_worker_takes_its_connections_with_it() -> None:
    connection_limits = ConnectionLimits(Config("main:app", limit_connections=4))
    tickets = [must_enter(connection_limits, "192.0.2.1") for _ in range(4)]
    one, other = connection_limits.new_worker(), connection_limits.new_worker()
    assert one != other
    for ticket, worker in zip(tickets, (one, one, other, other), strict=True):
        connection_limits.table.adopt(ticket, worker)
    connection_limits.end(tickets[0])
    connection_limits.table.take_back(tickets[2])  # marked, not claimed: it goes to another worker
    assert connection_limits.worker_died(other) == 1
    assert connection_limits.open_count == 2
    assert connection_limits.worker_died(one) == 1
    assert connection_limits.open_count == 1
    assert connection_limits.new_worker() == one


def test_more_workers_than_numbers_are_one_clear_line() -> None:
    connection_limits = ConnectionLimits(Config("main:app", limit_connections=1))
    numbers = {connection_limits.new_worker() for _ in range(254)}
    assert numbers == set(range(2, 256))
    with pytest.raises(OperatorFault, match=r"^--workers: .* 254 at once"):
        connection_limits.new_worker()


def test_bucket_gives_a_second_at_once_and_then_the_rate() -> None:
    bucket = TokenBucket(10.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(11)] == [True] * 10 + [False]
    assert bucket.wait_s(100.0) == pytest.approx(0.1)
    assert not bucket.take(100.05)
    assert bucket.take(100.11)
    assert [bucket.take(200.0) for _ in range(11)] == [True] * 10 + [False]


def test_bucket_of_less_than_one_a_second() -> None:
    bucket = TokenBucket(0.25, now=0.0)
    assert bucket.take(0.0)
    assert bucket.wait_s(0.0) == pytest.approx(4.0)
    assert not bucket.take(3.9)
    assert bucket.take(4.0)


@given(
    st.floats(0.1, 1000.0),
    st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 50)), max_size=40),
)
def test_bucket_never_gives_more_than_its_rate_and_burst(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(rate, now=0.0)
    now, taken = 0.0, 0
    for wait, attempts in steps:
        now += wait
        taken += sum(bucket.take(now) for _ in range(attempts))
        assert taken <= max(1.0, rate) + rate * now + 1e-6
        later = now + bucket.wait_s(now) + 1e-6
        assert TokenBucket.take(bucket, later)  # as it said
        now, taken = later, taken + 1


HOSTS = [f"192.0.2.{number}" for number in range(6)] + ["2001:db8::1", "2001:db8::2"]


@pytest.mark.free_threaded
def test_limits_hold_while_many_threads_let_in_and_close() -> None:
    """Pollers let in, cores close, at once: never one too many, and in the end nobody is
    missing.
    """
    connection_limits = ConnectionLimits(
        Config("main:app", limit_connections=40, limit_connections_per_ip=9)
    )
    lock = threading.Lock()
    inside: Counter[object] = Counter()
    entered: Counter[object] = Counter()
    excess: list[object] = []
    start = threading.Barrier(8)

    def visit(seed: int) -> None:
        chance = random.Random(seed)
        mine: list[tuple[int, str | bytes | None]] = []
        start.wait(DEADLINE_S)
        for _ in range(3_000):
            if chance.random() < 0.55:
                host = chance.choice(HOSTS)
                ticket = connection_limits.enter(peer(host))
                if isinstance(ticket, Refusal):
                    continue
                key = address_key(peer(host))
                with lock:
                    inside[key] += 1
                    entered[key] += 1
                    if inside[key] > 9 or inside.total() > 40:
                        excess.append((key, inside[key], inside.total()))
                mine.append((ticket, key))
            elif mine:
                ticket, key = mine.pop(chance.randrange(len(mine)))
                with lock:
                    inside[key] -= 1
                connection_limits.end(ticket)
        for ticket, key in mine:
            with lock:
                inside[key] -= 1
            connection_limits.end(ticket)

    with in_threads(visit, range(8)):
        pass
    assert not excess
    assert entered.total() > 1_000
    assert connection_limits.open_count == 0
    assert [isinstance(connection_limits.enter(peer("192.0.2.0")), int) for _ in range(10)] == [
        True
    ] * 9 + [False]


def test_streams_of_workers_and_websockets_are_counted_together() -> None:
    """WebSockets over HTTP/2 are known to their worker alone."""
    limits = ConnectionLimits(Config("main:app", limit_channels=4))
    first, second = limits.new_worker(), limits.new_worker()
    counters = [SharedCounter(limits.table, worker, 4) for worker in (first, second)]
    assert counters[0].begin_stream()
    assert counters[1].begin_stream()
    ticket = limits.enter(("127.0.0.1", 1))
    assert isinstance(ticket, int)
    assert limits.open_websocket(ticket) is None
    assert counters[1].open_websocket(ticket)
    assert counters[0].begin_stream()
    assert limits.websocket_count == 4
    for counter in counters:
        assert not counter.begin_stream()
    other = limits.enter(("127.0.0.1", 2))
    assert isinstance(other, int)
    assert limits.open_websocket(other) is Refusal.CHANNELS
    counters[1].end(ticket)
    assert counters[1].begin_stream()
    assert not counters[0].begin_stream()
    limits.worker_died(first)  # with two of them
    assert counters[1].begin_stream()
    counters[1].end_stream()
    assert limits.open_websocket(other) is None
    assert limits.websocket_count == 3
