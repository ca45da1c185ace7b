"""What the kernel says of listeners: connections that nobody accepts, and those it had no room
for.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from asgi_poller import platform
from asgi_poller.metrics.kernel import accept_queue, listen_failures
from tests.support.waiting import wait_until

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not say")


@linux_only
@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_the_queue_of_a_listener_that_nobody_accepts_from(
    family: socket.AddressFamily, host: str
) -> None:
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(2)
        assert accept_queue(listener) == (0, 2)
        clients = [socket.create_connection(listener.getsockname()[:2]) for _ in range(2)]
        wait_until(lambda: accept_queue(listener) == (2, 2), "both wait")
        overflows, drops = listen_failures()
        assert overflows is not None
        assert drops is not None
        # the kernel takes one more than it was told; the others are dropped and come again
        late = [socket.socket(family) for _ in range(5)]
        for client in late:
            client.setblocking(False)
            client.connect_ex(listener.getsockname()[:2])
        wait_until(lambda: (listen_failures()[0] or 0) > overflows, "there was no room")
        assert (listen_failures()[1] or 0) > drops
        listener.accept()[0].close()
        for client in (*clients, *late):
            client.close()


def test_unix_sockets_and_closed_ones_say_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(2)
        assert accept_queue(listener) == (None, None)
    closed = socket.create_server(("127.0.0.1", 0))
    closed.close()
    assert accept_queue(closed) == (None, None)


def test_systems_that_count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "LINUX", False)
    assert listen_failures() == (None, None)
