"""Child processes: how they are started, waited for and signalled.

A worker is the supervisor's own child if it was started afresh (`SpawnLauncher`), and the fork
server's if it was forked (`ForkLauncher` in `preload.py`). The rest of the supervisor sees a
`Process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing.spawn
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Protocol

from asgi_poller.system.signals import interrupt_blocked

#: What processes run: a worker or a fork server, and the hub of topics.
WORKER = "asgi_poller.worker.main"
HUB = "asgi_poller.worker.hub_process"
# The directory that this package is in.
_HOME = str(Path(__file__).parents[2])


class Process(Protocol):
    """A child or a grandchild."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def exit_code(self) -> asyncio.Future[int]:
        """How it ended, once it has and was waited for: its exit code, or -N for signal N."""

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""

    def hung_up(self) -> None:
        """Its control socket is closed: it has ended, or is about to."""


class Launcher(Protocol):
    """Starts processes."""

    @property
    def is_gone(self) -> bool:
        """Whether it cannot start any more: another one is needed."""

    async def launch(self, end: socket.socket) -> Process:
        """Start a process that holds `end` of a control socket; the caller closes its own copy.

        Raises OSError if the system cannot.
        """

    def close(self) -> None:
        """Start no more. Those that run are not ended. Idempotent."""


def described_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"


class SpawnLauncher:
    """Starts a fresh interpreter for each process. Owned by the supervisor's main thread. `module`
    has the `main` that it runs.
    """

    is_gone = False

    def __init__(self, module: str = WORKER) -> None:
        self._module = module

    async def launch(self, end: socket.socket) -> Process:
        """See Launcher."""
        return SpawnedProcess(end, self._module)

    def close(self) -> None:
        """Nothing is held."""


class SpawnedProcess:
    """A child of this process, running the `main` of `module`. Made on the running loop."""

    def __init__(self, end: socket.socket, module: str = WORKER) -> None:
        self._loop = asyncio.get_running_loop()
        self.exit_code: asyncio.Future[int] = self._loop.create_future()
        with interrupt_blocked():
            self._popen = start_interpreter(module, end)
        self._watch()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        self._popen.send_signal(number)  # looks first: the number could be another's by now

    def hung_up(self) -> None:
        """It will be waited for."""

    def _watch(self) -> None:
        if hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(self.pid)
            except OSError:
                pass  # an old kernel, or no descriptor left: a thread will do
            else:
                self._loop.add_reader(fd, self._ended, fd)
                return
        threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True).start()

    def _ended(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        self._settle(self._popen.wait())

    def _wait(self) -> None:
        code = self._popen.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the supervisor
            self._loop.call_soon_threadsafe(self._settle, code)

    def _settle(self, code: int) -> None:
        if not self.exit_code.done():
            self.exit_code.set_result(code)


def start_interpreter(module: str, end: socket.socket) -> subprocess.Popen[bytes]:
    """Run the `main` of a module of ours with one descriptor. Raises OSError."""
    return subprocess.Popen(_command(module, end.fileno()), pass_fds=(end.fileno(),))


def _command(module: str, fd: int) -> list[str]:
    """The command of a fresh interpreter with this one's flags.

    -P, so that nothing in the current directory can stand in for the standard library: the paths
    that the application needs come with the specification.
    """
    program = (
        f"import sys; sys.path.append({_HOME!r}); from {module} import main; sys.exit(main({fd}))"
    )
    executable = os.fsdecode(multiprocessing.spawn.get_executable())
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does; missing in typeshed
    return [executable, *flags, "-P", "-c", program]
