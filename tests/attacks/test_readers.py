"""Peers that do not read, send too fast or are gone: memory is bounded, the application is told."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from tests.attacks.site import Target, under_attack
from tests.support.client import close_code, read_frame
from tests.support.frames import BINARY, PING, PONG, frame
from tests.support.waiting import wait_until

MIB = 1024 * 1024


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def narrow(site: Target, path: str) -> socket.socket:
    """A WebSocket whose client has room for little, and reads nothing."""
    return site.websocket(path=path, receive_buffer=4096)


@pytest.mark.parametrize("limit", [1024, 65536])
def test_never_reading_clients(limit: int) -> None:
    """The application waits in send(), and 50 of them hold next to nothing."""
    with under_attack(ws_send_limit=limit) as site:
        before = resident_bytes()
        clients = [narrow(site, "/flood") for _ in range(50)]
        for _ in range(20):
            site.is_well()
        assert resident_bytes() - before < 50 * MIB // 2
        assert floods(site) == []  # waited for
        for client in clients:
            client.close()
        wait_until(lambda: len(floods(site)) == 50, "every application is told")
        assert set(floods(site)) == {1006}


def floods(site: Target) -> list[int]:
    """The codes that applications have seen which were sending for ever."""
    return [end["code"] for end in site.record.ends if end["path"] == "/flood"]


def test_never_reading_clients_are_closed_where_that_is_wanted() -> None:
    with under_attack(
        ws_slow_consumer="close", ws_slow_consumer_timeout=0.3, ws_close_timeout=0.3
    ) as site:
        clients = [narrow(site, "/flood") for _ in range(20)]
        wait_until(lambda: len(site.record.ends) == 20, "every application is told")
        assert {end["code"] for end in site.record.ends} == {1008}
        assert all(isinstance(error, OSError) for error in site.record.errors)
        wait_until(lambda: site.connections() == 0, "nothing is kept for them")
        for client in clients:
            client.close()


def test_a_client_that_catches_up_in_time_is_kept() -> None:
    with under_attack(ws_slow_consumer="close", ws_slow_consumer_timeout=1.0) as site:
        client = narrow(site, "/flood")
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert client.recv(65536)
        assert site.record.ends == []
        client.close()


def test_a_client_that_sends_close_and_never_reads_is_not_kept() -> None:
    with under_attack(ws_close_timeout=0.3) as site:
        clients = [narrow(site, "/flood") for _ in range(10)]
        for client in clients:
            client.sendall(frame(8, (1000).to_bytes(2, "big")))
        wait_until(lambda: site.connections() == 0, "nothing is kept for them")
        for client in clients:
            client.close()


def test_a_response_that_is_read_slowly_is_read_to_its_end() -> None:
    with under_attack(timeout_write=1.0) as site:
        with site.connect() as client:
            client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            count = 0
            pause = threading.Event()
            while piece := client.recv(MIB):
                count += len(piece)
                pause.wait(0.02)
            assert count > 32 * MIB


def test_fast_senders() -> None:
    """An application that takes nothing: reading stops, and memory with it; pings are answered
    as long as they are read.
    """
    with under_attack() as site:
        before = resident_bytes()
        clients = [site.websocket(path="/deaf") for _ in range(10)]
        message = frame(BINARY, bytes(65536))
        for client in clients:
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                send_for_ever(client, message)
        assert resident_bytes() - before < 64 * MIB
        site.is_well()
        with site.websocket(path="/deaf") as client:
            client.sendall(frame(BINARY, b"one") + frame(PING, b"alive?"))
            assert read_frame(client)[:2] == (PONG, b"alive?")
        for client in clients:
            client.close()


def send_for_ever(client: socket.socket, message: bytes) -> None:
    for _ in range(1000):
        client.sendall(message)


def test_half_open_peers() -> None:
    """Gone without a word, as when a cable is pulled: nothing is answered, and nothing refused."""
    with under_attack(ws_ping_interval=0.3, ws_ping_timeout=0.3) as site:
        with site.websocket() as client:
            assert read_frame(client)[0] == PING
            assert close_code(client) == 1011
            wait_until(lambda: len(site.record.ends) == 1, "the application is told")
