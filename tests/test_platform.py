"""Platform differences: each has one answer, and what is missing is one clear line."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_poller import platform
from asgi_poller.errors import OperatorFault
from asgi_poller.handoff.connection_table import ConnectionTable
from asgi_poller.handoff.shared_counters import Counters
from tests.support.command import run_python
from tests.support.waiting import in_threads


@pytest.mark.parametrize(
    ("flag", "require"),
    [
        ("HAS_UNIX_SOCKETS", platform.require_unix_sockets),
        ("HAS_FD_PASSING", platform.require_fd_passing),
        ("HAS_FORK", platform.require_fork),
    ],
)
def test_what_a_system_lacks_is_one_line_that_names_the_option(
    flag: str, require: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, flag, True)
    require("--some-option")
    monkeypatch.setattr(platform, flag, False)
    with pytest.raises(OperatorFault, match=r"^--some-option: this system ") as caught:
        require("--some-option")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not platform.LINUX, reason="threads have nice values on Linux alone")
def test_the_nice_value_is_the_thread_s_own() -> None:
    main = os.getpriority(os.PRIO_PROCESS, 0)
    found: list[int | None] = []
    thread = threading.Thread(target=lambda: found.append(platform.set_thread_nice(main + 1)))
    thread.start()
    thread.join()
    assert found == [main + 1]
    assert os.getpriority(os.PRIO_PROCESS, 0) == main


@pytest.mark.skipif(not platform.LINUX, reason="threads have nice values on Linux alone")
def test_a_refused_nice_value_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", denied)
    assert platform.set_thread_nice(-20) == os.getpriority(os.PRIO_PROCESS, 0)
    monkeypatch.setattr(os, "getpriority", denied)
    assert platform.set_thread_nice(-20) is None


def test_no_nice_values_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "LINUX", False)
    assert platform.set_thread_nice(-20) is None


def test_the_soft_descriptor_limit_is_lifted_to_the_hard_one() -> None:
    script = (
        "import resource; from asgi_poller import platform\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "assert platform.descriptor_limit() == 100\n"
        "assert platform.raise_descriptor_limit() == platform.descriptor_limit() == hard\n"
    )
    run_python("-c", script, check=True)


@pytest.fixture(params=[True, False], ids=["eventfd", "socketpair"])
def wakeup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> platform.Wakeup:
    """A Wakeup of each kind."""
    if request.param and not platform.LINUX:
        pytest.skip("no eventfd")
    monkeypatch.setattr(platform, "LINUX", request.param)
    return platform.Wakeup()


def test_a_wakeup_wakes_all_that_wait_and_stays(wakeup: platform.Wakeup) -> None:
    assert not wakeup.wait(0.0)
    ended = []
    with in_threads(lambda limit_s: ended.append(wakeup.wait(limit_s)), [60.0] * 3):
        wakeup.set()
        wakeup.set()
    assert ended == [True] * 3
    assert wakeup.is_set()
    # level-triggered: every poller's own selector sees it, again and again
    assert os.read(os.dup(wakeup.fd), 8)
    wakeup.close()
    wakeup.close()
    wakeup.set()


def test_a_wakeup_that_is_closed_first_can_still_be_set(wakeup: platform.Wakeup) -> None:
    wakeup.close()
    wakeup.set()
    assert wakeup.is_set()


def test_the_reserve_is_missed_but_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object) -> int:
        raise OSError

    monkeypatch.setattr(os, "open", denied)
    reserve = platform.ReserveDescriptor()
    assert not reserve.spend()
    assert not reserve.restore()


@pytest.mark.skipif(not platform.HAS_FORK, reason="no fork")
def test_a_child_closes_all_but_what_it_needs(tmp_path: Path) -> None:
    script = (
        "import os; from asgi_poller import platform\n"
        "kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)][3::3]\n"
        "platform.close_descriptors_but(kept)\n"
        "for fd in range(3, 200):\n"
        "    try: os.fstat(fd); assert fd in kept, fd\n"
        "    except OSError: assert fd not in kept, fd\n"
    )
    run_python("-c", script, check=True)


@pytest.mark.skipif(not platform.LINUX, reason="memory is sealed on Linux alone")
@pytest.mark.parametrize("what", ["counters", "tickets"])
def test_shared_memory_cannot_be_taken_from_under_those_who_have_it_mapped(what: str) -> None:
    """The code of an application has the descriptor too; a page that is gone is SIGBUS for all."""
    owner = Counters.create() if what == "counters" else ConnectionTable(4096, inheritable=True)
    code = """
import os, sys
fd = int(sys.argv[1])
for bytes in (0, 1 << 30):
    try:
        os.ftruncate(fd, bytes)
    except PermissionError:
        pass
    else:
        sys.exit(1)
"""
    done = run_python("-c", code, str(owner.fd), pass_fds=[owner.fd])
    assert done.returncode == 0
    if isinstance(owner, Counters):
        assert owner.row(owner.take_row())[0] == 0
    else:
        owner.end(4095)
        assert list(owner.take_ended(4096)) == [4095]
    owner.close()


def test_a_reserve_that_is_being_spent_is_not_there_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another poller that accepts with its descriptor, in this very moment, must know: else nobody
    takes the reserve back, and whoever waits to be refused waits for ever.
    """
    reserve, close, seen = platform.ReserveDescriptor(), os.close, []

    def watch(fd: int) -> None:
        close(fd)
        seen.append(reserve.is_there)

    monkeypatch.setattr(os, "close", watch)
    assert reserve.spend()
    assert seen == [False]
    assert reserve.restore()
    reserve.close()
