"""Each refusal leaves one log line with its reason, and a flood of refusals leaves few."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from asgi_poller.asgi.refusal_log import FIRST_COUNT, RefusalLog
from tests.support.client import handshake, read_to_end, send_all
from tests.support.command import Command, running
from tests.support.tls import write_pair
from tests.support.waiting import DEADLINE_S, in_threads

NO_HOST = b"GET / HTTP/1.1\r\n\r\n"
REFUSED = {
    "400 exactly one Host header is needed": NO_HOST,
    "400 this host is not served here": b"GET / HTTP/1.1\r\nhost: other\r\n\r\n",
    "400 TLS on a port for plain HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    "408 the request head did not come in time": b"GET / HTTP/1.1\r\nhost: te",
    "413 the request body is too large": (
        b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 11\r\n\r\n"
    ),
    "414 the request target is too long": b"GET /%b HTTP/1.1\r\nhost: test\r\n\r\n" % (b"x" * 400),
    "426 WebSocket version 13 is spoken here": handshake().replace(b"Version: 13", b"Version: 8"),
    "431 too many header fields": b"GET / HTTP/1.1\r\nhost: test\r\n%b\r\n" % (b"a: b\r\n" * 40),
}
LIMITS = (
    *("--allow-hosts", "test", "--limit-request-body", "10", "--timeout-request-header", "0.3"),
    *("--limit-request-line", "300", "--limit-request-fields", "30", "--no-access-log"),
)


def refused(address: tuple[str, int], data: bytes) -> str:
    """Say something and read to the end; our own address as the log has it."""
    with socket.create_connection(address, DEADLINE_S) as client:
        send_all(client, data)
        read_to_end(client)
        return ":".join(map(str, client.getsockname()))


def lines_about(command: Command, reason: str) -> list[str]:
    return [line for line in command.lines if line.endswith(f": {reason}")]


@pytest.mark.parametrize("direct", ["--direct-handshake", "--no-direct-handshake"])
def test_each_kind_leaves_a_line_and_a_flood_leaves_few(direct: str) -> None:
    with running(*LIMITS, direct, workers=1) as command:
        for reason, data in REFUSED.items():
            peer = refused(command.address, data)
            command.wait_for(f"^INFO:     Refused {re.escape(peer)}: {re.escape(reason)}$")
        for _ in range(10 * FIRST_COUNT):
            refused(command.address, NO_HOST)
        # a window is 10 s: on a slow machine the flood may see two or three
        assert len(lines_about(command, next(iter(REFUSED)))) in range(FIRST_COUNT, 3 * FIRST_COUNT)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("--limit-connections", "503 Too many connections"),
        ("--limit-connections-per-ip", "429 Too many connections from your address"),
        ("--limit-channels", "503 Too many WebSockets"),
    ],
)
def test_who_is_one_too_many(limit: str, reason: str) -> None:
    # proxies are not counted, and this machine is one by default
    with running(limit, "1", "--forwarded-allow-ips", "unix", workers=1) as command:
        with socket.create_connection(command.address, DEADLINE_S) as first:
            first.sendall(handshake())
            assert first.recv(65536).startswith(b"HTTP/1.1 101 ")
            peer = refused(command.address, handshake())
            command.wait_for(f"^INFO:     Refused {re.escape(peer)}: {re.escape(reason)}$")


def test_on_a_tls_port(tmp_path: Path) -> None:
    files = write_pair(tmp_path, "server", trustme.CA().issue_cert("localhost"))
    tls = ("--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key))
    with running(*tls, workers=1) as command:
        with socket.create_connection(command.address, DEADLINE_S):
            pass  # a health check: nobody is refused
        peer = refused(command.address, b"GET / HTTP/1.1\r\n\r\n")
        command.wait_for(f"Refused {re.escape(peer)}: 400 plain HTTP on a TLS port$")
        peer = refused(command.address, b"\x16\x03\x01\x00\x05hello")
        command.wait_for(f"Refused {re.escape(peer)}: TLS handshake failed: .")
        assert command.text.count("Refused ") == 2


class Later:
    """In the place of threading.Timer: the test says when."""

    made: list[Later]

    def __init__(self, seconds: float, call: Callable[..., None], arguments: tuple[str]) -> None:
        self.call, self.arguments = call, arguments
        self.daemon = False
        self.made.append(self)

    def start(self) -> None:
        assert self.daemon


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[Later]:
    monkeypatch.setattr(Later, "made", [], raising=False)
    monkeypatch.setattr(threading, "Timer", Later)
    return Later.made


def test_the_rest_is_one_line(later: list[Later], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asgi_poller.error")
    log = RefusalLog()

    def flood(_: int) -> None:
        for _ in range(300):
            log.note("400 bad", ("::1", 7))

    with in_threads(flood, range(4)):
        log.note("431 large", None)
    assert caplog.messages.count("Refused [::1]:7: 400 bad") == FIRST_COUNT
    assert caplog.messages.count("Refused a peer: 431 large") == 1
    (summary,) = later
    caplog.clear()
    summary.call(*summary.arguments)
    assert caplog.messages == ["Refused: 400 bad: and 1,195 more in the last 10 s"]
    log.note("400 bad", ("127.0.0.1", 8))
    assert caplog.messages[1:] == ["Refused 127.0.0.1:8: 400 bad"]


def test_a_few_in_a_while_are_all_told(
    later: list[Later], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_poller.error")
    now = [0.0]
    log = RefusalLog(clock=lambda: now[0])
    for _ in range(5 * FIRST_COUNT):
        now[0] += 3.0
        log.note("400 bad", None)
    assert len(caplog.messages) == 5 * FIRST_COUNT
    assert later == []


def test_without_a_thread_for_the_summary_refusing_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_poller.error")

    def fails(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", fails)
    now = [0.0]
    log = RefusalLog(clock=lambda: now[0])
    for _ in range(100):
        log.note("400 bad", None)
    assert len(caplog.messages) == FIRST_COUNT
    now[0] = 10.0
    log.note("400 bad", None)
    assert len(caplog.messages) == FIRST_COUNT + 1
