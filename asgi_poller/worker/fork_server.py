"""The fork server (`--preload`): loads the application once and forks workers from itself.

A fork copies one thread; a lock that another one holds at that instant stays locked in the copy for
ever. So it is not the supervisor that forks, with its pollers, but a process of its own that never
starts a thread. Since it is itself replaced at a rolling restart, workers get new code then.

    supervisor to fork server    fork, with one end of a control socket beside it
    fork server to supervisor    loaded | failed(problem, exit_code), once
                                 forked(pid) | not_forked(problem), the answer to `fork`
                                 ended(pid, code): one of its children was waited for
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import threading
from typing import Any

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.importer import load_application
from asgi_poller.ipc.bootstrap import receive_fds
from asgi_poller.ipc.control import Lines, Message, encoded
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.privileges import become, resolve
from asgi_poller.tls import TlsContext, context_of

_log = logging.getLogger("asgi_poller.error")

_READ_BYTES = 65536


class ForkServer:
    """Owned by the main thread of its process, the only one. `control` is its socket."""

    def __init__(self, control: socket.socket, config: Config) -> None:
        self._control = control
        self._config = config
        self._lines = Lines()
        self._children: set[int] = set()
        self.application: Any = None
        self.tls: TlsContext | None = None

    def serve(self) -> socket.socket | None:
        """Load, and fork until the supervisor hangs up; then None.

        In each child it returns the control socket of the worker that this process is to become.
        """
        try:
            self._load()
        except OperatorFault as fault:
            self._send("failed", problem=str(fault), exit_code=fault.exit_code)
            return None
        self._send("loaded")
        reader, writer = socket.socketpair()
        with reader, writer:
            for end in (reader, writer):
                end.setblocking(False)
            signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, _noticed)
            return self._listen(reader)

    def _load(self) -> None:
        config = self._config
        platform.name_process("fork server")
        loop_factory(config.loop)  # imports what a loop needs, once for all
        self.tls = context_of(config)  # while we may still read the key
        become(config, resolve(config.user, config.group))
        self.application = load_application(config)
        if threading.active_count() > 1:
            names = sorted(thread.name for thread in threading.enumerate()[1:])
            _log.warning(
                "--preload: the application has started threads while it was imported (%s);"
                " workers will not have them. Start them in the lifespan.",
                ", ".join(names),
            )
        gc.collect()
        gc.freeze()  # what is shared stays shared: the collector writes into what it visits

    def _listen(self, reader: socket.socket) -> socket.socket | None:
        while True:
            ready, _, _ = select.select([self._control, reader], [], [])
            if reader in ready:
                reader.recv(_READ_BYTES)
                self._reap()
            if self._control in ready:
                data, fds = receive_fds(self._control, _READ_BYTES, 1)
                if not data:
                    return None
                for message in self._lines.feed(data):
                    end = self._handle(message, fds)
                    if end is not None:
                        return end

    def _handle(self, message: Message, fds: list[int]) -> socket.socket | None:
        if message["kind"] != "fork" or not fds:
            _log.error("Unknown message from the supervisor: %r", message)
            return None
        fd = fds.pop()
        try:
            pid = os.fork()
        except OSError as error:
            self._send("not_forked", problem=str(error))
        else:
            if pid == 0:
                return self._become_child(fd)
            self._children.add(pid)
            self._send("forked", pid=pid)
        os.close(fd)
        return None

    def _become_child(self, fd: int) -> socket.socket:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        end = socket.socket(fileno=fd)
        end.set_inheritable(False)
        return end

    def _reap(self) -> None:
        """Wait for children of ours that have ended; what the application started is its own."""
        for pid in list(self._children):
            waited, status = os.waitpid(pid, os.WNOHANG)
            if waited:
                self._children.discard(pid)
                self._send("ended", pid=pid, code=os.waitstatus_to_exitcode(status))

    def _send(self, kind: str, **fields: Any) -> None:
        try:
            self._control.sendall(encoded(kind, **fields))
        except OSError:
            pass  # the supervisor has ended: the next read says so


def _noticed(number: int, frame: object) -> None:
    """SIGCHLD: the wake-up descriptor does the work, for which a handler must be there."""


def fork_from_here(control: socket.socket) -> bool:
    """Fork a process to be a fork server with an application that cannot be imported again.

    Only before this process has started a thread. True in the child, which keeps `control` alone.
    """
    platform.require_fork("--preload")
    if os.fork():
        return False
    platform.close_descriptors_but([control.fileno()])
    return True
