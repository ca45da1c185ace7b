"""What a poller sleeps on: listeners and a stop signal.

With epoll, listeners are registered with EPOLLEXCLUSIVE: a new connection wakes one sleeping poller
and not all of them (epoll_ctl(2)). Elsewhere `selectors.DefaultSelector` wakes them all, and those
who come too late find EAGAIN.
"""

from __future__ import annotations

import select
import selectors
from typing import Protocol

from asgi_poller import platform


class Waiter(Protocol):
    """Owned by one poller's thread: no other may call it."""

    def watch(self, fd: int, *, shared: bool) -> None:
        """Report `fd` when it is readable. `shared`: one of the pollers that watch it is enough."""

    def forget(self, fd: int) -> None:
        """Report `fd` no more."""

    def wait(self, timeout_s: float | None) -> list[int]:
        """Sleep until something is readable, at most `timeout_s` seconds (None: for ever)."""

    def close(self) -> None:
        """Give the descriptor back."""


class EpollWaiter:
    """A Waiter on Linux."""

    __slots__ = ("_epoll",)

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def watch(self, fd: int, *, shared: bool) -> None:
        flags = select.EPOLLIN | (platform.EPOLL_EXCLUSIVE if shared else 0)
        self._epoll.register(fd, flags)

    def forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # closed by its owner already, which removed it here too

    def wait(self, timeout_s: float | None) -> list[int]:
        return [fd for fd, _ in self._epoll.poll(timeout_s)]

    def close(self) -> None:
        self._epoll.close()


class SelectorWaiter:
    """A Waiter on every system that Python runs on."""

    __slots__ = ("_selector",)

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, fd: int, *, shared: bool) -> None:
        self._selector.register(fd, selectors.EVENT_READ)

    def forget(self, fd: int) -> None:
        try:
            self._selector.unregister(fd)
        except (KeyError, OSError, ValueError):
            pass  # closed by its owner already

    def wait(self, timeout_s: float | None) -> list[int]:
        return [key.fd for key, _ in self._selector.select(timeout_s)]

    def close(self) -> None:
        self._selector.close()


def make_waiter() -> Waiter:
    """The best Waiter of this system."""
    return EpollWaiter() if platform.EPOLL_EXCLUSIVE else SelectorWaiter()


def sooner(one_s: float | None, other_s: float | None) -> float | None:
    """The shorter of two times to sleep; None is for ever."""
    if one_s is None or other_s is None:
        return one_s if other_s is None else other_s
    return min(one_s, other_s)
