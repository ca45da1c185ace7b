"""Waiting for what other threads and processes bring about: one deadline, one way to wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# What a stuck test waits for before it fails; no test that passes comes near it.
DEADLINE_S = 60.0


def wait_until(condition: Callable[[], bool], what: str = "the condition holds") -> None:
    """Wait until `condition()` is true; fails with `what` after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        pause.wait(0.005)


def settled(count: Callable[[], int], quiet_s: float = 0.15) -> None:
    """Wait until nobody has changed `count()` for so long."""
    pause = threading.Event()
    before, quiet_since = count(), time.monotonic()
    while time.monotonic() - quiet_since < quiet_s:
        pause.wait(0.01)
        if (now := count()) != before:
            before, quiet_since = now, time.monotonic()


@contextmanager
def in_threads(work: Callable[[T], object], each: Iterable[T]) -> Iterator[list[threading.Thread]]:
    """Call `work` with each of these, in threads that begin now and have ended afterwards."""
    threads = [threading.Thread(target=work, args=(it,), daemon=True) for it in each]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run with a deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await main

    return asyncio.run(bounded())
