"""Hundreds of slow peers are closed at their deadlines while honest clients are served."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.attacks.crowd import (
    BODY,
    CHUNKS,
    FRAGMENTS,
    HALF_FRAME,
    HEAD,
    PEERS,
    PROXY,
    SILENT,
    TLS,
    Kind,
    crowd,
    crowds_apart,
    honest_echoes,
)
from tests.support.client import handshake, read_head, read_to_end
from tests.support.command import Command
from tests.support.frames import frame
from tests.support.tls import write_pair
from tests.support.waiting import wait_until

DIRECT = pytest.mark.parametrize("direct", [False, True], ids=["core", "poller"])
Address = tuple[str, int]


@contextlib.contextmanager
def server(*options: str, direct: bool = False) -> Iterator[Command]:
    """A server in a process of its own."""
    handshake_option = "--direct-handshake" if direct else "--no-direct-handshake"
    command = Command(
        *("--port", "0", "--lifespan", "off", "--no-access-log", handshake_option),
        *options,
        app="tests.attacks.echo:app",
    )
    with contextlib.closing(command):
        command.wait_for("running on")
        yield command


@DIRECT
@pytest.mark.parametrize(
    ("option", "kind", "answer"),
    [
        ("--timeout-request-header", HEAD, b"HTTP/1.1 408 "),
        ("--timeout-first-octet", SILENT, b""),
    ],
    ids=["slow", "silent"],
)
def test_slow_heads_and_silent_connections(
    option: str, kind: Kind, answer: bytes, direct: bool
) -> None:
    with server(option, "2", direct=direct) as command, crowd(command.address, kind) as slow:
        honest_echoes(command.address, 1.0)
        wait_until(lambda: slow.ended == PEERS, "all of them are got rid of")
        assert slow.received[:13] == answer


@pytest.mark.parametrize("kind", [BODY, CHUNKS], ids=["by length", "chunked"])
def test_slow_bodies(kind: Kind) -> None:
    with server() as command, crowd(command.address, kind) as slow:
        honest_echoes(command.address, 1.0)
        assert slow.ended == 0  # the application's own time


def test_slow_tls_handshakes(tmp_path: Path) -> None:
    files = write_pair(tmp_path, "server", trustme.CA().issue_cert("localhost"))
    options = ("--ssl-certfile", files.certificate, "--ssl-keyfile", files.key)
    binds = ("--bind", "127.0.0.1:0", "--bind-tls", "127.0.0.1:0")
    with server(*options, *binds, "--ssl-handshake-timeout", "2") as command:
        tls = command.wait_for(r"running on https://([^:/]+):(\d+)")
        with crowd((tls[1], int(tls[2])), TLS) as slow:
            plain = command.wait_for(r"running on http://([^:/]+):(\d+)")
            honest_echoes((plain[1], int(plain[2])), 1.0)
            wait_until(lambda: slow.ended == PEERS, "all of them are got rid of")


def test_half_frames() -> None:
    """They drip: alive, as any byte is. They stop: a ping, and the end."""
    options = ("--ws-ping-interval", "0.5", "--ws-ping-timeout", "0.5")
    with server(*options) as command:
        with crowd(command.address, HALF_FRAME) as slow:
            honest_echoes_with_pongs(command.address)
            assert slow.ended == 0
        with socket.create_connection(command.address, 30.0) as silent:
            silent.sendall(HALF_FRAME[0])
            assert read_to_end(silent).endswith(b"\x03\xf3keepalive ping timeout")


def honest_echoes_with_pongs(address: Address) -> None:
    """An honest client among them, for one ping at least."""
    with socket.create_connection(address, 30.0) as client:
        client.sendall(handshake())
        assert read_head(client).startswith(b"HTTP/1.1 101 ")
        assert client.recv(2) == b"\x89\x00"
        client.sendall(frame(10))


def test_endless_fragments() -> None:
    with server("--ws-max-size", "100") as command:
        with crowd(command.address, FRAGMENTS) as slow:
            honest_echoes(command.address, 1.0)
            assert slow.ended == 0
        with socket.create_connection(command.address, 30.0) as fast:
            fast.sendall(FRAGMENTS[0] + FRAGMENTS[1] * 200)
            assert b"\x03\xf1" in read_to_end(fast)  # 1009


@DIRECT
def test_slow_proxy_headers(direct: bool) -> None:
    options = ("--proxy-protocol", "--timeout-request-header", "1")
    with server(*options, direct=direct) as command, crowd(command.address, PROXY, 50) as slow:
        wait_until(lambda: slow.ended == 50, "all of them are got rid of")
        assert slow.received == b""


@pytest.mark.long
@DIRECT
def test_honest_clients_among_slow_ones(direct: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """All kinds at once. What it costs the honest ones is reported; that none fails is asserted."""
    with server(direct=direct) as command:
        before = honest_echoes(command.address, 3.0, count=50)
        with crowds_apart(command.address, (HEAD, BODY, HALF_FRAME, FRAGMENTS)):
            during = honest_echoes(command.address, 3.0, count=50)
        with capsys.disabled():
            where = "pollers" if direct else "cores"
            print(f"\nheads read by {where}, alone: {before}")
            print(f"heads read by {where}, among 4 x {PEERS} slow peers: {during}")


@pytest.mark.tools
@pytest.mark.parametrize("mode", ["-H", "-B", "-X"], ids=["heads", "bodies", "reading"])
def test_slowhttptest(mode: str) -> None:
    """The tool for it: 300 connections for 10 s, while honest clients are served."""
    program = shutil.which("slowhttptest")
    if program is None:
        pytest.skip("slowhttptest is not installed")
    with server("--timeout-request-header", "3") as command:
        host, port = command.address
        url = f"http://{host}:{port}/"
        arguments = ["-c", "300", mode, "-i", "1", "-r", "200", "-l", "8", "-p", "5", "-u", url]
        tool = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True)
        try:
            honest_echoes(command.address, 8.0)
            output, _ = tool.communicate(timeout=60)
        finally:
            tool.kill()
        assert "service available:" not in output or "NO" not in output.split()[-20:]
