"""WebSockets that would stay open for ever are closed, whether busy or idle."""

from __future__ import annotations

import socket
import time

from tests.attacks.site import under_attack
from tests.support.client import close_code, read_frame
from tests.support.frames import PING, frame, text
from tests.support.waiting import in_threads, wait_until


def test_a_busy_channel_ends_with_its_lifetime() -> None:
    with under_attack(ws_max_lifetime=0.5) as site, site.websocket() as client:
        started = time.monotonic()
        code = 0
        while not code:
            client.sendall(text("x"))
            opcode, payload, *_ = read_frame(client)
            if opcode == 8:
                code = int.from_bytes(payload[:2], "big")
        assert code == 1012
        assert time.monotonic() - started >= 0.4  # no sooner; how late is the machine's affair
        client.sendall(frame(8, code.to_bytes(2, "big")))
        wait_until(lambda: len(site.record.ends) == 1, "the application is told")
        assert site.record.ends[0]["code"] == 1012


def test_lifetimes_have_jitter() -> None:
    """So that clients who came together do not come back together."""
    with under_attack(ws_max_lifetime=0.2, ws_max_lifetime_jitter=0.6) as site:
        lifetimes = []

        def live(_: int) -> None:
            # each in a thread of its own, so that nobody's end waits to be noticed
            with site.websocket() as client:
                opened = time.monotonic()
                assert close_code(client) == 1012
                lifetimes.append(time.monotonic() - opened)

        with in_threads(live, range(20)):
            pass
        assert len(lifetimes) == 20
        assert max(lifetimes) - min(lifetimes) > 0.1


def test_an_idle_channel_is_closed_and_pings_do_not_count() -> None:
    with under_attack(ws_idle_timeout=0.8, ws_ping_interval=0.2) as site:
        with site.websocket() as idle, site.websocket() as busy:
            started = time.monotonic()
            code = 0
            while not code:
                site.echo(busy) if busy.is_silent(0.0) else answer(busy)
                opcode, payload, *_ = read_frame(idle)
                if opcode == PING:
                    idle.sendall(frame(10, payload))
                else:
                    code = int.from_bytes(payload[:2], "big")
            assert code == 1001
            assert time.monotonic() - started >= 0.7


def answer(client: socket.socket) -> None:
    opcode, payload, *_ = read_frame(client)
    assert opcode == PING
    client.sendall(frame(10, payload))
