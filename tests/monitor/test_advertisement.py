"""How a server on this machine is found: by a name that only its process can have."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from asgi_poller.monitor.advertisement import Advertised, Advertisement, advertised

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs abstract unix sockets")


def ours() -> list[Advertised]:
    return [each for each in advertised() if each.pid == os.getpid()]


@pytest.mark.parametrize(
    ("host", "reachable"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("0.0.0.0", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
    ],
)
def test_it_is_found_while_it_says_so(host: str, reachable: str) -> None:
    advertisement = Advertisement(host, 9100)
    assert ours() == []
    advertisement.begin()
    try:
        assert ours() == [(os.getpid(), reachable, 9100, os.geteuid())]
    finally:
        advertisement.end()
        advertisement.end()  # once more does nothing
    assert ours() == []


def test_a_name_that_another_process_has_bound_is_not_believed() -> None:
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(f"\0asgi-poller/{os.getppid()}/127.0.0.1:9101")
        assert 9101 not in [each.port for each in advertised()]


def test_a_name_that_is_taken_keeps_nobody_from_serving() -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"\0asgi-poller/{os.getpid()}/127.0.0.1:9102")
        advertisement = Advertisement("127.0.0.1", 9102)
        advertisement.begin()
        advertisement.end()


def test_other_names_are_left_alone() -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0asgi-poller/{os.getpid()}/with a space:1")
        assert ours() == []
