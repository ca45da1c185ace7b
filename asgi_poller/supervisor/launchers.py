"""What starts the workers of a supervisor: fresh interpreters, or a fork server (`--preload`)."""

from __future__ import annotations

import logging
import socket

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import StartupError
from asgi_poller.ipc.bootstrap import ForkServerSpec, Origin, packed, send_bootstrap
from asgi_poller.serve.runner import end_process_now
from asgi_poller.supervisor.preload import ForkLauncher
from asgi_poller.supervisor.spawn import Launcher, SpawnLauncher
from asgi_poller.system.signals import leave_signals
from asgi_poller.worker.fork_server import fork_from_here
from asgi_poller.worker.main import run_fork_server

_log = logging.getLogger("asgi_poller.error")


class Launchers:
    """Makes launchers. Owned by the supervisor's main thread.

    An application that is an object cannot be loaded a second time: its fork server is forked from
    this process, before it has threads, and there is only one. Any other fork server is a fresh
    interpreter, and every call of `make` gives a new one.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._forked: socket.socket | None = None  # to a fork server that was forked from here
        self._only: ForkLauncher | None = None

    def prepare(self) -> None:
        """Before anything else, while this process has one thread. Raises OperatorFault."""
        if self._config.preload:
            platform.require_fork("--preload")
            if not isinstance(self._config.app, str):
                self._forked = self._fork()

    async def make(self) -> Launcher:
        """A launcher that is ready. Raises StartupError if the application cannot be loaded."""
        config = self._config
        if not config.preload:
            return SpawnLauncher()
        launcher = await _spawn_fork_server(config) if self._forked is None else self._the_only()
        await launcher.loaded(config.timeout_worker_startup)
        return launcher

    def _the_only(self) -> ForkLauncher:
        if self._only is None:
            assert self._forked is not None
            self._only = ForkLauncher(self._forked, None)
        if self._only.is_gone:
            raise StartupError(
                "the fork server has died, and an application that is not given as text cannot be"
                " loaded again: restart the server"
            )
        return self._only

    def _fork(self) -> socket.socket:
        """Our end of its control socket. Raises StartupError; then nothing is left."""
        ours: socket.socket | None = None
        theirs: socket.socket | None = None
        try:
            ours, theirs = socket.socketpair()
            is_child = fork_from_here(theirs)
        except OSError as error:
            for end in filter(None, (ours, theirs)):
                end.close()
            raise StartupError(f"the fork server could not be started: {error}") from error
        if is_child:
            code = 1
            try:
                leave_signals()
                code = run_fork_server(theirs, self._config)
            except Exception:
                _log.exception("A forked process ends with an error")
            finally:
                # exit functions and `finally` blocks are those of the program that was forked
                end_process_now(code)
        theirs.close()
        return ours


async def _spawn_fork_server(config: Config) -> ForkLauncher:
    packed_spec = packed(ForkServerSpec(config=config, origin=Origin()))
    ours: socket.socket | None = None
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await SpawnLauncher().launch(theirs)
        await send_bootstrap(ours, packed_spec, [])
    except OSError as error:
        if ours is not None:
            ours.close()  # it ends, if it has begun
        raise StartupError(f"the fork server could not be started: {error}") from error
    return ForkLauncher(ours, process)
