"""The shared table of open connections: no number is given twice, and every end is counted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asgi_poller.handoff.connection_table import TICKET_NONE, ConnectionTable, Tickets
from tests.support.waiting import in_threads


def test_tickets_are_used_again_and_the_table_stays_as_small_as_the_peak() -> None:
    tickets = Tickets(ConnectionTable())
    for _ in range(10_000):
        taken = [tickets.take("a") for _ in range(3)]
        for ticket in taken:
            tickets.table.end(ticket)
    tickets.collect()
    assert tickets.open_count == tickets.count("a") == 0
    assert len(tickets._keys) <= 64


def test_no_ticket_beyond_the_capacity_until_one_is_back() -> None:
    tickets = Tickets(ConnectionTable(3))
    assert {tickets.take(None) for _ in range(3)} == {0, 1, 2}
    assert tickets.take(None) == TICKET_NONE
    tickets.table.end(1)
    assert tickets.take(None) == 1
    assert tickets.open_count == 3


class CountingTable(ConnectionTable):
    looks = 0

    def take_ended(self, used: int) -> Iterator[int]:
        self.looks += 1
        return super().take_ended(used)


def test_filling_a_large_table_looks_it_over_a_few_times_only() -> None:
    table = CountingTable()
    tickets = Tickets(table)
    for _ in range(100_000):
        tickets.take(None)
    assert table.looks < 250


class Book(RuleBasedStateMachine):
    """Any order of events against a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets = Tickets(ConnectionTable(40))
        self.open: dict[int, tuple[str | None, bool, int]] = {}

    def any_open(self, data: st.DataObject) -> int | None:
        return data.draw(st.sampled_from(sorted(self.open))) if self.open else None

    @rule(key=st.sampled_from(["a", "b", None]))
    def take(self, key: str | None) -> None:
        ticket = self.tickets.take(key)
        if ticket == TICKET_NONE:
            assert len(self.open) == 40
        else:
            assert ticket not in self.open
            self.open[ticket] = (key, False, 0)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = self.any_open(data)
        if ticket is not None:
            self.tickets.table.end(ticket)
            del self.open[ticket]

    @rule(data=st.data(), worker=st.integers(2, 4))
    def adopt(self, data: st.DataObject, worker: int) -> None:
        ticket = self.any_open(data)
        if ticket is not None:
            key, channel, _ = self.open[ticket]
            self.tickets.table.adopt(ticket, worker)
            self.open[ticket] = (key, channel, worker)

    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        ticket = self.any_open(data)
        if ticket is not None:
            key, channel, _ = self.open[ticket]
            self.tickets.table.take_back(ticket)
            self.open[ticket] = (key, channel, 0)

    @rule(worker=st.integers(2, 4))
    def worker_dies(self, worker: int) -> None:
        had = [ticket for ticket, (_, _, by) in self.open.items() if by == worker]
        assert self.tickets.forget_worker(worker) == len(had)
        for ticket in had:
            del self.open[ticket]

    @rule(data=st.data(), key=st.sampled_from(["a", "b", None]))
    def set_key(self, data: st.DataObject, key: str | None) -> None:
        ticket = self.any_open(data)
        if ticket is not None:
            self.tickets.set_key(ticket, key)
            self.open[ticket] = (key, *self.open[ticket][1:])

    @rule(data=st.data())
    def set_websocket(self, data: st.DataObject) -> None:
        ticket = self.any_open(data)
        if ticket is not None and not self.tickets.is_websocket(ticket):
            self.tickets.set_websocket(ticket)
            self.open[ticket] = (self.open[ticket][0], True, self.open[ticket][2])

    @invariant()
    def counts_are_true_after_a_look_and_never_low_before(self) -> None:
        keys = [key for key, _, _ in self.open.values()]
        assert self.tickets.open_count >= len(keys)
        assert self.tickets.count("a") >= keys.count("a")
        self.tickets.collect()
        assert self.tickets.open_count == len(keys)
        assert self.tickets.count("a") == keys.count("a")
        assert self.tickets.count("b") == keys.count("b")
        assert self.tickets.websocket_count == sum(channel for _, channel, _ in self.open.values())


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=60, stateful_step_count=40)


def test_ends_from_many_threads_are_all_seen() -> None:
    table = ConnectionTable(8_000)
    tickets = Tickets(table)
    handed = [tickets.take("a") for _ in range(8_000)]
    random.Random(1).shuffle(handed)

    def end(part: list[int]) -> None:
        for ticket in part:
            table.end(ticket)

    with in_threads(end, [handed[start::8] for start in range(8)]) as threads:
        while any(thread.is_alive() for thread in threads):
            tickets.collect()
    tickets.collect()
    assert tickets.open_count == 0
    assert sorted(tickets._free) == list(range(8_000))


WORKER = """
import sys
from asgi_poller.handoff.connection_table import ConnectionTable
table = ConnectionTable.attach(int(sys.argv[1]))
for line in sys.stdin:
    what, ticket = line.split()
    if what == "adopt":
        table.adopt(int(ticket), 2)
    else:
        table.end(int(ticket))
    print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not inherited by number")
def test_ends_cross_to_the_pollers_process_and_a_killed_worker_leaves_nothing() -> None:
    table = ConnectionTable(100, inheritable=True)
    tickets = Tickets(table)
    for _ in range(5):
        tickets.take("a")
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(table.fd)],
        pass_fds=(table.fd,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None

    def tell(line: str) -> None:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "done\n"

    for ticket in range(4):
        tell(f"adopt {ticket}")
    tell("end 1")
    tickets.collect()
    assert tickets.count("a") == 4

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(30)
    worker.stdin.close()
    worker.stdout.close()
    table.take_back(3)  # it had not said that it adopted this one: another worker gets it
    assert tickets.forget_worker(2) == 2
    assert tickets.count("a") == 2  # 3, and 4, which nobody had adopted
    table.end(3)
    table.end(4)
    tickets.collect()
    assert tickets.open_count == 0
    table.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_board_is_inherited_by_fork() -> None:
    tickets = Tickets(ConnectionTable(10))
    ticket = tickets.take("a")
    pid = os.fork()
    if pid == 0:
        try:
            tickets.table.end(ticket)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    tickets.collect()
    assert tickets.open_count == 0
