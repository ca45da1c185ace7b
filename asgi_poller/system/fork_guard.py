"""Guard for forks by the application: a child does not keep the server's sockets and signals.

`multiprocessing` forks on Linux up to Python 3.13, and so do pools and data loaders. Such a child
inherits the server's signal handlers, its wakeup descriptor and its sockets: SIGTERM for the child
would end the server, clients would not see the end of their connections while the child lives, and
the port would stay in use after the server. What is the server's is taken from the child at fork.

Source: signal(7), "a child created via fork(2) inherits a copy of its parent's signal
dispositions"; os.register_at_fork.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

#: Where a process sees its own descriptors: Linux, and macOS with the BSDs.
_DESCRIPTOR_FOLDERS = ("/proc/self/fd", "/dev/fd")

_active: list[ForkGuard] = []
_masks = threading.local()  # of the thread that forks: its signal masks before
_is_registered = False


class ForkGuard:
    """What a forked child must not have, from `begin` to `end`. For any thread.

    `signals` are those that the server handles here. `addresses` are those of its listeners, as
    getsockname() gives them: with them go the listeners and every accepted socket. `descriptors`
    give further sockets of its own, `several` as many as there are at that moment; a negative
    number is one that is closed.
    """

    def __init__(
        self,
        signals: Iterable[int],
        addresses: Iterable[Any],
        descriptors: Iterable[Callable[[], int]] = (),
        *,
        several: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self.signals = frozenset(signals)
        self._keys = {_key(address) for address in addresses}
        self._descriptors = tuple(descriptors)
        self._several = several

    def begin(self) -> None:
        """Guard forks of this process from now on."""
        global _is_registered
        if not hasattr(os, "register_at_fork"):
            return  # Windows: there is no fork
        if not _is_registered:
            _is_registered = True
            os.register_at_fork(
                before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
            )
        _active.append(self)

    def end(self) -> None:
        """Guard them no more. Idempotent."""
        if self in _active:
            _active.remove(self)

    def strip(self) -> None:
        """Take from this process, a forked child, what is the server's."""
        for number in self.signals:
            if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN):
                usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, usual)
        given = [*(give() for give in self._descriptors), *self._several()]
        unusable = [fd for fd in given if fd >= 0]
        unusable += [fd for fd in _descriptors() if _key(_name_of(fd)) in self._keys]
        _disable(unusable)


def end_daemons() -> None:
    """End what `multiprocessing` would end at the interpreter's exit: for a process that is about
    to end by a signal or by os._exit(), which run no exit functions.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.terminate()


def _before() -> None:
    # between fork and `strip` a signal to the child would be taken for one to the server
    masks = _masks.__dict__.setdefault("stack", [])
    blocked = {number for guard in _active for number in guard.signals}
    masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, blocked))


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.stack.pop())


def _after_in_child() -> None:
    try:
        if _active:
            signal.set_wakeup_fd(-1)
        for guard in _active:
            guard.strip()
        _active.clear()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.stack.pop())


def _descriptors() -> list[int]:
    for folder in _DESCRIPTOR_FOLDERS:
        try:
            return [int(name) for name in os.listdir(folder)]
        except OSError:
            continue  # not here
    return list(range(os.sysconf("SC_OPEN_MAX")))


def _name_of(fd: int) -> Any:
    """The address of a socket's own end; None for what is no socket."""
    try:
        # the family given here does not matter: getsockname() returns the real one
        looked_at = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    except OSError:
        return None
    try:
        return looked_at.getsockname()
    except OSError:
        return None
    finally:
        looked_at.detach()


def _key(address: Any) -> Any:
    """What an accepted socket's own address has in common with its listener's."""
    if isinstance(address, tuple):
        return address[1]  # the port; the host may be a wildcard's
    return os.fsencode(address) if address else None


def _disable(fds: list[int]) -> None:
    """Close sockets, and keep their numbers taken: objects of this process still know them, and
    would close what is opened next.
    """
    if not fds:
        return
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError:  # none is left: one of these makes room
        os.close(fds[0])
        null = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        if fd != null:
            os.dup2(null, fd, inheritable=False)
    if null not in fds:
        os.close(null)
