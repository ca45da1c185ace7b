"""When the system around us fails: no descriptors, no memory, no disk, no clock to rely on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

from asgi_poller.pollers import accept4
from asgi_poller.pollers.master_poller import PollerSettings
from tests.attacks.site import under_attack
from tests.support.client import (
    GET,
    LAST_GET,
    Client,
    handshake,
    read_exactly,
    read_head,
    read_to_end,
    send_all,
)
from tests.support.command import Command
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.attacks.echo:app"
OPTIONS = ("--port", "0", "--lifespan", "off", "--ws-ping-interval", "0")
DIRECT = pytest.mark.parametrize(
    "option", ["--no-direct-handshake", "--direct-handshake"], ids=["core", "poller"]
)


def limited(limits: str) -> list[str]:
    """The command under limits of setrlimit(2)."""
    code = (
        f"import resource as r, runpy, sys; {limits};"
        f"sys.argv = ['asgi-poller', {APP!r}, *sys.argv[1:]];"
        "runpy.run_module('asgi_poller', run_name='__main__')"
    )
    return [sys.executable, "-c", code]


def status_of(client: Client) -> int:
    """Of the answer; 0 if there is none."""
    try:
        return client.head().status
    except (ConnectionError, EOFError):
        return 0


@DIRECT
def test_descriptors_run_out(option: str) -> None:
    """RLIMIT_NOFILE 256, and 400 who want in: 503 for some, one log entry, and service returns."""
    program = limited("r.setrlimit(r.RLIMIT_NOFILE, (256, 256))")
    command = Command(*OPTIONS, option, program=program)
    with contextlib.closing(command), contextlib.ExitStack() as stack:
        command.wait_for("running on")
        site = Served(command.address[1])
        clients = [stack.enter_context(site.connect()) for _ in range(400)]
        for client in clients:
            send_all(client, handshake())
        statuses = [status_of(client) for client in clients]
        assert statuses.count(101) > 150
        assert statuses.count(503) > 50
        assert set(statuses) <= {101, 503, 0}
        opened = [client for client, status in zip(clients, statuses, strict=True) if status == 101]
        for client in opened:
            site.echo(client, "still here")
        for client in clients:
            client.close()
        wait_until(lambda: site.ask(LAST_GET).startswith(b"HTTP/1.1 200 "), "service returns")
        command.stop()
        assert len(command.said("cannot accept")) == 1
        ends = command.said(r"accepting normally again: .* (\d+) connections got 503")
        # some have seen a reset in its place
        assert sum(int(end[1]) for end in ends) >= statuses.count(503)
        assert "Traceback" not in command.text


def test_memory_runs_out() -> None:
    """An address space of 1 GiB and messages of 64 MiB: who asks too much loses its connection,
    and the others go on.
    """
    limit = 1 << 30
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # whose allocator reserves so much beforehand
        limit += 1 << 30
    program = limited(f"r.setrlimit(r.RLIMIT_AS, ({limit}, {limit}))")
    options = ("--ws-max-size", str(1 << 30), "--ws-per-message-deflate", "off")
    command = Command(*OPTIONS, *options, program=program)
    with contextlib.closing(command), contextlib.ExitStack() as stack:
        command.wait_for("running on")
        site = Served(command.address[1])
        honest, greedy = (stack.enter_context(site.websocket()) for _ in range(2))
        with contextlib.suppress(OSError):
            greedy.sendall(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + bytes(4))
            piece = bytes(1 << 20)
            for _ in range(1 << 10):
                greedy.sendall(piece)
        greedy.close()
        for _ in range(5):
            site.echo(honest)
        site.is_well()


class Faults:
    """accept() calls that fail now and then, with every error that accept(2) knows of."""

    NUMBERS = tuple(
        getattr(errno, name)
        for name in (
            *("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED"),
            *("EPERM", "EPROTO", "EINTR", "ETIMEDOUT", "EIO"),
        )
        if hasattr(errno, name)
    )

    def __init__(self, real: accept4.AcceptCall) -> None:
        self._real = real
        self._calls = 0

    def __call__(self) -> tuple[int, Any]:
        self._calls += 1
        if self._calls % 3 == 0:
            number = self.NUMBERS[self._calls // 3 % len(self.NUMBERS)]
            raise OSError(number, os.strerror(number))
        return self._real()


def test_accept_fails_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(**options: Any) -> PollerSettings:
        real = accept4.accept_call
        return PollerSettings(make_accept=lambda listener: Faults(real(listener)), **options)

    monkeypatch.setattr("asgi_poller.serve.serving.PollerSettings", settings)
    with under_attack() as site:
        answers = [site.ask(LAST_GET)[:12] for _ in range(100)]
        # EMFILE and ENFILE are answered 503; what follows is served
        assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert answers.count(b"HTTP/1.1 200") > 50


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_disk_is_full_under_the_log(tmp_path: Path) -> None:
    """What is lost is the log line."""
    config = tmp_path / "logging.ini"
    config.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=full\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=DEBUG\nhandlers=full\n"
        "[handler_full]\nclass=FileHandler\nargs=('/dev/full',)\n"
    )
    program = [sys.executable, "-m", "asgi_poller", APP]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        site = Served(listener.getsockname()[1])
        fd = str(listener.fileno())
        command = Command(
            *("--fd", fd, "--lifespan", "off", "--log-config", str(config)),
            program=program,
            keep_fds=(listener.fileno(),),
        )
        with contextlib.closing(command):
            for _ in range(20):
                site.is_well()


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0 * 365])
def test_the_clock_jumps(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are on a clock that only goes forward; the one on the wall is for Date alone."""
    real = time.time
    with under_attack(timeout_keep_alive=30.0, ws_ping_interval=20.0) as site:
        with site.websocket() as channel, site.connect() as kept:
            kept.sendall(GET)
            assert read_head(kept).startswith(b"HTTP/1.1 200 ")
            read_exactly(kept, 1)
            monkeypatch.setattr(time, "time", lambda: real() + jump_s)
            site.echo(channel)
            kept.sendall(LAST_GET)
            assert read_to_end(kept).startswith(b"HTTP/1.1 200 ")
            site.is_well()
            monkeypatch.setattr(time, "time", real)
            site.echo(channel)


def test_without_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is looked up to serve a peer, log it or answer it."""
    with under_attack(access_log=True) as site:

        def no_name(*arguments: object, **options: object) -> Any:
            raise AssertionError(f"a name is looked up: {arguments}")

        for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "getfqdn", "getnameinfo"):
            monkeypatch.setattr(socket, name, no_name)
        client = socket.socket()
        client.settimeout(DEADLINE_S)
        client.connect(site.address)
        with client:
            client.sendall(LAST_GET)
            assert read_to_end(client).startswith(b"HTTP/1.1 200 ")
