"""The supervisor's view of a fork server and of the workers that were forked from it."""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import Any

from asgi_poller.errors import StartupError
from asgi_poller.ipc.control import Control, Message, encoded
from asgi_poller.supervisor.spawn import Process, described_exit

_log = logging.getLogger("asgi_poller.error")
_EXIT_UNKNOWN = -9  # SIGKILL: no process is left that could have waited for it


class ForkedProcess:
    """A child of the fork server. `exit_code` is set by its launcher."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._is_orphan = False  # the fork server has died: no process will wait for it
        self._has_hung_up = False

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if not self.exit_code.done():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def hung_up(self) -> None:
        """Its control socket is closed: it has ended, or is about to."""
        self._has_hung_up = True
        self._presume()

    def orphaned(self) -> None:
        """The fork server has died."""
        self._is_orphan = True
        self._presume()

    def ended(self, code: int) -> None:
        """It was waited for."""
        if not self.exit_code.done():
            self.exit_code.set_result(code)

    def _presume(self) -> None:
        """Set the exit code where no process is left to wait for it. It has closed its sockets, so
        it runs no more code; SIGKILL makes sure of that.
        """
        if self._is_orphan and self._has_hung_up:
            self.send_signal(signal.SIGKILL)
            self.ended(_EXIT_UNKNOWN)


class ForkLauncher:
    """One fork server. Owned by the supervisor's main thread.

    `control` is our end of its control socket, over which its specification has been sent,
    `process` the fork server itself. After `close` it ends with the last of its workers.
    """

    def __init__(self, control: socket.socket, process: Process | None) -> None:
        self._process = process
        self._socket = control
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[Message] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._children: dict[int, ForkedProcess] = {}
        self._is_closing = False
        self._control = Control(control, on_message=self._on_message, on_end=self._on_end)

    @property
    def is_gone(self) -> bool:
        """Whether it cannot fork any more."""
        return self._is_closing

    async def loaded(self, timeout_s: float) -> None:
        """Wait until the application is loaded. Raises StartupError."""
        try:
            await asyncio.wait_for(asyncio.shield(self._loaded), timeout_s)
        except TimeoutError:
            self.kill()
            raise StartupError(
                f"the application was not loaded within {timeout_s:g} s (--timeout-worker-startup)"
            ) from None

    async def launch(self, end: socket.socket) -> Process:
        """See Launcher."""
        async with self._one_at_a_time:
            self._answer = asyncio.get_running_loop().create_future()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))]
            # a few bytes, and nothing else is under way: they fit
            self._socket.sendmsg([encoded("fork")], rights)
            answer = await self._answer
        match answer:
            case {"kind": "forked", "pid": int(pid)}:
                child = self._children[pid] = ForkedProcess(pid)
                return child
            case _:
                raise OSError(str(answer.get("problem", "the fork server has died")))

    def close(self) -> None:
        """See Launcher."""
        self._is_closing = True
        self._close_if_idle()

    def kill(self) -> None:
        """End the fork server by force; its workers live on, and no process waits for them."""
        self._is_closing = True
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
        self._control.close()
        self._on_end()

    def _on_message(self, message: Message) -> None:
        match message:
            case {"kind": "loaded"}:
                if not self._loaded.done():
                    self._loaded.set_result(None)
            case {"kind": "failed", "problem": str(problem)}:
                self._fail(problem)
            case {"kind": "ended", "pid": int(pid), "code": int(code)}:
                child = self._children.pop(pid, None)
                if child is not None:
                    child.ended(code)
                self._close_if_idle()
            case _:
                self._settle_answer(message)

    def _on_end(self) -> None:
        """The fork server has died, and no other process can wait for its children."""
        if self._process is not None and self._process.exit_code.done():
            self._fail(f"the fork server {described_exit(self._process.exit_code.result())}")
        self._fail("the fork server died while it loaded the application")
        self._settle_answer({"kind": "died", "problem": "the fork server has died"})
        for child in self._children.values():
            child.orphaned()
        if not self._is_closing:
            _log.error("The fork server has died; its workers live on until they are replaced.")
            self._is_closing = True

    def _fail(self, problem: str) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(StartupError(problem))

    def _settle_answer(self, message: Any) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    def _close_if_idle(self) -> None:
        if self._is_closing and not self._children:
            self._control.close()
