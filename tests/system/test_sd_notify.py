"""What a service manager hears, over real notification sockets."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_poller.system.sd_notify import ServiceManager
from tests.support.processes import NotifySocket

if sys.platform == "win32":
    pytest.skip("no service manager of this kind on Windows", allow_module_level=True)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[NotifySocket, str]]:
    address = str(tmp_path / "notify")
    with NotifySocket(address) as made:
        yield made, address


def test_a_whole_life(manager: tuple[NotifySocket, str]) -> None:
    there, address = manager
    us = ServiceManager(address)
    pid = f"MAINPID={os.getpid()}"
    assert us.ready("listening on 127.0.0.1:8000")
    assert there.heard() == ["READY=1", pid, "STATUS=listening on 127.0.0.1:8000"]
    assert us.reloading()
    assert there.heard()[0] == "RELOADING=1"
    assert us.ready()
    assert there.heard() == ["READY=1", pid]
    assert us.watchdog()
    assert there.heard() == ["WATCHDOG=1"]
    assert us.extend_timeout(2.5)
    assert there.heard() == ["EXTEND_TIMEOUT_USEC=2500000"]
    assert us.stopping()
    assert there.heard() == ["STOPPING=1"]


def test_the_reload_stamp_is_the_systems_monotonic_clock(manager: tuple[NotifySocket, str]) -> None:
    there, address = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    ServiceManager(address).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    stamp = int(there.heard()[1].removeprefix("MONOTONIC_USEC="))
    assert before <= stamp <= after


def test_a_status_cannot_say_anything_else(manager: tuple[NotifySocket, str]) -> None:
    there, address = manager
    us = ServiceManager(address)
    assert us.ready("a\nSTOPPING=1\r\n\tb \ud800")
    assert there.heard()[2:] == ["STATUS=a STOPPING=1 b ?"]
    assert us.ready("ü" * 1000)
    (line,) = there.heard()[2:]
    assert len(line.encode()) <= 512 + len("STATUS=")


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_abstract_sockets() -> None:
    name = f"asgi-poller-test-{os.getpid()}"
    there = NotifySocket("\0" + name)
    assert ServiceManager("@" + name).ready()
    assert there.heard()[0] == "READY=1"
    there.close()


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative/path"])
def test_without_a_socket_of_ours_nothing_happens(address: str | None) -> None:
    us = ServiceManager(address, watchdog_limit_s=3.0)
    assert us.watchdog_interval_s is None
    assert not us.ready("x")
    assert not us.watchdog()


def test_a_manager_that_is_gone_or_impossible_is_no_failure_of_ours(tmp_path: Path) -> None:
    assert not ServiceManager(str(tmp_path / "nobody")).ready()
    assert not ServiceManager("/" + "x" * 300).ready()


def test_a_manager_that_does_not_read_does_not_hold_us_up(
    manager: tuple[NotifySocket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_poller.system.sd_notify._SEND_TIMEOUT_S", 0.05)
    us = ServiceManager(manager[1])
    assert not all(us.watchdog() for _ in range(10_000))


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_environment_is_read_and_left_to_nobody_else(
    manager: tuple[NotifySocket, str], environ: dict[str, str], interval: float | None
) -> None:
    there, address = manager
    given = {"NOTIFY_SOCKET": address, "PATH": "/bin", **environ}
    us = ServiceManager.from_environment(given)
    assert given == {"PATH": "/bin"}
    assert us.watchdog_interval_s == interval
    assert us.ready()
    assert there.heard()[0] == "READY=1"


def test_an_environment_without_a_manager() -> None:
    given = {"WATCHDOG_USEC": "30000000"}
    us = ServiceManager.from_environment(given)
    assert us.watchdog_interval_s is None
