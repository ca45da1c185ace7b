"""Ends a worker whose supervisor has died, even if its event loop is blocked."""

from __future__ import annotations

import os
import select
import socket
import threading

from asgi_poller import platform
from asgi_poller.logs import flush_log

EXIT_ORPHANED = 1


class ParentWatchdog:
    """A thread that sleeps until the supervisor's end of `control` is closed.

    The event loop sees that too, and drains. `limit_s` seconds later this thread ends the process
    in any case.
    """

    def __init__(self, control: socket.socket, limit_s: float) -> None:
        self._fd = os.dup(control.fileno())
        self._limit_s = limit_s
        self._thread = threading.Thread(target=self._watch, name="ParentWatchdog", daemon=True)

    def fileno(self) -> int:
        """Its own descriptor of the socket."""
        return self._fd

    def start(self) -> None:
        """Watch from now on, until the process ends."""
        self._thread.start()

    def _watch(self) -> None:
        platform.begin_service_thread()
        poller = select.poll()
        poller.register(self._fd, 0)  # POLLHUP alone, which is reported unasked
        poller.poll()
        threading.Event().wait(self._limit_s)
        flush_log()
        os._exit(EXIT_ORPHANED)
