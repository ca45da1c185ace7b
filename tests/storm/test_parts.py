"""The load tester's small parts: units, frames, histograms, tallies, plots and what /proc says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from asgi_poller.storm import frames, handshake, probe, svg
from asgi_poller.storm.plan import Plan, attempts_due, parse_header, parse_octets, parse_seconds
from asgi_poller.storm.stats import BUCKET_COUNT, Histogram, Tally, bounds_of, bucket_of
from tests.storm import servers

# -- units and plans -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50ms", 0.05), ("2s", 2), ("1.5m", 90), ("1h", 3600), ("0.25", 0.25), ("10us", 1e-5)],
)
def test_seconds(text: str, seconds: float) -> None:
    """Durations as people write them."""
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("32", 32), ("4KiB", 4096), ("64k", 65536), ("1 MiB", 1 << 20)]
)
def test_octets(text: str, size_bytes: int) -> None:
    """Sizes as people write them."""
    assert parse_octets(text) == size_bytes


def test_plan_travels() -> None:
    """What the client processes read is what was planned, byte for byte."""
    plan = Plan(
        host="h", port=1, address=("127.0.0.1", 1), payload=bytes(range(256)), sources=("a", "b"),
        headers=(parse_header("A:b: c"),),
    )  # fmt: skip
    assert Plan.from_json(plan.to_json()) == plan


@given(some.integers(0, 10_000), some.integers(1, 60))
def test_shares_add_up(total: int, processes: int) -> None:
    """Every attempt belongs to one process, and no process has two more than another."""
    shares = [attempts_due(total, index, processes) for index in range(processes)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_request_has_what_was_given_instead_of_the_default() -> None:
    """A header of one's own replaces ours of that name."""
    plan = Plan(host="::1", port=8000, headers=(("host", "example"), ("X-Extra", "1")))
    lines = handshake.request(plan).decode().split("\r\n")
    assert lines[0] == "GET / HTTP/1.1"
    assert [line for line in lines if line.lower().startswith("host")] == ["host: example"]
    assert "X-Extra: 1" in lines
    assert "Host: [::1]:8000" in handshake.request(Plan(host="::1", port=8000)).decode()


# -- frames ----------------------------------------------------------------------------------------


STREAM = (
    servers.frame(0x81, b"one")
    + servers.frame(0x89, b"ping")
    + servers.frame(0x02, b"tw")
    + servers.frame(0x8A, b"")
    + servers.frame(0x80, b"o" * 70_000)
    + servers.frame(0x82, b"")
    + servers.frame(0x88, b"\x03\xe8")
)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, len(STREAM)])
def test_frames_however_they_are_cut(step: int) -> None:
    """The same messages and controls, whatever the reads."""
    reader = frames.FrameReader()
    reader.kept = bytearray()
    messages = sum(reader.feed(STREAM[at : at + step]) for at in range(0, len(STREAM), step))
    assert messages == 3
    assert bytes(reader.kept) == b"onetw" + b"o" * 70_000
    assert reader.controls == [(9, b"ping"), (10, b""), (8, b"\x03\xe8")]
    assert reader.between_frames


@given(some.binary(max_size=70_000))
def test_masking_is_its_own_inverse(payload: bytes) -> None:
    """RFC 6455, 5.3."""
    frame = frames.masked_frame(frames.OP_BINARY, payload)
    head = len(frame) - len(payload)
    key = frame[head - 4 : head]
    assert bytes(byte ^ key[at & 3] for at, byte in enumerate(frame[head:])) == payload


@given(some.binary(max_size=2000))
def test_compression_round_trip(payload: bytes) -> None:
    """RFC 7692, 7.2."""
    assert frames.decompress(frames.compress(payload), limit_octets=2000) == payload


@given(some.binary(max_size=200))
def test_any_octets_are_counted_or_broken(data: bytes) -> None:
    """Garbage ends in FrameBroken at the worst."""
    reader = frames.FrameReader()
    try:
        assert reader.feed(data) >= 0
    except frames.FrameBroken:
        pass  # the one exception that it may raise


# -- counting --------------------------------------------------------------------------------------


@given(some.integers(0, (1 << 46) - 1))
def test_buckets_hold_their_values(nanoseconds: int) -> None:
    """A value lies within its bucket, and the bucket is narrow."""
    index = bucket_of(nanoseconds)
    low, high = bounds_of(index)
    assert 0 <= index < BUCKET_COUNT
    assert low <= nanoseconds < high
    assert high - low <= max(1, low / 64)


@given(some.lists(some.integers(1000, 10**10), min_size=1, max_size=200))
def test_percentiles_are_near_the_true_ones(values: list[int]) -> None:
    """Within a bucket's width, merged or not."""
    one, other = Histogram(), Histogram()
    for at, value in enumerate(values):
        (one if at % 2 else other).record(value)
    one.merge(other.sparse())
    values.sort()
    assert one.total == len(values)
    for fraction in (0.0, 0.5, 0.99, 1.0):
        true = values[min(len(values) - 1, int(fraction * len(values)))] / 1e6
        assert one.percentile_ms(fraction) == pytest.approx(true, rel=0.02)
    assert sum(count for _, _, count in one.octaves()) == len(values)


def test_tallies_add() -> None:
    """Counts add; the first dial is the earliest that was, the last outcome the latest."""
    total = Tally()
    idle, busy = Tally(attempted=1), Tally(attempted=2, first_dial_s=5.0, last_outcome_s=7.0)
    busy.failed["reset"] += 2
    for tally in (idle, busy, Tally(first_dial_s=4.0, last_outcome_s=6.0)):
        total.add(tally.as_dict())
    assert (total.attempted, total.first_dial_s, total.last_outcome_s) == (3, 4.0, 7.0)
    assert total.failures == 2
    assert total.pending == 1


# -- plots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "drawn",
    [
        svg.line_chart("<&>", [svg.Series('"a"', [(0, 0), (0, 0)])], x_label="x", y_label="y"),
        svg.line_chart("t", [svg.Series("a", [(0, 0), (1, 1)])], x_label="<x>", y_label="y"),
        svg.line_chart(
            "t",
            [svg.Series("a", [(at / 7, at % 13) for at in range(9999)])],
            x_label="",
            y_label="",
        ),
        svg.histogram("t", [(0.0, 0.001, 4), (0.001, 2.5, 10**9)], x_label="x", y_label="y"),
    ],
)
def test_plots_are_xml_within_their_frame(drawn: str) -> None:
    """Whatever the data: well-formed, and no mark outside of the picture."""
    root = ElementTree.fromstring(drawn)
    assert root.tag.endswith("svg")
    numbers: list[float] = []
    for element in root.iter():
        points = element.get("points")
        numbers += [float(n) for pair in (points or "").split() for n in pair.split(",")]
        numbers += [float(element.get(name) or 0) for name in ("x", "y", "x1", "x2", "y1", "y2")]
    assert min(numbers) >= 0
    assert max(numbers) <= svg.WIDTH
    assert len(drawn) < 60_000


@pytest.mark.parametrize(
    "drawn",
    [
        svg.line_chart("<&>", [], x_label="x", y_label="y"),
        svg.line_chart("<&>", [svg.Series("a", [(1, 1)])], x_label="x", y_label="y"),
        svg.histogram("<&>", [], x_label="x", y_label="y"),
    ],
)
def test_what_was_not_measured_is_words_and_no_empty_picture(drawn: str) -> None:
    assert drawn == "<p>&lt;&amp;&gt;: too little was measured to draw it.</p>"


@pytest.mark.parametrize("top", [0, 0.3, 1, 7, 10, 99, 320_000])
def test_ticks_cover(top: float) -> None:
    """From 0 to at least the top, not many."""
    ticks = svg.ticks(top)
    assert ticks[0] == 0
    assert ticks[-1] >= top
    assert len(ticks) <= 12


# -- /proc -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "bound", "dialled"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_accept_queue(family: int, bound: str, dialled: str) -> None:
    """The kernel's own count of connections that wait for accept()."""
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.socket(family) as listener:
        listener.bind((bound, 0))
        listener.listen(16)
        address = (dialled, listener.getsockname()[1])
        clients = [socket.create_connection(address) for _ in range(3)]
        queue = probe.accept_queue(probe.listen_addresses(family, address))
        assert queue == probe.Queue(depth=3, sockets=1)
        for client in clients:
            client.close()
    assert probe.accept_queue(probe.listen_addresses(family, address)) is None


def test_overflows_are_counted() -> None:
    """A connection that the kernel drops for want of room shows."""
    before = probe.listen_overflows()
    assert before is not None
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        clients: list[Any] = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            clients.append(client)
        after = probe.listen_overflows()
        for client in clients:
            client.close()
    assert after is not None
    assert after > before


def test_a_process_tree() -> None:
    """Grandchildren count, and CPU is that of all."""
    inner = "import sys; sys.stdin.read()"
    outer = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {inner!r}], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        assert sorted(probe.process_tree((process.pid,))) == sorted([process.pid, grandchild])
        used = probe.usage((process.pid,))
        assert used.processes == 2
        assert used.cpu_s > 0
        memory = probe.memory_octets((process.pid,))
        assert memory is None or memory > 1 << 20
        assert process.stdin is not None
        process.stdin.close()
    assert probe.process_tree((process.pid,)) == []


def test_sockets_of_a_process() -> None:
    """Counts sockets, not files."""
    before = probe.connections_of(os.getpid())
    with socket.socket(), open(os.devnull):
        assert probe.connections_of(os.getpid()) == before + 1
