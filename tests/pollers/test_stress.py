"""Pollers, lanes, start and stop under many threads with random delays: nothing lost or doubled.

The delays are seeded, so that a failure names the run that shows it. Worth running on an
interpreter without the GIL.
"""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from functools import partial

import pytest

from asgi_poller.handoff.thread_lane import ThreadLane
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers.master_poller import PollerSettings
from asgi_poller.pollers.pool import PollerPool
from tests.pollers.fakes import LoopCore, cores, make_listener
from tests.pollers.test_pool import FullLane
from tests.support.processes import open_descriptors
from tests.support.waiting import DEADLINE_S, in_threads, wait_until

pytestmark = pytest.mark.free_threaded


class MoodyLane(ThreadLane):
    """Takes a random part of what it is given, after a random delay."""

    __slots__ = ("_random",)

    def __init__(self, core: LoopCore, seed: int) -> None:
        super().__init__(core)
        self._random = random.Random(seed)

    def put(self, batch: list[Accepted]) -> int:
        threading.Event().wait(self._random.random() * 0.002)
        size = self._random.randint(0, len(batch))
        return super().put(batch[:size]) if size else 0


def dial(address: tuple[str, int], count: int, made: list[socket.socket], seed: int) -> None:
    chance = random.Random(seed)
    pause = threading.Event()
    for _ in range(count):
        made.append(socket.create_connection(address, timeout=DEADLINE_S))
        if chance.random() < 0.1:
            pause.wait(chance.random() * 0.005)


@pytest.mark.parametrize("seed", range(4))
def test_moody_lanes_and_many_pollers_account_for_every_connection(seed: int) -> None:
    before = open_descriptors()
    listener = make_listener()
    settings = PollerSettings(batch_count=7, queue_count=11, gather_s=0.0)
    made: list[socket.socket] = []
    with cores(3) as own:
        lanes = [MoodyLane(core, seed * 10 + index) for index, core in enumerate(own)]
        poller_pool = PollerPool([listener], lanes, pollers=5, settings=settings)
        poller_pool.start()
        address = listener.socket.getsockname()
        chance = random.Random(seed)
        seeds = range(seed * 100, seed * 100 + 4)
        with in_threads(partial(dial, address, 150, made), seeds) as dialers:
            while any(dialer.is_alive() for dialer in dialers):
                lane = chance.choice(lanes)  # lanes come and go meanwhile
                poller_pool.remove_lane(lane)
                threading.Event().wait(chance.random() * 0.01)
                poller_pool.add_lane(lane)
        wait_until(lambda: sum(len(core.adopted) for core in own) == 600, "all are adopted")
        assert sum(poller_pool.stats().loads) == 600
        assert poller_pool.stop(DEADLINE_S)
        seen = Counter(accepted.peer for core in own for accepted in core.adopted)
        assert seen == {client.getsockname(): 1 for client in made}
    for client in made:
        client.close()
    listener.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("seed", range(4))
def test_front_ends_that_start_and_stop_on_one_listener_under_load(seed: int) -> None:
    before = open_descriptors()
    listener = make_listener()
    chance = random.Random(seed)
    made: list[socket.socket] = []
    with cores(2) as own:
        address = listener.socket.getsockname()
        accepted = dropped = 0
        seeds = range(seed * 10, seed * 10 + 3)
        with in_threads(partial(dial, address, 200, made), seeds) as dialers:
            while any(dialer.is_alive() for dialer in dialers):
                poller_pool = PollerPool([listener], [ThreadLane(core) for core in own], pollers=3)
                poller_pool.start()
                threading.Event().wait(chance.random() * 0.01)
                assert poller_pool.stop(DEADLINE_S)
                accepted += poller_pool.stats().accepted
                dropped += poller_pool.stats().dropped
        last = PollerPool([listener], [ThreadLane(core) for core in own])
        last.start()
        wait_until(lambda: accepted + last.stats().accepted == 600, "all are accepted")
        wait_until(lambda: sum(len(core.adopted) for core in own) == 600, "all are adopted")
        assert last.stop(DEADLINE_S)
        assert dropped == 0
        assert len({a.peer for core in own for a in core.adopted}) == 600
    for client in made:
        client.close()
    listener.close()
    assert open_descriptors() == before


def test_stopping_while_lanes_take_nothing_closes_what_waits() -> None:
    before = open_descriptors()
    for _ in range(10):
        listener = make_listener()
        poller_pool = PollerPool([listener], [FullLane(), FullLane()], pollers=3)
        poller_pool.start()
        made = [socket.create_connection(listener.socket.getsockname()) for _ in range(20)]
        wait_until(lambda: poller_pool.stats().accepted == 20, "all are accepted")  # noqa: B023 # waits here
        assert poller_pool.stop(DEADLINE_S)
        assert poller_pool.stats().dropped == 20
        for client in made:
            client.settimeout(DEADLINE_S)
            assert client.recv(1) == b""
            client.close()
        listener.close()
    assert open_descriptors() == before
