"""Accepting: the direct call and the portable one give what socket.accept() gives."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_poller import platform
from asgi_poller.handoff.thread_lane import close_connection
from asgi_poller.pollers import accept4
from asgi_poller.pollers.accept4 import ACCEPT_ABORTED, NOT_A_LISTENER, AcceptCall, accept_call

Make = Callable[[socket.socket], AcceptCall]


@pytest.fixture(params=["best", "portable", "windows"])
def make(request: pytest.FixtureRequest) -> Make:
    """Each way to accept; the portable ones work on this system too."""
    ways: dict[str, Make] = {
        "best": accept_call,
        "portable": accept4._portable_accept_call,
        "windows": accept4._windows_accept_call,
    }
    return ways[request.param]


def listening(family: socket.AddressFamily, address: object) -> socket.socket:
    bound = socket.socket(family)
    bound.bind(address)  # type: ignore[arg-type] # any kind of address
    bound.listen()
    bound.setblocking(False)
    return bound


def check(make: Make, bound: socket.socket) -> object:
    """Accept one connection and return its peer address."""
    call = make(bound)
    with pytest.raises(BlockingIOError):
        call()
    with socket.socket(bound.family) as client:
        client.connect(bound.getsockname())
        fd, peer = call()
        assert peer == client.getsockname()
        assert os.get_blocking(fd) is False
        assert os.get_inheritable(fd) is False
        with pytest.raises(BlockingIOError):
            call()
        close_connection(fd)
        client.settimeout(10)
        assert client.recv(1) == b""
    bound.close()
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno in NOT_A_LISTENER
    return peer


def test_ipv4(make: Make) -> None:
    check(make, listening(socket.AF_INET, ("127.0.0.1", 0)))


def test_ipv6(make: Make) -> None:
    try:
        bound = listening(socket.AF_INET6, ("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    peer = check(make, bound)
    assert isinstance(peer, tuple)
    assert len(peer) == 4


@pytest.mark.skipif(not platform.HAS_UNIX_SOCKETS, reason="no unix sockets")
def test_unix(make: Make, tmp_path: Path) -> None:
    assert check(make, listening(socket.AF_UNIX, str(tmp_path / "s"))) == ""


@pytest.mark.skipif(not platform.LINUX, reason="abstract names are Linux's")
def test_unix_peers_with_names(make: Make, tmp_path: Path) -> None:
    for name in (str(tmp_path / "client"), b"\0asgi-poller-test-%d" % os.getpid()):
        bound = listening(socket.AF_UNIX, str(tmp_path / f"s{len(name)}"))
        with bound, socket.socket(socket.AF_UNIX) as client:
            client.bind(name)
            client.connect(bound.getsockname())
            fd, peer = make(bound)()
            close_connection(fd)
            assert peer == name == client.getsockname()


def test_a_system_without_accept4_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept4, "_accept4", None)
    check(accept_call, listening(socket.AF_INET, ("127.0.0.1", 0)))


def test_the_errors_of_a_connection_are_not_those_of_a_listener() -> None:
    assert errno.ECONNABORTED in ACCEPT_ABORTED
    assert not ACCEPT_ABORTED & NOT_A_LISTENER
