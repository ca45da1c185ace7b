"""What connections write in one turn of the loop: order, bounds, and connections that fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.asgi.turn_output import GATHERED_BYTES, GATHERED_S, TurnOutput
from tests.support.fake_connection import errors_in
from tests.support.fake_loop import FakeLoop


class Site:
    """A loop's output, and what happened to its connections, in order."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.output = TurnOutput(cast("Any", self.loop), clock=self.loop.time)
        self.calls: list[tuple[str, bytes]] = []

    def take(self) -> list[tuple[str, bytes]]:
        """The writes since the last call: which connection, what."""
        calls, self.calls = self.calls, []
        return calls

    def end_turn(self) -> list[tuple[str, bytes]]:
        self.loop.advance(0)
        return self.take()


class Sink:
    def __init__(self, name: str, site: Site, *, failing: bool = False) -> None:
        self.name = name
        self.site = site
        self.failing = failing
        self.is_aborted = False

    def write(self, data: bytes | bytearray) -> None:
        if self.failing:
            raise OSError("the connection is broken")
        self.site.calls.append((self.name, bytes(data)))

    def abort(self) -> None:
        self.is_aborted = True
        if self.failing:
            raise RuntimeError("nor can it be closed")


@pytest.fixture
def site() -> Site:
    return Site()


def sinks(site: Site, count: int = 3) -> list[Sink]:
    return [Sink(name, site) for name in "abcdefgh"[:count]]


def test_a_lone_answer_is_written_at_once_and_the_loop_is_left_asleep(site: Site) -> None:
    (a,) = sinks(site, 1)
    for _ in range(5):
        site.output.expected += 1
        site.output.write(a, b"1")
        assert site.take() == [("a", b"1")]
        assert site.output.expected == 0
        assert site.loop.is_asleep


def test_the_last_answer_of_a_turn_writes_all(site: Site) -> None:
    a, b, c = sinks(site)
    site.output.expected = 3
    site.output.write(a, b"1")
    site.output.write(b, b"2")
    assert site.take() == []
    site.output.write(c, b"3")
    assert site.take() == [("a", b"1"), ("b", b"2"), ("c", b"3")]
    assert site.end_turn() == []


def test_what_one_connection_says_is_one_write(site: Site) -> None:
    a, b, _ = sinks(site)
    site.output.expected = 2
    for data in (b"1", b"2", b"3"):
        site.output.write(a, data)
    assert site.take() == [], "the other one is still to answer"
    site.output.write(b, b"4")
    assert site.take() == [("a", b"123"), ("b", b"4")]


def test_who_was_woken_and_does_not_answer_keeps_nobody_waiting_beyond_the_turn(site: Site) -> None:
    a, b, c = sinks(site)
    site.output.expected = 3  # one of them waits for something else
    site.output.write(a, b"1")
    site.output.write(b, b"2")
    assert site.take() == []
    site.output.expected += 1  # read before the turn's end: belongs to the next one
    assert site.end_turn() == [("a", b"1"), ("b", b"2")]
    assert site.output.expected == 1
    site.output.write(c, b"3")
    assert site.take() == [("c", b"3")], "a lone answer"


def test_of_what_is_sent_unasked_the_first_for_each_is_written_at_once(site: Site) -> None:
    a, b, _ = sinks(site)
    for sink, data in ((a, b"1"), (a, b"2"), (b, b"3"), (a, b"4")):
        site.output.write(sink, data)
    assert site.take() == [("a", b"1"), ("b", b"3")]
    assert site.end_turn() == [("a", b"24")]
    site.output.write(b, b"5")
    assert site.take() == [("b", b"5")], "another turn"


def test_more_than_so_many_bytes_do_not_wait(site: Site) -> None:
    a, b, _ = sinks(site)
    site.output.expected = 10
    half = bytes(GATHERED_BYTES // 2)
    site.output.write(b, b"b")
    site.output.write(a, half)
    site.output.write(a, half)
    assert site.take() == []
    site.output.write(a, b"!")
    assert site.take() == [("a", half + half + b"!")], "the other one waits"
    site.output.write(a, bytes(GATHERED_BYTES + 1))
    assert site.take() == [("a", bytes(GATHERED_BYTES + 1))]
    assert site.end_turn() == [("b", b"b")]


def test_a_smaller_limit_on_what_is_sent_holds_here_too() -> None:
    site = Site()
    site.output = TurnOutput(cast("Any", site.loop), most_bytes=10)
    a, _, _ = sinks(site)
    site.output.expected = 10
    site.output.write(a, b"12345")
    site.output.write(a, b"67890!")
    assert site.take() == [("a", b"1234567890!")]


def test_nothing_waits_while_applications_compute(site: Site) -> None:
    a, b, c = sinks(site)
    site.output.expected = 10
    site.output.write(a, b"1")
    site.loop.block(GATHERED_S / 2)
    site.output.write(b, b"2")
    assert site.take() == []
    site.loop.block(GATHERED_S)
    site.output.write(c, b"3")
    assert site.take() == [("a", b"1"), ("b", b"2"), ("c", b"3")]
    site.output.write(a, b"4")
    assert site.take() == [], "counted from the first that waits"


def test_what_is_written_now_comes_behind_what_was_gathered(site: Site) -> None:
    a, b, _ = sinks(site)
    site.output.expected = 10
    site.output.write(a, b"1")
    site.output.write(b, b"2")
    site.output.write_now(a, b"close")
    assert site.take() == [("a", b"1close")]
    site.output.write_now(a, b"!")
    assert site.take() == [("a", b"!")]
    site.output.flush_one(a)
    assert site.end_turn() == [("b", b"2")]


def test_nothing_is_written_to_a_connection_that_is_lost(site: Site) -> None:
    a, b, _ = sinks(site)
    site.output.expected = 10
    site.output.write(a, b"1")
    site.output.write(b, b"2")
    site.output.discard(a)
    assert site.end_turn() == [("b", b"2")]


@pytest.mark.parametrize("is_last", [True, False])
def test_a_connection_that_fails_takes_nobody_with_it(
    site: Site, is_last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = sinks(site)
    a.failing = True
    site.output.expected = 3
    for sink in (a, b, c)[: 3 if is_last else 2]:
        site.output.write(sink, b"x")
    wanted = ["b", "c"] if is_last else ["b"]
    assert [name for name, _ in site.end_turn()] == wanted
    assert [each.is_aborted for each in (a, b, c)] == [True, False, False]
    assert len(errors_in(caplog)) == 2
    site.output.expected = 2
    site.output.write(b, b"y")
    assert site.end_turn() == [("b", b"y")], "turns still end"


def test_held_back_by_its_connection(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = sinks(site)
    a.failing = True
    for sink in (a, b):
        site.output.hold(sink, _writing(site, sink))
    site.output.expected = 2
    site.output.write(c, b"1")
    assert site.take() == []
    assert site.end_turn() == [("b", b"held"), ("c", b"1")]
    assert [each.is_aborted for each in (a, b, c)] == [True, False, False]
    assert len(errors_in(caplog)) == 2
    assert site.loop.is_asleep


def _writing(site: Site, sink: Sink) -> Callable[[], None]:
    return lambda: site.output.write_now(sink, b"held")


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["wake", "write", "now", "flush", "turn", "compute", "fast"]),
        st.integers(0, 2),
        st.integers(1, GATHERED_BYTES // 2),
    )
)


@given(ACTIONS)
def test_each_connection_gets_all_of_it_in_order(actions: list[tuple[str, int, int]]) -> None:
    """Whatever is woken, answered, flushed, and however long it takes."""
    site = Site()
    connections = sinks(site)
    output = site.output
    said = dict.fromkeys("abc", b"")
    for number, (action, which, size) in enumerate(actions):
        sink = connections[which]
        data = (b"%d," % number) * (size // 4)
        if action == "wake":
            output.expected += 1
        elif action == "turn":
            site.loop.advance(0)
        elif action == "compute":
            site.loop.block(GATHERED_S * size / GATHERED_BYTES * 4)
        elif action == "flush":
            output.flush_one(sink)
        else:
            said[sink.name] += data
            if action == "now":
                output.write_now(sink, data)
            elif action == "fast" and output.expected == 1 and not output.gathered:
                output.expected = 0
                sink.write(data)
            else:
                output.write(sink, data)
        assert output.expected >= 0
        assert all(len(each) <= GATHERED_BYTES for each in output.gathered.values())
        assert not (output.gathered and site.loop.is_asleep), "who writes it?"
    site.loop.advance(0)
    got = dict.fromkeys("abc", b"")
    for name, data in site.calls:
        got[name] += data
    assert got == said
    assert site.loop.is_asleep
