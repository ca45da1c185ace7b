"""Every accepted connection reaches exactly one loop, evenly, whatever the loops do."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections import Counter

import pytest

from asgi_poller.errors import OperatorFault
from asgi_poller.handoff.thread_lane import ThreadLane
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.pollers import pool as pool_module
from asgi_poller.pollers.accept4 import AcceptCall, accept_call
from asgi_poller.pollers.master_poller import PollerSettings
from asgi_poller.pollers.pool import PollerPool
from tests.pollers.fakes import (
    LoopCore,
    PromptLane,
    clients,
    connect,
    cores,
    make_listener,
    running_pool,
)
from tests.support.processes import open_descriptors
from tests.support.waiting import DEADLINE_S, in_threads, wait_until


class FullLane(PromptLane):
    """A lane that takes at most `room` connections, ever."""

    def __init__(self, room: int = 0) -> None:
        self.assigned = 0
        self.room = room
        self.taken: list[Accepted] = []
        self.asked = 0

    def load(self) -> int:
        return self.assigned

    def available(self) -> bool:
        return True

    def put(self, batch: list[Accepted]) -> int:
        self.asked += 1
        taken = batch[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)


def adopted(*of: LoopCore) -> int:
    return sum(len(core.adopted) for core in of)


@pytest.mark.parametrize("pollers", [1, 2, 8])
def test_every_connection_reaches_one_core_on_its_own_thread(pollers: int) -> None:
    listener = make_listener()
    with cores(3) as own, clients(listener, 300) as connected:
        poller_pool = PollerPool([listener], [ThreadLane(core) for core in own], pollers=pollers)
        with running_pool(poller_pool, listener):
            wait_until(lambda: adopted(*own) == 300, "300 adopted")
            sizes = [len(core.adopted) for core in own]
            assert max(sizes) - min(sizes) <= 1
            assert poller_pool.stats().accepted == 300
            assert poller_pool.stats().loads == tuple(sizes)
        peers = {accepted.peer for core in own for accepted in core.adopted}
        assert peers == {client.getsockname() for client in connected}
        assert all(len(core.threads) == 1 for core in own)
        assert len({thread for core in own for thread in core.threads}) == 3
        assert all(accepted.listener == 0 for core in own for accepted in core.adopted)


def test_new_connections_fill_the_gaps_that_closed_ones_left() -> None:
    listener = make_listener()
    with cores(2) as (first, second):
        poller_pool = PollerPool([listener], [ThreadLane(first), ThreadLane(second)], pollers=3)
        with running_pool(poller_pool, listener), clients(listener, 100):
            wait_until(lambda: adopted(first, second) == 100, "100 adopted")
            first.close_all()
            with clients(listener, 60):
                wait_until(lambda: adopted(first, second) == 50 + 60, "60 more adopted")
                assert sorted(poller_pool.stats().loads) == [55, 55]


def test_several_listeners_share_the_pollers_and_are_told_apart() -> None:
    listeners = [make_listener() for _ in range(3)]
    with cores(1) as (core,):
        poller_pool = PollerPool(listeners, [ThreadLane(core)])
        with running_pool(poller_pool, *listeners):
            for listener in listeners:
                with clients(listener, 20):
                    pass
            wait_until(lambda: adopted(core) == 60, "60 adopted")
            counts = Counter(accepted.listener for accepted in core.adopted)
            assert counts == {0: 20, 1: 20, 2: 20}


def test_a_flooded_listener_does_not_starve_the_other() -> None:
    flooded, quiet = make_listener(), make_listener()
    settings = PollerSettings(batch_count=10)
    with cores(1) as (core,), clients(flooded, 500), clients(quiet, 1):
        with running_pool(
            PollerPool([flooded, quiet], [ThreadLane(core)], pollers=1, settings=settings),
            flooded,
            quiet,
        ):
            wait_until(lambda: adopted(core) == 501, "501 adopted")
        place = [accepted.listener for accepted in core.adopted].index(1)
        assert place <= 20


def test_what_a_full_lane_refuses_goes_to_the_next_and_loads_stay_true() -> None:
    listener = make_listener()
    full = FullLane(room=7)
    with cores(1) as (core,):
        poller_pool = PollerPool([listener], [full, ThreadLane(core)])
        with running_pool(poller_pool, listener), clients(listener, 100):
            wait_until(lambda: adopted(core) == 93, "93 adopted by the lane with room")
            assert poller_pool.stats().loads == (7, 93)
        for accepted in full.taken:
            os.close(accepted.fd)


def test_lanes_that_take_nothing_pause_accepting_at_the_bound_and_lose_nothing() -> None:
    listener = make_listener()
    full = FullLane()
    settings = PollerSettings(batch_count=8, queue_count=16)
    with cores(1) as (core,), clients(listener, 100):
        poller_pool = PollerPool([listener], [full], pollers=1, settings=settings)
        with running_pool(poller_pool, listener):
            wait_until(lambda: poller_pool.stats().waiting >= 16, "the queue is full")
            asked = full.asked
            wait_until(lambda: full.asked >= asked + 5, "the poller tries again")
            assert 16 <= poller_pool.stats().accepted < 16 + 8
            assert poller_pool.stats().loads == (0,)
            poller_pool.add_lane(ThreadLane(core))
            wait_until(lambda: adopted(core) == 100, "a new lane gets all that waits")
            assert poller_pool.stats().waiting == 0
            peers = [accepted.peer for accepted in core.adopted]
            assert len(set(peers)) == 100


def test_without_lanes_connections_wait_and_stop_closes_them() -> None:
    before = open_descriptors()
    listener = make_listener()
    client = connect(listener)
    with client:
        poller_pool = PollerPool([listener])
        with running_pool(poller_pool, listener):
            wait_until(lambda: poller_pool.stats().waiting == 1, "one waits")
        assert poller_pool.stats().dropped == 1
        assert client.recv(1) == b""
    assert open_descriptors() == before


def test_under_load_connections_are_gathered_and_share_a_wake_up() -> None:
    listener = make_listener()
    lane = FullLane(room=1000)
    settings = PollerSettings(gather_s=1.0)  # cut to the limit
    with running_pool(PollerPool([listener], [lane], pollers=1, settings=settings), listener):
        everyone = [connect(listener) for _ in range(300)]
        wait_until(lambda: len(lane.taken) == 300, "all are accepted")
    assert lane.asked < 200
    for client in everyone:
        client.close()
    for accepted in lane.taken:
        os.close(accepted.fd)


def test_a_removed_lane_gets_nothing_more() -> None:
    listener = make_listener()
    with cores(2) as (first, second):
        lanes = [ThreadLane(first), ThreadLane(second)]
        poller_pool = PollerPool([listener], lanes)
        with running_pool(poller_pool, listener):
            poller_pool.remove_lane(lanes[0])
            with clients(listener, 30):
                wait_until(lambda: adopted(second) == 30, "the other lane has all")
        assert adopted(first) == 0


def test_stop_in_the_middle_of_a_burst_leaks_nothing() -> None:
    threads = set(threading.enumerate())
    before = open_descriptors()
    listener = make_listener()
    with cores(2) as own:
        poller_pool = PollerPool([listener], [ThreadLane(core) for core in own], pollers=4)
        poller_pool.start()
        stopping = threading.Event()
        attempts = 0

        def burst() -> None:
            nonlocal attempts
            while not stopping.is_set():
                with socket.socket() as client:
                    client.setblocking(False)
                    client.connect_ex(listener.socket.getsockname())
                attempts += 1

        source = threading.Thread(target=burst)
        source.start()
        wait_until(lambda: poller_pool.stats().accepted > 200, "the burst is under way")
        assert poller_pool.stop(DEADLINE_S)
        accepted = poller_pool.stats().accepted
        assert not [t for t in threading.enumerate() if t.name.startswith("MasterPoller")]
        more = attempts
        wait_until(lambda: attempts > more + 50, "clients go on")
        assert poller_pool.stats().accepted == accepted, "accepted after the stop"
        stopping.set()
        source.join(DEADLINE_S)
        wait_until(lambda: adopted(*own) == accepted, "all that were accepted are adopted")
        listener.close()
    assert open_descriptors() == before
    assert set(threading.enumerate()) == threads


def test_stop_is_idempotent_from_any_thread_and_before_start() -> None:
    listener = make_listener()
    PollerPool([listener]).stop()
    poller_pool = PollerPool([listener], pollers=2)
    poller_pool.start()
    names = {thread.name for thread in threading.enumerate()}
    assert {"MasterPoller-0", "MasterPoller-1"} <= names
    with in_threads(poller_pool.stop, [DEADLINE_S] * 4):
        pass
    assert poller_pool.stop()
    with pytest.raises(RuntimeError):
        poller_pool.start()
    listener.close()


def test_stop_from_a_poller_thread_does_not_wait_for_itself() -> None:
    listener = make_listener()
    stopped = threading.Event()

    def admit(accepted: Accepted) -> Accepted | None:
        poller_pool.stop(1.0)
        stopped.set()
        return accepted

    poller_pool = PollerPool([listener], pollers=1, admit=admit)
    poller_pool.start()
    with connect(listener) as client:
        assert stopped.wait(DEADLINE_S)
        assert client.recv(1) == b""
    assert poller_pool.stop(DEADLINE_S)
    listener.close()


def test_the_admission_hook_decides_and_its_errors_cost_one_connection() -> None:
    listener = make_listener()
    seen = 0

    def admit(accepted: Accepted) -> Accepted | None:
        nonlocal seen
        seen += 1
        if seen == 1:
            raise ValueError("broken")
        if seen == 2:
            os.close(accepted.fd)
            return None
        return accepted._replace(data=b"read")

    with cores(1) as (core,), clients(listener, 5):
        with running_pool(
            PollerPool([listener], [ThreadLane(core)], pollers=1, admit=admit), listener
        ):
            wait_until(lambda: adopted(core) == 3, "three are let in")
            assert all(accepted.data == b"read" for accepted in core.adopted)


class FaultyAccept:
    """Fails with each of `numbers` in turn, then accepts."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.calls = 0

    def __call__(self, listener: socket.socket) -> AcceptCall:
        real = accept_call(listener)

        def call() -> tuple[int, object]:
            self.calls += 1
            if self.numbers:
                number = self.numbers.pop(0)
                raise OSError(number, os.strerror(number))
            return real()

        return call


@pytest.mark.parametrize(
    ("number", "count"),
    [
        (errno.ECONNABORTED, "aborted"),
        (errno.EPROTO, "aborted"),
        (errno.EPERM, "aborted"),
        (errno.ENOBUFS, "shortages"),
        (errno.ENOMEM, "shortages"),
        (errno.EMFILE, "shortages"),
        (errno.ENFILE, "shortages"),
        (errno.ENOTTY, "failed"),
    ],
)
def test_no_failure_of_accept_ends_a_poller(number: int, count: str) -> None:
    listener = make_listener()
    settings = PollerSettings(make_accept=FaultyAccept(number, number))
    with cores(1) as (core,), clients(listener, 10):
        poller_pool = PollerPool([listener], [ThreadLane(core)], pollers=1, settings=settings)
        with running_pool(poller_pool, listener):
            wait_until(
                lambda: adopted(core) + poller_pool.stats().refused == 10, "all are taken care of"
            )
            # with EMFILE, the second failure meets the attempt to answer 503
            assert 1 <= getattr(poller_pool.stats(), count) <= 2


def test_a_lasting_failure_rests_instead_of_spinning_and_stop_cuts_the_rest_short() -> None:
    listener = make_listener()
    faults = FaultyAccept(*[errno.ENOMEM] * 100_000)
    poller_pool = PollerPool([listener], pollers=1, settings=PollerSettings(make_accept=faults))
    with clients(listener, 1), running_pool(poller_pool, listener):
        start = time.monotonic()
        wait_until(lambda: faults.calls >= 4, "it tries again and again")
        # one call per rest of 50 ms: generous, a spinning poller makes tens of thousands
        assert faults.calls <= 5 + (time.monotonic() - start) / 0.02


def test_a_listener_closed_under_a_poller_is_left_and_the_others_are_served() -> None:
    lost, good = make_listener(), make_listener()
    faults = {lost.socket: FaultyAccept(*[errno.EBADF] * 100), good.socket: FaultyAccept()}
    settings = PollerSettings(make_accept=lambda listener: faults[listener](listener))
    with cores(1) as (core,), clients(lost, 1):
        poller_pool = PollerPool([lost, good], [ThreadLane(core)], pollers=1, settings=settings)
        with running_pool(poller_pool, lost, good), clients(good, 5):
            wait_until(lambda: adopted(core) == 5, "the good listener is served")
            assert faults[lost.socket].calls == 1


def test_a_lane_that_breaks_its_promise_does_not_end_accepting() -> None:
    class BrokenLane(FullLane):
        def put(self, batch: list[Accepted]) -> int:
            self.asked += 1
            raise ValueError("broken")

    listener = make_listener()
    broken = BrokenLane()
    with running_pool(PollerPool([listener], [broken], pollers=1), listener):
        with clients(listener, 1):
            wait_until(lambda: broken.asked >= 1, "put was called")
        with clients(listener, 1):
            wait_until(lambda: broken.asked >= 2, "and called again")


def test_pollers_that_cannot_start_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    listener = make_listener()
    monkeypatch.setattr(pool_module, "MasterPoller", denied)
    with pytest.raises(OperatorFault, match="--pollers 2: cannot start them"):
        PollerPool([listener]).start()
    listener.close()
