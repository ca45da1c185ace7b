"""A worker ends with its supervisor, blocked or not."""

from __future__ import annotations

import socket
import threading

from asgi_poller.worker.parent_watchdog import ParentWatchdog
from tests.support.waiting import DEADLINE_S


def test_an_orphan_is_ended_although_its_loop_is_blocked() -> None:
    ours, theirs = socket.socketpair()
    ended: list[int] = []
    done = threading.Event()

    def end(code: int) -> None:
        ended.append(code)
        done.set()

    with theirs:
        ParentWatchdog(theirs, 0.0, end).start()
        theirs_can_wait = done.wait(0.05)
        assert not theirs_can_wait, "not while the supervisor lives"
        ours.close()
        assert done.wait(DEADLINE_S)
    assert ended == [1]
