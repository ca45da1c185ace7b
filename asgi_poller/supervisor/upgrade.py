"""Binary upgrade (SIGUSR2): a new supervisor takes the listeners over, then the old one drains.

The old one runs its own command again, which may be another version by now, with the listeners as
inherited descriptors and a description of them in the environment. The new one says so on a pipe
when all its workers serve; until then the old one serves, and if the new one fails the old
one goes on unchanged. Both accept for a moment, so no connection is refused or left waiting.

The new supervisor listens where the old one did, whatever its settings say: addresses change at a
restart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

from asgi_poller.errors import ListenError
from asgi_poller.listeners.listeners import Listener
from asgi_poller.listeners.unix_socket import SocketFile
from asgi_poller.loops.accepted_socket import ListenerInfo
from asgi_poller.supervisor.spawn import described_exit

_log = logging.getLogger("asgi_poller.error")

_VARIABLE = "_ASGI_POLLER_UPGRADE"  # the underscore keeps it apart from settings
_READY = b"r"


@dataclass(slots=True)
class Predecessor:
    """The supervisor whose listeners this one has taken over, and those of its `monitor`. Owned by
    the main thread.
    """

    pid: int
    listeners: list[Listener]
    monitor: list[Listener]
    _pipe: int

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Predecessor | None:
        """What the old supervisor left for this process, taken out of `environ`; None: nothing.

        Raises ListenError if it makes no sense.
        """
        text = environ.pop(_VARIABLE, None)
        if text is None:
            return None
        try:
            state = json.loads(text)
            if state["pid"] != os.getppid():
                return None  # for a process before us: it leaked through a shell perhaps
            listeners = [_taken_over(**entry) for entry in state["listeners"]]
            monitor = [_taken_over(**entry) for entry in state.get("monitor", ())]
            os.set_inheritable(state["pipe"], False)
            return cls(state["pid"], listeners, monitor, state["pipe"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ListenError(f"{_VARIABLE}: cannot take the listeners over: {error}") from error

    def ready(self) -> None:
        """All workers serve: the old supervisor may end."""
        try:
            os.write(self._pipe, _READY)
        except OSError:
            pass  # it has ended already
        os.close(self._pipe)


def _described(listener: Listener) -> dict[str, object]:
    file = listener.file
    return {
        "fd": listener.socket.fileno(),
        "info": listener.info[:3],  # its address is asked for again
        "url": listener.url,
        "option": listener.option,
        "file": None if file is None else [file.path, *file.identity],
    }


def _taken_over(
    *, fd: int, info: tuple[int, bool, list[object] | None], url: str, option: str, file: list[int]
) -> Listener:
    family, tls, server = info
    taken = socket.socket(fileno=fd)
    taken.set_inheritable(False)
    made = None
    if file is not None:
        path, device, inode = file
        made = SocketFile(str(path), (device, inode))
    address = None if server is None else (str(server[0]), server[1])
    found = ListenerInfo(family, tls, address, taken.getsockname())  # type: ignore[arg-type]  # JSON has no tuples; it is what `_described` wrote
    return Listener(taken, found, url, option, made)


class Upgrade:
    """One attempt at a time. Owned by the supervisor's main thread.

    `environ` is the environment that this supervisor was started with: the new one gets the same.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        # the watchdog, which watches the main process, will be the new one's
        self._environ = {k: text for k, text in environ.items() if k != "WATCHDOG_PID"}
        self._popen: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self.is_done = False

    def start(
        self,
        listeners: list[Listener],
        monitor: list[Listener],
        upgraded: Callable[[int], object],
    ) -> None:
        """Start a new supervisor, which takes over `listeners` and those of the `monitor`;
        `upgraded` is called with its process id once it serves.
        """
        if self._popen is not None:
            _log.warning("An upgrade is under way already: process %d", self._popen.pid)
            return
        self._pipe, theirs = os.pipe()
        state = {
            "pid": os.getpid(),
            "pipe": theirs,
            "listeners": [_described(listener) for listener in listeners],
            "monitor": [_described(listener) for listener in monitor],
        }
        fds = [theirs, *(listener.socket.fileno() for listener in (*listeners, *monitor))]
        try:
            self._popen = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env={**self._environ, _VARIABLE: json.dumps(state)},
                pass_fds=fds,
            )
        except OSError as error:
            _log.error("The upgrade failed: %s", error)
            self._close_pipe()
            return
        finally:
            os.close(theirs)
        _log.info("Started a new supervisor [%d]; it takes over once it serves", self._popen.pid)
        asyncio.get_running_loop().add_reader(self._pipe, self._on_answer, upgraded)

    def give_up(self) -> None:
        """This supervisor ends: so does the new one, unless it serves already. Idempotent."""
        if self._popen is not None and not self.is_done:
            self._popen.send_signal(signal.SIGTERM)
            self._close_pipe()

    def _on_answer(self, upgraded: Callable[[int], object]) -> None:
        """The new supervisor serves, or has closed the pipe without having served."""
        assert self._popen is not None
        answer = os.read(self._pipe, 1)
        self._close_pipe()
        if answer == _READY:
            self.is_done = True
            upgraded(self._popen.pid)
            return
        self._popen.send_signal(signal.SIGTERM)
        popen, self._popen = self._popen, None
        asyncio.ensure_future(self._report(popen))  # noqa: RUF006  # no task waits for it

    async def _report(self, popen: subprocess.Popen[bytes]) -> None:
        code = await asyncio.to_thread(popen.wait)
        _log.error(
            "The upgrade failed, this supervisor goes on: the new one %s", described_exit(code)
        )

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
