"""The door with real sockets: who gets in, what the others are told, and that nothing is left
over.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.handoff.thread_lane import ThreadLane
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.pollers.connection_limits import ConnectionLimits, Refusal
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.pollers.rate_limit import LINGER_LIMIT_COUNT, RateLimiter, refusal_response
from tests.pollers.fakes import (
    clients,
    connect,
    cores,
    make_listener,
    serving,
)
from tests.support.client import reset_on_close
from tests.support.processes import open_descriptors
from tests.support.waiting import DEADLINE_S, wait_until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
INET = int(socket.AF_INET)


class Door:
    """A rate limiter, a plain and a TLS listener before it, and what it let in."""

    def __init__(self, limits: Config) -> None:
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        infos = [ListenerInfo(INET, tls, ("127.0.0.1", 0)) for tls in (False, True)]
        self.connection_limits = ConnectionLimits(limits)
        self.rate_limiter = RateLimiter(
            self.connection_limits,
            limits,
            infos,
        )
        self.inside: list[Accepted] = []
        self.handed_over: list[Accepted] = []
        self.rejections = 0  # so often the lanes take nothing
        self.rate_limiter.start(self.hand_over)

    def hand_over(self, batch: list[Accepted]) -> list[Accepted]:
        if self.rejections:
            self.rejections -= 1
            return batch
        self.handed_over += batch
        return []

    def visit(self, host: str = "127.0.0.1", *, tls: bool = False) -> socket.socket:
        """A client from `host` that has been accepted and shown to the rate limiter."""
        client = socket.socket()
        client.settimeout(DEADLINE_S)
        client.bind((host, 0))
        client.connect(self.listeners[tls].getsockname())
        connection, peer = self.listeners[tls].accept()
        connection.setblocking(False)
        admitted = self.rate_limiter(Accepted(connection.detach(), int(tls), peer))
        if admitted is not None:
            self.inside.append(admitted)
        return client

    def leave(self, accepted: Accepted) -> None:
        """As a core does it."""
        self.connection_limits.end(accepted.ticket)
        os.close(accepted.fd)

    def close(self) -> None:
        assert self.rate_limiter.stop(DEADLINE_S)
        for accepted in self.inside + self.handed_over:
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
    octets = b""
    while piece := client.recv(4096):
        octets += piece
    client.close()
    return octets


@pytest.mark.parametrize("refusal", Refusal)
def test_responses_are_whole(refusal: Refusal) -> None:
    head, _, body = refusal_response(refusal, 7).partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert int(fields[b"content-length"]) == len(body)
    assert fields[b"retry-after"] == b"7"


def test_a_slow_client_gets_its_answer_although_its_request_comes_after_the_refusal() -> None:
    """Closing at once would reset the connection when the request arrives."""
    with door(limit_connections=1) as at:
        at.visit().close()
        client = at.visit()
        client.sendall(REQUEST)
        client.sendall(REQUEST)
        assert answer(client).startswith(b"HTTP/1.1 503 ")


def test_a_tls_client_is_closed_without_a_word() -> None:
    with door(limit_connections=1) as at:
        at.visit().close()
        assert answer(at.visit(tls=True), send=b"") == b""


def test_a_refused_client_that_has_gone_costs_nothing() -> None:
    with door(limit_connections=1) as at:
        at.visit().close()
        client = socket.create_connection(at.listeners[0].getsockname())
        connection, peer = at.listeners[0].accept()
        reset_on_close(client)
        client.close()  # a reset
        assert at.rate_limiter(Accepted(connection.detach(), 0, peer)) is None


def test_clients_that_never_go_away_after_a_refusal_hold_a_bounded_number_of_sockets() -> None:
    with door(limit_connections=1) as at:
        at.visit().close()
        before = open_descriptors()
        stubborn = [at.visit() for _ in range(LINGER_LIMIT_COUNT + 50)]
        ours = open_descriptors() - before - len(stubborn)
        assert ours <= LINGER_LIMIT_COUNT
        wait_until(
            lambda: open_descriptors() - before == len(stubborn), "refused sockets are closed"
        )
        assert all(client.recv(4096).startswith(b"HTTP/1.1 503 ") for client in stubborn)
        for client in stubborn:
            client.close()


def test_what_exceeds_the_rate_waits_in_order_and_is_let_in_later() -> None:
    with door(limit_accept_rate=100.0, limit_pending=1000) as at:
        held = [at.visit() for _ in range(160)]
        assert len(at.inside) >= 100
        wait_until(lambda: len(at.inside + at.handed_over) == 160, "all were let in")
        ports = [accepted.peer[1] for accepted in at.handed_over]
        order = [client.getsockname()[1] for client in held]
        assert ports == [port for port in order if port in set(ports)]
        assert at.rate_limiter.pending == 0
        assert at.connection_limits.refused_by_reason["accept_rate"] == 0
        for client in held:
            client.close()


def test_past_limit_pending_503_says_when_to_come_back() -> None:
    with door(limit_accept_rate=0.05, limit_pending=3) as at:
        held = [at.visit() for _ in range(4)]
        assert len(at.inside) == 1
        assert at.rate_limiter.pending == 3
        refused = answer(at.visit())
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 60\r\n" in refused
        assert at.connection_limits.refused_by_reason["accept_rate"] == 1
        assert at.connection_limits.open_count == 4
        for client in held:
            client.close()


def test_stop_closes_what_is_held_back() -> None:
    with door(limit_accept_rate=0.01, limit_pending=10) as at:
        first, held = at.visit(), at.visit()
        assert at.rate_limiter.stop(DEADLINE_S)
        assert held.recv(1) == b""
        assert at.rate_limiter.pending == 0
        assert at.rate_limiter.stop(DEADLINE_S)  # once more
        late = at.visit()  # a poller that had not ended yet
        assert late.recv(100).startswith(b"HTTP/1.1 503 ")
        for client in (first, held, late):
            client.close()


def test_what_no_lane_takes_waits_and_keeps_its_place() -> None:
    with door(limit_accept_rate=50.0, limit_pending=100) as at:
        at.rejections = 2
        held = [at.visit() for _ in range(60)]
        wait_until(lambda: len(at.inside + at.handed_over) == 60, "all were let in")
        ports = [accepted.peer[1] for accepted in at.handed_over]
        order = [client.getsockname()[1] for client in held]
        assert ports == [port for port in order if port in set(ports)]
        assert at.rejections == 0
        for client in held:
            client.close()


@pytest.mark.free_threaded
def test_limits_hold_under_a_burst_through_many_pollers() -> None:
    limits = Config("main:app", limit_connections=50)
    connection_limits = ConnectionLimits(limits)
    listener = make_listener()
    rate_limiter = RateLimiter(connection_limits, limits, [listener.info])
    with cores(2) as two:
        lanes = [ThreadLane(core) for core in two]
        poller_pool = PollerPool([listener], lanes, pollers=8, admit=rate_limiter)
        rate_limiter.start(poller_pool.hand_over)
        with serving(poller_pool, listener), clients(listener, 300) as many:
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
            assert connection_limits.refused_by_reason["connections"] == 250
            for core in two:
                for accepted in core.adopted:
                    connection_limits.end(accepted.ticket)
                core.close_all()
            late = connect(listener)
            wait_until(lambda: sum(len(core.adopted) for core in two) == 1, "there is room again")
            late.close()
        assert rate_limiter.stop(DEADLINE_S)


@pytest.mark.free_threaded
def test_many_threads_at_the_door_at_once() -> None:
    """Every visitor is in exactly one place: let in, handed over later, refused."""
    with door(limit_accept_rate=400.0, limit_pending=60, limit_connections=500) as at:
        counted = threading.Lock()

        def arrive() -> None:
            for _ in range(60):
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                admitted = at.rate_limiter(Accepted(ours.detach(), 0, ("192.0.2.1", 1)))
                with counted:
                    if admitted is not None:
                        at.inside.append(admitted)
                theirs.close()

        threads = [threading.Thread(target=arrive) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        wait_until(lambda: at.rate_limiter.pending == 0, "nobody waits")
        refused = sum(at.connection_limits.refused_by_reason.values())
        wait_until(
            lambda: len(at.inside) + len(at.handed_over) + refused == 600, "all 600 accounted for"
        )
        assert at.connection_limits.open_count == len(at.inside) + len(at.handed_over)
