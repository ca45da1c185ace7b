"""Peers that use HTTP/2 to make the server work for nothing, or to keep what they hold."""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgi_poller.asgi.refusal_log import note_refusal
from asgi_poller.metrics.refusals import refusal_index
from tests.attacks.site import Target, under_attack
from tests.support.http2 import http2_client
from tests.support.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    WINDOW_UPDATE,
    RawPeer,
    block,
    frame,
    headers,
    raw_peer,
    reset,
    settings,
    window,
)
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S, wait_until

ENOUGH = 40_000  # frames: four times what a peer may send for nothing


@pytest.fixture(scope="module")
def site() -> Iterator[Target]:
    with under_attack() as site:
        yield site


def flood(peer: RawPeer, make: Callable[[int], bytes], *, portion: int = 200) -> None:
    """Send what `make` gives for 1, 3, 5, ... until the server has had enough."""
    reader = threading.Thread(target=peer.end)
    reader.start()
    try:
        streams = itertools.count(1, 2)
        for _ in range(ENOUGH // portion):
            if not peer.send(b"".join(make(next(streams)) for _ in range(portion))):
                break
            if any(each.kind == GOAWAY for each in peer.frames):
                break
    finally:
        reader.join()


FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": lambda stream: headers(stream) + reset(stream),
    "resets of requests with a body": lambda stream: (
        headers(stream, POST, END_HEADERS) + reset(stream)
    ),
    "made to reset: a window that grows too large": lambda stream: (
        headers(stream, POST, END_HEADERS) + window(stream, 2**31 - 1)
    ),
    "requests that are not valid": lambda stream: headers(stream, ((":method", "GET"),)),
    "PING": lambda _: frame(PING, 0, 0, b"12345678"),
    "answers to no PING": lambda _: frame(PING, ACK, 0, b"12345678"),
    "SETTINGS": lambda _: settings(),
    "SETTINGS that change the window": lambda n: settings((4, 65535 + n % 2)),
    "long SETTINGS": lambda _: settings(*((0x99, 1),) * 2000),
    "PRIORITY": lambda n: frame(PRIORITY, 0, n, struct.pack(">LB", 0, 1)),
    "WINDOW_UPDATE": lambda _: window(0, 1),
    "frames of no known kind": lambda _: frame(0x77, 0, 0, b""),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_with_goaway(site: Target, name: str) -> None:
    with raw_peer(site.port) as peer:
        flood(peer, FLOODS[name])
        goaways = [each for each in peer.frames if each.kind == GOAWAY]
        assert goaways
        assert goaways[-1].code == ENHANCE_YOUR_CALM
    site.is_well()
    with http2_client(site.port) as client:
        assert client.response(client.request("/"))[0] == 200


def test_a_peer_that_says_over_and_over_that_it_leaves(site: Target) -> None:
    """After the first GOAWAY the connection ends, for no stream is open."""
    with raw_peer(site.port) as peer:
        flood(peer, lambda _: frame(GOAWAY, 0, 0, bytes(8)))
        assert [each.code for each in peer.frames if each.kind == GOAWAY] == [NO_ERROR]


@pytest.mark.parametrize("kind", ["DATA", "HEADERS"])
def test_empty_frames(site: Target, kind: str) -> None:
    """CVE-2019-9518: frames without a byte, on a stream that never ends."""
    with raw_peer(site.port) as peer:
        if kind == "DATA":
            peer.send(headers(1, POST, END_HEADERS))
            flood(peer, lambda _: frame(DATA, 0, 1))
        else:
            peer.send(frame(HEADERS, 0, 1))
            flood(peer, lambda _: frame(CONTINUATION, 0, 1))
        expected = ENHANCE_YOUR_CALM if kind == "DATA" else PROTOCOL_ERROR
        assert [each.code for each in peer.frames if each.kind == GOAWAY] == [expected]
    site.is_well()


def test_a_flood_has_a_line_and_a_count(site: Target, caplog: pytest.LogCaptureFixture) -> None:
    # the floods above have had their lines, and there are five in ten seconds
    note_refusal.__self__._windows.clear()  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO, "asgi_poller.error"), raw_peer(site.port) as peer:
        flood(peer, FLOODS["PING"])
    assert "HTTP/2: too many frames or resets for nothing" in caplog.text
    serving = site.server._serving
    assert serving is not None
    refused = [each.state.counts.refusals for each in serving.loop_servers]
    assert sum(counts[refusal_index("http2_flood")] for counts in refused) >= 1
    assert "Traceback" not in caplog.text


def test_a_head_that_goes_on_for_ever(site: Target) -> None:
    """CVE-2024-27316: CONTINUATION without an end is not kept."""
    piece = frame(CONTINUATION, 0, 1, b"\x00\x01a\x7f\x81\x7f" + b"x" * 255 + b"\x00" * 0)
    with raw_peer(site.port) as peer:
        peer.send(frame(HEADERS, END_STREAM, 1, block()))
        flood(peer, lambda _: piece)
        assert [each.code for each in peer.frames if each.kind == GOAWAY] == [PROTOCOL_ERROR]
    site.is_well()


@pytest.mark.parametrize("count", [20, 2000])
def test_a_head_that_expands(site: Target, count: int) -> None:
    """An HPACK bomb: one large field in the table, then a byte for each repetition."""
    value = b"v" * 3900
    insert = b"\x40\x01x" + b"\x7f" + bytes([(3900 - 127) % 128 | 128, (3900 - 127) // 128]) + value
    bomb = insert + b"\xbe" * count
    with raw_peer(site.port) as peer:
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block() + bomb))
        assert peer.goaway_code() == ENHANCE_YOUR_CALM
    site.is_well()


def test_applications_that_still_run_count_for_the_limit() -> None:
    """Opening and resetting gives twice as many as waiting, and no more (CVE-2023-44487)."""
    gate = threading.Event()
    running = [0, 0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running[0] += 1
        running[1] = max(running)
        await asyncio.to_thread(gate.wait, DEADLINE_S)  # whether its client is there or not
        running[0] -= 1

    with serving(app, lifespan="off", http2_max_concurrent_streams=10) as site:
        try:
            with raw_peer(site.port) as peer:
                for first in range(1, 401, 20):
                    streams = range(first, first + 20, 2)
                    peer.send(b"".join(map(headers, streams)))
                    assert peer.answers()  # so they have been begun, or refused
                    peer.send(b"".join(map(reset, streams)))
                refused = [each for each in peer.frames if each.kind == RST_STREAM]
                assert 180 <= len(refused) <= 190
                assert {each.code for each in refused} == {REFUSED_STREAM}
                assert 10 <= running[1] <= 20
                gate.set()
                wait_until(lambda: running[0] == 0, "the applications have ended")
                peer.send(headers(401))
                assert peer.wait(HEADERS, 401)
        finally:
            gate.set()


def test_more_streams_than_are_allowed_are_refused_one_by_one(site: Target) -> None:
    with raw_peer(site.port) as peer:
        for stream in range(1, 301, 2):
            peer.send(headers(stream, POST, END_HEADERS))
        assert peer.answers()
        refused = [each for each in peer.frames if each.kind == RST_STREAM]
        assert [each.stream for each in refused] == list(range(201, 301, 2))
        assert {each.code for each in refused} == {REFUSED_STREAM}
        for stream in range(1, 201, 2):
            peer.send(frame(DATA, END_STREAM, stream, b"x"))
        assert peer.wait(HEADERS, 199)


@pytest.mark.parametrize("stream", [0, 1])
def test_a_window_that_grows_too_large(site: Target, stream: int) -> None:
    """RFC 9113, 6.9.1: of a stream it costs the stream, of the connection the connection."""
    with raw_peer(site.port) as peer:
        peer.send(headers(1, POST, END_HEADERS) + window(stream, 2**31 - 1))
        if stream:
            assert peer.wait(RST_STREAM, 1).code == FLOW_CONTROL_ERROR
            assert peer.answers()
        else:
            assert peer.goaway_code() == FLOW_CONTROL_ERROR


def test_a_peer_that_reads_nothing_gets_nothing_more() -> None:
    """Requests whose answers nobody reads are not read without end: memory stays bounded."""
    asked = [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked[0] += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y" * 4000)]})
        await send({"type": "http.response.body", "body": b""})

    with (
        serving(app, lifespan="off", timeout_write=2.0) as site,
        raw_peer(site.port, receive_buffer=4096) as peer,
    ):
        many = b"".join(headers(stream) for stream in range(1, 60_001, 2))
        peer.socket.send_until_stuck(many, len(many), 1.0)
        assert asked[0] < 10_000
        wait_until(lambda: site.connections() == 0, "it is cut off")


def test_windows_that_never_open_end_by_the_deadline(site: Target) -> None:
    """CVE-2019-9517 and 9511: large answers, of which nothing may be sent, or a byte at a time."""
    with under_attack(timeout_write=1.0) as site, raw_peer(site.port, PREFACE) as peer:
        peer.send(settings((4, 0)))
        for stream in range(1, 21, 2):
            peer.send(headers(stream, (*POST[:3], (":path", "/large"))))
        resets = [peer.wait(RST_STREAM) for _ in range(10)]
        assert {each.stream for each in resets} == set(range(1, 21, 2))
        assert peer.answers()
        site.is_well()


def test_windows_of_one_byte() -> None:
    with under_attack() as site, raw_peer(site.port, PREFACE) as peer:
        peer.send(settings((4, 1)) + headers(1, (*POST[:3], (":path", "/large"))))
        assert peer.wait(DATA, 1).payload == b"x"
        flood(peer, lambda _: window(1, 1))
        assert [each.code for each in peer.frames if each.kind == GOAWAY] == [ENHANCE_YOUR_CALM]


@pytest.mark.parametrize(
    "begun",
    [PREFACE[:10], PREFACE, PREFACE + settings() + frame(HEADERS, 0, 1, block())[:12]],
    ids=["a preface", "no settings", "a header block"],
)
def test_what_is_begun_must_end(begun: bytes) -> None:
    with under_attack(timeout_request_header=0.5) as site, raw_peer(site.port, begun) as peer:
        peer.end()
        site.is_well()


@pytest.mark.parametrize("size", [12, None], ids=["a part of a frame", "without its end"])
def test_a_header_block_must_end_beside_open_streams(size: int | None) -> None:
    """Other frames may come in pieces for as long as their stream's own deadlines allow."""
    begun = frame(HEADERS, 0, 3, block())[:size]
    with (
        under_attack(timeout_request_header=0.5) as site,
        raw_peer(site.port) as slow,
        raw_peer(site.port) as peer,
    ):
        slow.send(headers(1, POST, END_HEADERS) + frame(DATA, END_STREAM, 1, b"12345")[:11])
        assert slow.wait(WINDOW_UPDATE, 0)
        peer.send(headers(1, POST, END_HEADERS) + begun)
        assert peer.goaway_code() == ENHANCE_YOUR_CALM
        slow.send(b"345")
        assert slow.wait(DATA, 1).payload == b"5"
        site.is_well()


def test_who_only_uses_the_connection_never_comes_to_the_limit(site: Target) -> None:
    """More than the budget of everything that is of use."""
    with raw_peer(site.port) as peer:
        peer.send(headers(1, POST, END_HEADERS))
        sent = 0
        for round_ in range(3):
            for stream in range(3 + round_ * 4000, 3 + (round_ + 1) * 4000, 160):
                ids = range(stream, stream + 160, 2)
                peer.send(b"".join(headers(each) + window(0, 5) + window(each, 5) for each in ids))
                answered = 0
                while answered < len(ids):
                    received = peer.read()
                    assert received is not None
                    assert received.kind != GOAWAY, received
                    answered += received.kind == DATA and received.flags & END_STREAM
            peer.send(frame(DATA, 0, 1, b"z" * 100))
            sent += 100
        peer.send(frame(DATA, END_STREAM, 1, b""))
        assert peer.wait(DATA, 1).payload == str(sent).encode()
