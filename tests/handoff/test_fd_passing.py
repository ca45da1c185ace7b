"""Descriptors and counters pass between pollers and workers whole, in order and once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from asgi_poller import platform
from asgi_poller.handoff.fd_passing import (
    DESCRIPTORS_PER_MESSAGE,
    DescriptorReader,
    parse_returned,
    returned,
    send_connections,
    take_number,
)
from asgi_poller.handoff.lane_receiver import LaneReceiver
from asgi_poller.handoff.shared_counters import (
    CELLS_PER_ROW,
    CLAIMED,
    FAILED,
    RING_WANTED,
    Counters,
)
from asgi_poller.loops.accepted_socket import Accepted
from tests.support.command import run_python

pytestmark = pytest.mark.skipif(not platform.HAS_FD_PASSING, reason="no descriptor passing")


Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The supervisor's and the worker's end."""
    near, far = socket.socketpair(socket.AF_UNIX, platform.FD_SOCKET_TYPE)
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def pipes(count: int) -> tuple[list[int], list[int]]:
    """`count` pipes: the ends to send, and the ends that tell whether all copies are closed."""
    pairs = [os.pipe() for _ in range(count)]
    return [read for read, _ in pairs], [write for _, write in pairs]


def is_held(write_end: int) -> bool:
    """Whether anyone still has the read end."""
    try:
        os.write(write_end, b"x")
    except BrokenPipeError:
        return False
    return True


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """This process may open `count` descriptors more, meanwhile."""
    import resource

    highest = max(map(int, os.listdir("/dev/fd")))
    fillers = [os.dup(0)]
    while fillers[-1] <= highest:
        fillers.append(os.dup(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


class TestChannel:
    def test_connections_arrive_as_they_were_sent(self, ends: Ends) -> None:
        reads, writes = pipes(3)
        peers = [("127.0.0.1", 80), ("::1", 80, 0, 2), "", b"\0abstract", None]
        batch = [
            Accepted(reads[index % 3], index, peer, b"\x00data" * index, accepted_at=index / 7)
            for index, peer in enumerate(peers)
        ]
        send_connections(ends[0], 7, 100, batch)
        delivery = DescriptorReader(ends[1]).receive()
        assert delivery is not None
        assert (delivery.number, delivery.first) == (7, 100)
        assert delivery.entries == [tuple(accepted[1:6]) for accepted in batch], (
            "all but the parser"
        )
        for fd, accepted in zip(delivery.fds, batch, strict=True):
            assert fd != accepted.fd
            assert os.fstat(fd).st_ino == os.fstat(accepted.fd).st_ino
            assert not os.get_inheritable(fd)
            os.close(fd)
        for fd in reads + writes:
            os.close(fd)

    def test_a_message_takes_as_many_descriptors_as_the_kernel_allows(self, ends: Ends) -> None:
        (read,), (write,) = pipes(1)
        batch = [Accepted(read, 0)] * DESCRIPTORS_PER_MESSAGE
        send_connections(ends[0], 1, 0, batch)
        delivery = DescriptorReader(ends[1]).receive()
        assert delivery is not None
        assert len(delivery.fds) == DESCRIPTORS_PER_MESSAGE
        with pytest.raises(OSError):
            send_connections(ends[0], 2, 0, [*batch, batch[0]])
        for fd in (*delivery.fds, read, write):
            os.close(fd)

    def test_a_message_that_is_taken_back_drops_its_descriptors(self, ends: Ends) -> None:
        (read,), (write,) = pipes(1)
        send_connections(ends[0], 5, 0, [Accepted(read, 0)])
        os.close(read)
        assert is_held(write)
        assert take_number(ends[1]) == 5
        assert not is_held(write)
        with pytest.raises(BlockingIOError):
            take_number(ends[1])
        os.close(write)

    def test_a_probe_has_no_connections(self, ends: Ends) -> None:
        send_connections(ends[0], 3, 9, [])
        assert DescriptorReader(ends[1]).receive() == (3, 9, [], [])

    @pytest.mark.skipif(not platform.LINUX, reason="datagram sockets have no end")
    def test_the_end_is_seen(self, ends: Ends) -> None:
        ends[0].close()
        assert DescriptorReader(ends[1]).receive() is None

    def test_returned(self) -> None:
        assert parse_returned(returned(12, 3)) == (12, 3)
        assert parse_returned(b"r") is None


class TestCounters:
    def test_rows_are_apart_and_zero_when_taken(self) -> None:
        counters = Counters.create(2)
        first, second = counters.take_row(), counters.take_row()
        with pytest.raises(IndexError):
            counters.take_row()
        counters.row(first)[CLAIMED] = 1 << 60
        assert counters.row(second).tolist() == [0] * CELLS_PER_ROW
        counters.free_row(first)
        assert counters.row(counters.take_row()).tolist() == [0] * CELLS_PER_ROW
        counters.close()
        counters.close()

    @pytest.mark.parametrize("has_memfd", [True, False])
    def test_another_process_sees_the_same_memory(
        self, has_memfd: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not has_memfd:
            monkeypatch.delattr(os, "memfd_create", raising=False)
        counters = Counters.create()
        row = counters.take_row()
        script = (
            "import sys; from asgi_poller.handoff.shared_counters import Counters\n"
            "Counters.attach(int(sys.argv[1])).row(int(sys.argv[2]))[3] += 41\n"
        )
        counters.row(row)[3] = 1
        run_python("-c", script, str(counters.fd), str(row), pass_fds=[counters.fd], check=True)
        assert counters.row(row)[3] == 42
        counters.close()


class HandLoop:
    """Readers and timers that are called by hand."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}
        self.timers: list[Callable[[], object]] = []

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int, /) -> None:
        self.readers.pop(fd, None)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        self.timers.append(callback)

    def wake(self) -> None:
        for callback in list(self.readers.values()):
            callback()

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


class RecordingCore:
    """Keeps what it adopts; `claimed` is what the counters said at that moment."""

    def __init__(self, cells: memoryview[int]) -> None:
        self.loop = HandLoop()
        self.adopted: list[Accepted] = []
        self.claimed: list[int] = []
        self.refuse = False
        self._cells = cells

    def count_closed_in(self, cells: memoryview[int], index: int) -> None:
        assert cells is not None
        assert index == 1

    def adopt(self, accepted: Accepted) -> None:
        self.claimed.append(self._cells[CLAIMED])
        if self.refuse:
            raise ValueError("not this one")
        self.adopted.append(accepted)


class TestReceiver:
    @pytest.fixture(autouse=True)
    def _set_up(self, ends: Ends) -> Iterator[None]:
        self.near, self.far = ends
        counters = Counters.create(1)
        self.cells = counters.row(0)
        self.core = RecordingCore(self.cells)

        self.receiver = LaneReceiver(self.far, self.cells)
        self.receiver.attach(self.core)
        self.writes: list[int] = []
        yield
        for fd in (*(accepted.fd for accepted in self.core.adopted), *self.writes):
            os.close(fd)
        counters.close()

    def send(self, number: int, first: int, count: int) -> list[int]:
        """Send a message of `count` pipes; their write ends, which are closed with the test."""
        reads, writes = pipes(count)
        self.writes += writes
        send_connections(self.near, number, first, [Accepted(fd, 0) for fd in reads])
        for fd in reads:
            os.close(fd)
        return writes

    def test_all_that_waits_is_adopted_at_one_wake_and_claimed_just_before(self) -> None:
        for message in ((1, 0, 2), (2, 2, 3), (3, 5, 1)):
            self.send(*message)
        self.core.loop.wake()
        assert self.core.claimed == [1, 2, 3, 4, 5, 6]
        assert len(self.core.adopted) == 6

    def test_it_rings_once_and_only_if_asked(self) -> None:
        self.send(1, 0, 1)
        self.core.loop.wake()
        with pytest.raises(BlockingIOError):
            self.near.recv(10)
        self.cells[RING_WANTED] = 1
        self.send(2, 1, 1)
        self.send(3, 2, 1)
        self.core.loop.wake()
        assert self.near.recv(10) == b"r"
        assert self.cells[RING_WANTED] == 0
        with pytest.raises(BlockingIOError):
            self.near.recv(10)

    def test_a_spurious_wake_up_is_no_error(self) -> None:
        self.core.loop.wake()
        assert not self.core.adopted

    def test_an_error_in_adopt_costs_that_connection_alone(self) -> None:
        self.core.refuse = True
        (write,) = self.send(1, 0, 1)
        self.core.loop.wake()
        assert not is_held(write)
        assert self.cells[FAILED] == 1
        assert self.cells[CLAIMED] == 1
        self.core.refuse = False
        self.send(2, 1, 1)
        self.core.loop.wake()
        assert len(self.core.adopted) == 1

    def test_what_does_not_fit_is_returned_before_anything_later_is_claimed(self) -> None:
        self.send(1, 0, 5)
        self.send(2, 5, 1)
        with room_for(3):
            self.core.loop.wake()
        assert len(self.core.adopted) == 3
        assert parse_returned(self.near.recv(100)) == (3, 2)
        assert parse_returned(self.near.recv(100)) == (5, 1)
        assert self.cells[CLAIMED] == 3

    def test_while_the_supervisor_does_not_read_a_return_nothing_more_is_adopted(self) -> None:
        try:
            while True:
                self.far.send(b"r")
        except BlockingIOError:
            pass  # now it is full
        self.send(1, 0, 1)
        self.send(2, 1, 1)
        with room_for(0):
            self.core.loop.wake()
        assert not self.core.loop.readers
        self.core.loop.fire()
        assert not self.core.loop.readers
        message = b"r"
        while message == b"r":
            message = self.near.recv(100)
            self.core.loop.fire()
        assert parse_returned(message) == (0, 1)
        assert not self.core.adopted
        self.core.loop.wake()
        assert self.core.claimed == [2]

    @pytest.mark.skipif(not platform.LINUX, reason="datagram sockets have no end")
    def test_without_a_supervisor_it_closes(self) -> None:
        self.near.close()
        self.core.loop.wake()
        assert self.receiver.fileno() == -1
        assert not self.core.loop.readers
        self.receiver.detach()
