"""Refusals and the rate limit on real sockets: who is admitted, what the others are answered."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.handoff.thread_lane import ThreadLane
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.metrics.refusals import by_reason
from asgi_poller.pollers.connection_limits import ConnectionLimits, Refusal
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.pollers.rate_limit import RateLimiter
from asgi_poller.pollers.rejector import LINGER_LIMIT_COUNT, Rejected, over_limit
from tests.pollers.fakes import Shelf, clients, connect, cores, make_listener, running_pool
from tests.support.client import read_rest, reset_on_close
from tests.support.processes import open_descriptors
from tests.support.waiting import DEADLINE_S, in_threads, wait_until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Door:
    """A poller pool with limits, a plain and a TLS listener, and a lane that keeps who is in."""

    def __init__(self, limits: Config) -> None:
        self.listeners = [make_listener(tls=tls) for tls in (False, True)]
        self.connection_limits = ConnectionLimits(limits)
        self.rate_limiter = RateLimiter(self.connection_limits, limits)
        self.lane = Shelf()
        self.poller_pool = PollerPool(
            self.listeners,
            [self.lane],
            pollers=1,
            admit=self.rate_limiter,
            held_back=self.rate_limiter,
        )
        self.poller_pool.start()

    def visit(self, *, tls: bool = False) -> socket.socket:
        """A client that connects."""
        return connect(self.listeners[tls])

    def enter(self) -> socket.socket:
        """A client that was let in."""
        count = len(self.lane.taken)
        client = self.visit()
        self.lane.wait_for(count + 1)
        return client

    def leave(self, accepted: Accepted) -> None:
        """As a loop does it."""
        self.connection_limits.end(accepted.ticket)
        os.close(accepted.fd)

    def stop(self) -> None:
        assert self.poller_pool.stop(DEADLINE_S)
        self.rate_limiter.stop()

    def close(self) -> None:
        self.stop()
        for accepted in self.lane.taken:
            self.leave(accepted)
        for listener in self.listeners:
            listener.close()
        assert self.connection_limits.open_count == 0
        self.connection_limits.table.close()


@contextmanager
def door(**limits: Any) -> Iterator[Door]:
    before = open_descriptors()
    made = Door(Config("main:app", **limits))
    try:
        yield made
    finally:
        made.close()
    assert open_descriptors() == before


def answer(client: socket.socket, *, send: bytes = REQUEST) -> bytes:
    """What a client reads that sends its request in spite of everything."""
    try:
        client.sendall(send)
    except OSError:
        pass  # closed before: what it says is still to be read
    with client:
        return read_rest(client)


@pytest.mark.parametrize("refusal", Refusal)
def test_responses_are_whole(refusal: Refusal) -> None:
    head, _, body = over_limit(refusal, 7).answer.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert int(fields[b"content-length"]) == len(body)
    assert fields[b"retry-after"] == b"7"


def test_a_slow_client_gets_its_answer_although_its_request_comes_after_the_refusal() -> None:
    """Closing at once would reset the connection when the request arrives."""
    with door(limit_connections=1) as at:
        at.enter().close()
        client = at.visit()
        client.sendall(REQUEST)
        client.sendall(REQUEST)
        assert answer(client).startswith(b"HTTP/1.1 503 ")


def test_a_tls_client_is_closed_without_a_word() -> None:
    with door(limit_connections=1) as at:
        at.enter().close()
        assert answer(at.visit(tls=True), send=b"") == b""


def test_a_refused_client_that_has_gone_costs_nothing() -> None:
    with door(limit_connections=1) as at:
        at.enter().close()
        client = at.visit()
        reset_on_close(client)
        client.close()  # a reset
        assert answer(at.visit()).startswith(b"HTTP/1.1 503 "), "the poller goes on"


def test_clients_that_never_go_away_after_a_refusal_hold_a_bounded_number_of_sockets() -> None:
    with door(limit_connections=1) as at:
        at.enter().close()
        before = open_descriptors()
        stubborn = [at.visit() for _ in range(LINGER_LIMIT_COUNT + 50)]
        for client in stubborn:
            assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
        ours = open_descriptors() - before - len(stubborn)
        assert ours <= LINGER_LIMIT_COUNT
        wait_until(
            lambda: open_descriptors() - before == len(stubborn), "refused sockets are closed"
        )
        for client in stubborn:
            client.close()


def test_what_exceeds_the_rate_waits_in_order_and_is_let_in_later() -> None:
    with door(limit_accept_rate=100.0, limit_pending=1000) as at:
        held = [at.visit() for _ in range(160)]
        taken = at.lane.wait_for(160)
        ports = [accepted.peer[1] for accepted in taken]
        assert ports == [client.getsockname()[1] for client in held]
        assert at.rate_limiter.pending == 0
        assert by_reason(at.poller_pool.refusals.counts) == {}
        for client in held:
            client.close()


def test_past_limit_pending_503_says_when_to_come_back() -> None:
    with door(limit_accept_rate=0.05, limit_pending=3) as at:
        held = [at.enter(), *(at.visit() for _ in range(3))]
        wait_until(lambda: at.rate_limiter.pending == 3, "three are held back")
        refused = answer(at.visit())
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 60\r\n" in refused
        assert by_reason(at.poller_pool.refusals.counts) == {"accept_rate": 1}
        assert at.connection_limits.open_count == 4
        for client in held:
            client.close()


def test_stop_closes_what_is_held_back() -> None:
    with door(limit_accept_rate=0.01, limit_pending=10) as at:
        first, held = at.enter(), at.visit()
        wait_until(lambda: at.rate_limiter.pending == 1, "it is held back")
        at.stop()
        assert held.recv(1) == b""
        assert at.rate_limiter.pending == 0
        at.stop()  # once more
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(Rejected):  # a poller that had not ended yet
            at.rate_limiter(Accepted(ours.fileno(), 0, ("192.0.2.1", 1)))
        for client in (first, held):
            client.close()


@pytest.mark.free_threaded
def test_limits_hold_under_a_burst_through_many_pollers() -> None:
    limits = Config("main:app", limit_connections=50)
    connection_limits = ConnectionLimits(limits)
    listener = make_listener()
    rate_limiter = RateLimiter(connection_limits, limits)
    with cores(2) as two:
        lanes = [ThreadLane(core) for core in two]
        poller_pool = PollerPool([listener], lanes, pollers=8, admit=rate_limiter)
        with running_pool(poller_pool, listener), clients(listener, 300) as many:
            silent = set(many)
            for client in many:
                client.setblocking(False)

            def all_but_50_are_answered() -> bool:
                for client in list(silent):
                    try:
                        assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
                    except BlockingIOError:
                        continue  # this one is in, or its answer is on its way
                    silent.remove(client)
                return len(silent) == 50

            wait_until(all_but_50_are_answered, "250 were answered")
            wait_until(lambda: sum(len(core.adopted) for core in two) == 50, "50 were let in")
            assert by_reason(poller_pool.refusals.counts) == {"connections": 250}
            for core in two:
                for accepted in core.adopted:
                    connection_limits.end(accepted.ticket)
                core.close_all()
            late = connect(listener)
            wait_until(lambda: sum(len(core.adopted) for core in two) == 1, "there is room again")
            late.close()
        rate_limiter.stop()


@pytest.mark.free_threaded
def test_many_threads_at_the_door_at_once() -> None:
    """Every visitor is in exactly one place: let in, held back and let in later, refused."""
    limits = Config("main:app", limit_accept_rate=400.0, limit_pending=60, limit_connections=500)
    connection_limits = ConnectionLimits(limits)
    rate_limiter = RateLimiter(connection_limits, limits)
    inside: list[Accepted] = []
    refused: list[str | None] = []

    def arrive(first: int) -> None:
        for number in range(first, first + 60):
            try:
                admitted = rate_limiter(Accepted(number, 0, ("192.0.2.1", 1)))
            except Rejected as rejected:
                refused.append(rejected.name)
            else:
                inside.extend([admitted] if admitted else [])
            inside.extend(rate_limiter.due())

    with in_threads(arrive, range(0, 600, 60)):
        pass

    def all_are_in() -> bool:
        inside.extend(rate_limiter.due())
        return rate_limiter.next_s() is None

    wait_until(all_are_in, "nobody waits")
    assert len(inside) + len(refused) == 600
    assert len({accepted.fd for accepted in inside}) == len(inside)
    assert connection_limits.open_count == len(inside)
    assert set(refused) <= {"connections", "accept_rate"}
