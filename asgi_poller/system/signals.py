"""Signals of a process that has children."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from asgi_poller import platform

T = TypeVar("T")

#: Signals that only the supervisor acts on.
SUPERVISOR_SIGNALS = platform.HANDLED_SIGNALS


def run_parent(main: Coroutine[Any, Any, T]) -> T:
    """Run a parent of workers on an event loop of asyncio's own. The program that runs us has its
    own signal handlers back afterwards. For the main thread.
    """
    old = {number: signal.getsignal(number) for number in SUPERVISOR_SIGNALS}
    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return runner.run(main)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupt_blocked() -> Iterator[None]:
    """For starting a child: it begins with SIGINT blocked, until `leave_signals`.

    Ctrl-C goes to the whole process group. It ended an interpreter that had just begun, with a
    traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals() -> None:
    """Ignore signals that the supervisor acts on: they are sent to its whole process group. For the
    main thread of a child.

    Handlers that do nothing, not SIG_IGN: what the application starts would inherit that.
    """
    for number in SUPERVISOR_SIGNALS:
        signal.signal(number, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _nothing(number: int, frame: object) -> None:
    pass
