"""The process of the hub of topics, from its first line to its last: it joins the loops of all
workers, and runs no application code.

It ends when all who can send to its mailbox have ended, its parent and all workers: so a worker
that drains, or has lost its supervisor, still has it. Its parent may end it sooner (`end`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import Final, NoReturn

from asgi_poller import platform
from asgi_poller.errors import OperatorFault
from asgi_poller.ipc.bootstrap import HubSpec, receive_bootstrap
from asgi_poller.ipc.control import Control, Message
from asgi_poller.ipc.life_lock import LifeLock
from asgi_poller.logs import (
    ERROR_LOGGER,
    background_writing,
    configure_logging,
    log_with_pid,
    reopen_log_files,
)
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.serve.runner import end_process_now, run_loop, settle_garbage
from asgi_poller.system.signals import leave_signals
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.hub_server import HubServer
from asgi_poller.topics.upstreams import upstream_of
from asgi_poller.worker.parent_watchdog import EXIT_ORPHANED

#: The number of the lock that a hub without a parent holds while it lives.
LIFE: Final = 0
# Unit: seconds beyond what workers have to drain, until the hub of an orphaned server ends in any
# case: a program that the application started may hold the mailbox.
_ORPHAN_MARGIN_S: Final = 15.0


def main(fd: int) -> NoReturn:
    """Live as the process that holds the control socket `fd`. It ends without what Python does at
    an end: the server's stop waits for it.
    """
    try:
        code = _live(fd)
    except OperatorFault as fault:
        print(f"asgi-poller: error: topic hub: {fault}", file=sys.stderr)
        code = 1  # gunicorn as process 1 would take 3 and 4 for a worker that cannot start
    end_process_now(code)


def _live(fd: int) -> int:
    leave_signals()
    os.set_inheritable(fd, False)
    control = socket.socket(fileno=fd)
    try:
        spec, fds = receive_bootstrap(control)
    except (EOFError, OSError):
        return EXIT_ORPHANED  # its parent has ended already
    assert isinstance(spec, HubSpec)
    spec.origin.apply()
    configure_logging(spec.config)
    if not spec.has_parent:  # who started it says that; the log is of another program
        logging.getLogger(ERROR_LOGGER).setLevel(logging.WARNING)
    platform.name_process("hub")
    if spec.nice:
        os.nice(spec.nice)
    platform.raise_descriptor_limit()
    mailbox, *locks = fds
    if locks and not LifeLock(locks[0], LIFE).take():
        return 0  # another one was quicker
    process = HubProcess(spec, control, socket.socket(fileno=mailbox))
    with background_writing():
        run_loop(process.serve(), loop_factory(spec.config.loop))
    return 0


class HubProcess:
    """Lives on the loop of its process's main thread; it owns both sockets."""

    def __init__(self, spec: HubSpec, control: socket.socket, mailbox: socket.socket) -> None:
        self._spec = spec
        self._socket = control
        self._mailbox = mailbox
        self._ended = asyncio.Event()
        self._control: Control | None = None

    async def serve(self) -> None:
        """Join loops until nobody is left, or the parent wants no more."""
        loop = asyncio.get_running_loop()
        if self._spec.has_parent:
            self._control = Control(
                self._socket, on_message=self._on_message, on_end=self._on_orphaned
            )
            self._control.send("answer")  # it is ready
        else:
            self._socket.close()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        log_with_pid("Started topic hub [%d]", os.getpid())
        settle_garbage()
        config = self._spec.config
        server = HubServer(HistoryRules.parsed(config.topics_history), upstream_of(config))
        with self._mailbox:
            await server.serve(self._mailbox, self._ended)
        log_with_pid("Finished topic hub [%d]", os.getpid())

    def _on_message(self, message: Message) -> None:
        match message["kind"]:
            case "end":
                self._ended.set()
            case "ask":
                assert self._control is not None  # what it came by
                self._control.send("answer")
            case "reopen_logs":
                reopen_log_files()

    def _on_orphaned(self) -> None:
        """The parent has ended; the workers notice that too, and drain."""
        config = self._spec.config
        limit_s = config.timeout_graceful_shutdown + config.drain_spread + _ORPHAN_MARGIN_S
        asyncio.get_running_loop().call_later(limit_s, self._ended.set)

    def _on_sigterm(self) -> None:
        """A service manager may send it to all processes of the server at once: the parent knows
        whether workers are still to be served.
        """
        if self._control is None:
            self._ended.set()
        else:
            self._control.send("leaving")
