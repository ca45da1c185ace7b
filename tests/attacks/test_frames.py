"""WebSocket frames that are meant to hurt: bombs, floods, games with Close, bad masking."""

from __future__ import annotations

import socket
import time
import zlib
from pathlib import Path

import pytest

from tests.attacks.site import Target, under_attack
from tests.protocols.websocket.test_protocol import FAULTS, MAX, RSV1
from tests.support.client import (
    close_code,
    handshake,
    read_frame,
    read_to_end,
    reset_on_close,
    send_all,
)
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    deflated,
    frame,
    text,
)
from tests.support.waiting import DEADLINE_S, wait_until

MIB = 1024 * 1024
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def bomb(size_bytes: int) -> bytes:
    """A message of so many zeros, at 1,000 : 1."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    pieces = [compressor.compress(bytes(MIB)) for _ in range(size_bytes // MIB)]
    return b"".join(pieces) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["on", "takeover"])
def test_deflate_bombs(mode: str) -> None:
    """A gibibyte in a mebibyte; the limit is 16 MiB, and memory never holds much more."""
    payload = bomb(1024 * MIB)
    assert len(payload) < 1.1 * MIB
    data = frame(BINARY, payload, rsv=RSV1)
    with under_attack(ws_per_message_deflate=mode) as site:
        with site.websocket(DEFLATE) as client:
            forget_peak()
            before = peak_bytes()
            started = time.process_time()
            send_all(client, data)
            assert close_code(client) == 1009
            assert peak_bytes() - before < 64 * MIB
            assert time.process_time() - started < 10.0  # of CPU: inflating stopped at the limit
        site.is_well()


@pytest.mark.long
def test_a_bomb_in_fragments() -> None:
    payload = bomb(1024 * MIB)
    size = len(payload) // 64
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    with under_attack() as site, site.websocket(DEFLATE) as client:
        forget_peak()
        before = peak_bytes()
        send_all(client, frame(BINARY, pieces[0], fin=False, rsv=RSV1))
        for piece in pieces[1:]:
            send_all(client, frame(CONTINUATION, piece, fin=False))
        assert close_code(client) == 1009
        assert peak_bytes() - before < 64 * MIB


def test_what_just_fits_is_no_bomb() -> None:
    with under_attack(ws_max_size=MIB) as site, site.websocket(DEFLATE) as client:
        client.sendall(frame(BINARY, deflated(bytes(MIB)), rsv=RSV1))
        echoed = read_frame(client)[1]
        inflated = zlib.decompressobj(-15).decompress(echoed + b"\0\0\xff\xff")
        assert inflated == bytes(MIB)
        client.sendall(frame(BINARY, deflated(bytes(MIB + 1)), rsv=RSV1))
        assert close_code(client) == 1009


FLOODS = {
    "pings": frame(PING, bytes(125)) * 500,
    "empty pings": frame(PING) * 5000,
    "pongs": frame(PONG, bytes(125)) * 500,
    "empty messages": frame(TEXT) * 5000,
    "empty fragments": frame(TEXT, fin=False)
    + frame(CONTINUATION, fin=False) * 5000
    + frame(CONTINUATION),
    "fragments of one byte": frame(TEXT, b"a", fin=False)
    + frame(CONTINUATION, b"a", fin=False) * 5000
    + frame(CONTINUATION, b"a"),
    "fragments with pings between": (
        frame(TEXT, b"a", fin=False) + frame(PING) * 2 + frame(CONTINUATION, b"a")
    )
    * 2000,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_floods(flood: bytes) -> None:
    """From ten clients that read nothing; an honest one beside them echoes all the while."""
    with under_attack() as site, site.websocket() as honest:
        flooders = [site.websocket(path="/deaf") for _ in range(10)]
        forget_peak()
        before = peak_bytes()
        for client in flooders:
            client.setblocking(False)
        for _ in range(20):
            for client in flooders:
                try:
                    client.send(flood)
                except (BlockingIOError, ConnectionError):
                    pass  # it is not read any more, as it should be, or was closed
            site.echo(honest)
        assert peak_bytes() - before < 96 * MIB
        for client in flooders:
            client.close()


def test_endless_empty_fragments_are_bounded() -> None:
    """They add nothing to the message's size: they must add nothing to memory either."""
    with under_attack() as site, site.websocket() as client:
        forget_peak()
        before = peak_bytes()
        send_all(client, frame(TEXT, fin=False))
        piece = frame(CONTINUATION, fin=False) * 10_000
        for _ in range(50):
            send_all(client, piece)
        assert peak_bytes() - before < 32 * MIB
        site.is_well()


VIOLATIONS = FAULTS | {
    "a close of code 0": (frame(CLOSE, b"\0\0"), 1002),
    "a close that is too long": (frame(CLOSE, b"\x03\xe8" + bytes(124)), 1002),
    "a close within a message": (frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8"), 1000),
    "two closes": (frame(CLOSE, b"\x03\xe8") * 2, 1000),
    "a message behind a close": (frame(CLOSE, b"\x03\xe8") + text("more"), 1000),
    "a close and no end": (frame(CLOSE, b"\x03\xe8") + bytes(100_000), 1000),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
@pytest.mark.parametrize("ws", ["auto", "wsproto"])
def test_close_frame_games_and_violations(violation: str, ws: str) -> None:
    """The close code that RFC 6455 names, then the end; the application gets a disconnect."""
    data, code = VIOLATIONS[violation]
    with under_attack(ws=ws, ws_close_timeout=0.5, ws_max_size=MAX) as site:
        with site.websocket() as client:
            send_all(client, data)
            assert close_code(client) == code
            client.settimeout(DEADLINE_S)
            read_to_end(client)
        wait_until(lambda: len(site.record.ends) == 1, "the application is told")


def test_closing_over_and_over_does_not_hold_anything() -> None:
    with under_attack() as site:
        for number in range(300):
            client = open_and_leave(site, number)
            client.close()
        wait_until(lambda: site.connections() == 0, "nothing is kept for them")


def open_and_leave(site: Target, number: int) -> socket.socket:
    """One of the ways in which browsers and broken networks go."""
    client = site.connect()
    client.sendall(handshake())
    match number % 4:
        case 0:
            reset_on_close(client)
        case 1:
            send_all(client, frame(CLOSE, b"\x03\xe8"))
        case 2:
            client.shutdown(socket.SHUT_WR)
        case _:
            send_all(client, frame(TEXT, b"half")[:3])
    return client
