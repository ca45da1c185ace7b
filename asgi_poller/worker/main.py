"""The start of every child process: it receives its specification and becomes what that says."""

from __future__ import annotations

import os
import socket

from asgi_poller.config import Config
from asgi_poller.ipc.bootstrap import ForkServerSpec, WorkerSpec, receive_bootstrap
from asgi_poller.logs import configure_logging, let_go_of_stalled_outputs
from asgi_poller.system.signals import leave_signals
from asgi_poller.worker.fork_server import ForkServer
from asgi_poller.worker.parent_watchdog import EXIT_ORPHANED
from asgi_poller.worker.worker import Worker


def main(fd: int) -> int:
    """Live as the process that holds the control socket `fd`; the exit code."""
    try:
        return _live(fd)
    finally:
        let_go_of_stalled_outputs()


def _live(fd: int) -> int:
    leave_signals()
    os.set_inheritable(fd, False)
    control = socket.socket(fileno=fd)
    try:
        spec, fds = receive_bootstrap(control)
    except (EOFError, OSError):
        return EXIT_ORPHANED  # the supervisor has ended already
    spec.origin.apply()
    if isinstance(spec, ForkServerSpec):
        configure_logging(spec.config)
        return run_fork_server(control, spec.config)
    assert isinstance(spec, WorkerSpec)
    assert spec.config is not None  # forked workers come from `run_fork_server`
    configure_logging(spec.config)
    return Worker(spec, spec.config, control, fds).run()


def run_fork_server(control: socket.socket, config: Config) -> int:
    """Be a fork server; in each process that it forks, be a worker. The exit code of either."""
    server = ForkServer(control, config)
    end = server.serve()
    if end is None:
        return 0
    try:
        spec, fds = receive_bootstrap(end)
    except (EOFError, OSError):
        return EXIT_ORPHANED
    assert isinstance(spec, WorkerSpec)
    return Worker(spec, config, end, fds, application=server.application, tls=server.tls).run()
