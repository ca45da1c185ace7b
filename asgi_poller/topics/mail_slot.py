"""The mailbox of the hub as processes hold it: the parent both ends, a worker the loops' one.

`mailbox.py` says what goes through it.
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Iterable

from asgi_poller.topics.mailbox import through


class Mailbox:
    """Both ends. The parent of the loops makes it and keeps both: they outlive every hub. What is
    readable at the hub's end says that a hub is wanted.
    """

    __slots__ = ("hub_end", "loops_end")

    def __init__(self) -> None:
        # a stream: on every system its end is seen, and a letter with a descriptor is read alone
        self.hub_end, self.loops_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (self.hub_end, self.loops_end):
            end.setblocking(False)

    def close(self) -> None:
        """No hub will run any more. Idempotent."""
        self.hub_end.close()
        self.loops_end.close()


class MailSlot:
    """The loops' end, in a process that has it. Any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._connect = through(end)
        self._links: list[weakref.ref[socket.socket]] = []
        self._lock = threading.Lock()

    def connect(self) -> socket.socket:
        """Our end of a new link; the hub gets the other when it runs. Raises OSError."""
        ours = self._connect()
        with self._lock:
            others = [each for each in self._links if each() is not None]
            self._links = [*others, weakref.ref(ours)]
        return ours

    def descriptors(self) -> Iterable[int]:
        """What a process must not have that the application forks: it would keep links open whose
        worker has ended. Negative numbers are closed already.
        """
        links = [link() for link in self._links]
        return [end.fileno() for end in (self._end, *links) if end is not None]
