"""Limits are counted in the supervisor, wherever the connections live and die."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from tests.support.command import Command, running
from tests.support.crowd import crowd
from tests.support.processes import is_alive
from tests.support.waiting import DEADLINE_S, wait_until

REFUSED = "HTTP/1.1 503 Service Unavailable"


@pytest.mark.long
def test_connections_are_counted_over_all_workers_and_a_dead_ones_are_not() -> None:
    with running("--limit-connections", "20", workers=2) as command:
        with crowd(command.address) as visitors:
            wait_until(lambda: not visitors.open(1)[0].problem, "earlier ones have ended")
            visitors.open(30)
            assert sum(visitors.by_worker().values()) == 20
            assert set(visitors.problems()) == {REFUSED}

            victim = command.workers[0]
            had = visitors.by_worker()[victim]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: not is_alive(victim), "it is dead")
            command.wait_for("is ready", count=3)
            new = visitors.open(20)
            assert sum(client.worker > 0 for client in new) == had


def test_websockets_are_counted_apart() -> None:
    with running("--limit-channels", "10") as command, crowd(command.address) as visitors:
        visitors.open(15)
        assert sum(visitors.by_worker().values()) == 10
        assert sum(visitors.problems().values()) == 5
        with socket.create_connection(command.address, DEADLINE_S) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert plain.recv(12) == b"HTTP/1.1 200"


def test_where_pollers_read_no_heads_each_worker_keeps_its_share() -> None:
    options = ("--limit-channels", "10", "--no-direct-handshake")
    with running(*options) as command, crowd(command.address) as visitors:
        visitors.open(20)
        assert set(visitors.by_worker().values()) == {5}


@pytest.mark.long
def test_pollers_may_read_heads_for_workers() -> None:
    with running("--direct-handshake") as command, crowd(command.address) as visitors:
        visitors.open(100)
        assert not visitors.problems()
        assert set(visitors.by_worker().values()) == {50}


@pytest.mark.long
def test_tls_is_spoken_by_workers(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    path = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    command = Command("--workers", "2", "--port", "0", "--ssl-certfile", str(path))
    try:
        command.wait_for("is ready", count=2)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with (
            socket.create_connection(command.address, DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert command.stop() == 0
    finally:
        command.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may")
def test_a_key_that_later_workers_could_not_read_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o600)
    user = ("--user", "65534", "--group", "65534")
    options = ("--workers", "2", "--port", "0", "--ssl-certfile", str(path))
    command = Command(*options, *user)
    try:
        assert command.wait() == 2
        assert "--ssl-certfile: uid 65534 must be able to read" in command.text
    finally:
        command.close()
