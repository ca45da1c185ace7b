"""Whether a process of a kind lives, asked among processes that are not its parents.

A record lock of a file that all of them have open: one process holds it, and the kernel takes it
back when that process ends, however it ends. Source: fcntl(2), "Advisory record locking".
"""

from __future__ import annotations

import fcntl

from asgi_poller import platform


class LifeLock:
    """One of the locks of a file, by its `number`. Not for two threads of a process: to the
    kernel they are the same holder.
    """

    __slots__ = ("_number", "fd")

    def __init__(self, fd: int, number: int) -> None:
        self.fd = fd
        self._number = number

    def take(self) -> bool:
        """Hold it until this process ends or gives it back; False: another process holds it."""
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._number)
        except OSError:
            return False
        return True

    def give_back(self) -> None:
        """Another process may take it. This process must not close any descriptor of the file as
        long as it holds a lock: that would give all of them back.
        """
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, self._number)


def lock_file() -> int:
    """A descriptor of a new file for locks; in memory where that can be, so that no folder need be
    writable. Raises OSError.
    """
    return platform.shared_memory("asgi-poller-locks", 1)
