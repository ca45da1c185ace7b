"""An error that nobody foresaw, at any stage between accept and adoption, for one connection of a
batch: that one ends and its ticket is given back; the others do not notice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.handoff.fd_passing import send_connections
from asgi_poller.handoff.lane_receiver import LaneReceiver
from asgi_poller.handoff.process_lane import ProcessLane
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.handoff.thread_lane import ThreadLane
from asgi_poller.listeners.listeners import Listener
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.loops.request_filter import RequestFilter
from asgi_poller.metrics.refusals import by_reason
from asgi_poller.pollers.accept4 import AcceptCall, accept_call
from asgi_poller.pollers.head_reader import HeadReader, HeadReaderSettings
from asgi_poller.pollers.master_poller import PollerSettings
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.protocols.http1.parser import RequestHead
from tests.pollers.fakes import LoopCore, connect, make_listener
from tests.support.client import read_to_end
from tests.support.waiting import DEADLINE_S, wait_until

COUNT, BAD = 9, 4
PATIENT = Config("main:app", timeout_first_octet=DEADLINE_S, timeout_request_header=DEADLINE_S)
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
BAD_GET = b"GET /bad HTTP/1.1\r\nhost: a\r\n\r\n"


class Rules(RequestFilter):
    """Raises for the bad one."""

    __slots__ = ()

    def check(self, head: RequestHead) -> None:
        if head.target == b"/bad":
            raise ValueError("injected")


@dataclasses.dataclass(slots=True)
class Stage:
    """What raises. `tickets` are those that were given back."""

    core: LoopCore
    listener: Listener
    bad_peers: set[Any] = dataclasses.field(default_factory=set)
    tickets: list[int] = dataclasses.field(default_factory=list)

    def check(self, accepted: Accepted) -> None:
        if accepted.peer in self.bad_peers:
            raise ValueError("injected")

    def stamp(self, accepted: Accepted) -> Accepted:
        return accepted._replace(ticket=accepted.peer[1])

    def build(self, lane: Any, **options: Any) -> PollerPool:
        options.setdefault("admit", self.stamp)
        return PollerPool(
            [self.listener], [lane], pollers=1, end_ticket=self.tickets.append, **options
        )


def thread_lane(stage: Stage) -> ThreadLane:
    return ThreadLane(stage.core, end_ticket=stage.tickets.append)


def at_accept(stage: Stage) -> PollerPool:
    def make(listener: socket.socket) -> AcceptCall:
        real = accept_call(listener)

        def call() -> tuple[int, Any]:
            fd, peer = real()
            if peer in stage.bad_peers:
                socket.close(fd)
                raise ValueError("injected")
            return fd, peer

        return call

    return stage.build(thread_lane(stage), settings=PollerSettings(make_accept=make))


def at_admission(stage: Stage) -> PollerPool:
    def admit(accepted: Accepted) -> Accepted:
        stage.check(accepted)
        return stage.stamp(accepted)

    return stage.build(thread_lane(stage), admit=admit)


def at_the_rules(stage: Stage) -> PollerPool:
    rules = HeadReaderSettings(config=PATIENT, rules=Rules())
    return stage.build(thread_lane(stage), head_reader=rules)


def at_hand_over(stage: Stage) -> PollerPool:
    class Lane(ThreadLane):
        def put(self, batch: list[Accepted]) -> int:
            for accepted in batch:
                stage.check(accepted)
            return super().put(batch)

    return stage.build(Lane(stage.core, end_ticket=stage.tickets.append))


def at_adoption(stage: Stage) -> PollerPool:
    stage.core.refuse = lambda accepted: accepted.peer in stage.bad_peers
    return stage.build(thread_lane(stage))


STAGES = [at_accept, at_admission, at_the_rules, at_hand_over, at_adoption]


@contextlib.contextmanager
def gathered(stage: Stage) -> Iterator[list[socket.socket]]:
    """Clients that wait in the kernel's queue and will be accepted as one batch."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(connect(stage.listener)) for _ in range(COUNT)]
        for index, client in enumerate(made):
            client.sendall(BAD_GET if index == BAD else GET)
        stage.bad_peers.add(made[BAD].getsockname())
        yield made


@pytest.mark.parametrize("build", STAGES)
def test_one_connection_of_a_batch(
    build: Callable[[Stage], PollerPool], caplog: pytest.LogCaptureFixture
) -> None:
    core, listener = LoopCore(), make_listener()
    stage = Stage(core, listener)
    with caplog.at_level(logging.ERROR), contextlib.ExitStack() as stack:
        stack.callback(core.stop)
        stack.callback(listener.close)
        with gathered(stage) as made:
            poller_pool = build(stage)
            poller_pool.start()
            stack.callback(poller_pool.stop, DEADLINE_S)
            wait_until(lambda: len(core.adopted) == COUNT - 1, "the others are adopted")
            answer = read_to_end(made[BAD])
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
            wait_until(lambda: poller_pool.stats().loads == (COUNT - 1,), "the load is right")
            peers = {accepted.peer for accepted in core.adopted}
            assert peers == {client.getsockname() for client in made} - stage.bad_peers
        if build not in (at_accept, at_admission):  # there it had no ticket yet
            assert stage.tickets == [next(iter(stage.bad_peers))[1]]
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_descriptor_that_cannot_be_sent_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message carries many connections: the one that the kernel refuses is not their end."""

    def send(channel: socket.socket, number: int, first: int, batch: list[Accepted]) -> None:
        if any(accepted.ticket == 7 for accepted in batch):
            raise OSError(errno.EBADF, "injected")
        send_connections(channel, number, first, batch)

    monkeypatch.setattr("asgi_poller.handoff.process_lane.send_connections", send)
    counters = Counters.create()
    lane = ProcessLane(counters)
    tickets: list[int] = []
    core, listener = LoopCore(), make_listener()
    poller_pool = PollerPool([listener], [lane], end_ticket=tickets.append)
    receiver = LaneReceiver(lane.worker_end.dup(), counters.row(lane.row))
    pairs = [socket.socketpair() for _ in range(3)]
    try:
        core.count_closed_in = lambda cells, index: None  # type: ignore[attr-defined]  # a receiver wants it, LoopCore has none
        core.run(lambda: receiver.attach(core))  # type: ignore[arg-type]  # has it since the line above
        batch = [
            Accepted(pair[0].detach(), 0, ("", 1), b"", 6 + (index == 1))
            for index, pair in enumerate(pairs)
        ]
        assert poller_pool.hand_over(batch) == []
        wait_until(lambda: len(core.adopted) == 2, "the others are adopted")
        assert tickets == [7]
        assert lane.load() == 2
    finally:
        core.run(receiver.detach)
        lane.look()
        lane.reclaim()
        core.stop()
        listener.close()
        counters.close()
        for pair in pairs:
            pair[1].close()


@pytest.mark.parametrize("method", ["_reject", "_close", "_wait_for"])
def test_an_error_in_the_reception_itself(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was about to do with the guest; nothing is leaked."""

    def fail(*arguments: object) -> None:
        raise ValueError("injected")

    data = {"_reject": b"BROKEN\r\n\r\n", "_close": b"", "_wait_for": b"GET /"}[method]
    monkeypatch.setattr(HeadReader, method, fail)
    core, listener = LoopCore(), make_listener()
    stage = Stage(core, listener)
    rules = HeadReaderSettings(config=PATIENT, rules=RequestFilter())
    poller_pool = stage.build(thread_lane(stage), head_reader=rules)
    with contextlib.ExitStack() as stack:
        stack.callback(core.stop)
        stack.callback(listener.close)
        stack.callback(poller_pool.stop, DEADLINE_S)
        bad, good = connect(listener), connect(listener)
        if data:
            bad.sendall(data)
        else:
            bad.shutdown(socket.SHUT_WR)
        good.sendall(GET)
        with bad, good:
            poller_pool.start()
            wait_until(lambda: len(core.adopted) == 1, "the other one is adopted")
            assert read_to_end(bad)[:12] in (b"HTTP/1.1 400", b"")
            assert stage.tickets == [bad.getsockname()[1]]
            assert by_reason(poller_pool.refusals.counts) == {"error": 1}
            assert poller_pool.stats().pending_heads == 0


def test_spilling_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be spilled waits with its descriptor."""

    def fail(*arguments: object) -> None:
        raise ValueError("injected")

    monkeypatch.setattr("asgi_poller.pollers.overflow.DESCRIPTORS_PER_MESSAGE", 2)
    monkeypatch.setattr("asgi_poller.handoff.fd_passing.send_connections", fail)

    class Shut(ThreadLane):
        is_shut = True

        def put(self, batch: list[Accepted]) -> int:
            return 0 if self.is_shut else super().put(batch)

    core, listener = LoopCore(), make_listener()
    stage = Stage(core, listener)
    lane = Shut(core)
    poller_pool = stage.build(lane, settings=PollerSettings(spills=True))
    with contextlib.ExitStack() as stack:
        stack.callback(core.stop)
        stack.callback(listener.close)
        stack.callback(poller_pool.stop, DEADLINE_S)
        with gathered(stage):
            poller_pool.start()
            wait_until(lambda: poller_pool.stats().waiting == COUNT, "all of them wait")
            lane.is_shut = False
            wait_until(lambda: len(core.adopted) == COUNT, "all of them are adopted")


def test_the_same_trouble_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    exception_log = ExceptionLog(lambda: now)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            exception_log.exception("it is closed")
        now = 11.0
        exception_log.exception("it is closed")
    assert [record.getMessage() for record in caplog.records] == [
        "it is closed",
        "it is closed (4 more since the last such line)",
    ]
