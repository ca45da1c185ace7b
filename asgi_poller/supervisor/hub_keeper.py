"""The hub of topics as the workers' parent sees it: started when it is first needed, and again
when it dies.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import Final

from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.ipc.bootstrap import HubSpec, packed, send_bootstrap
from asgi_poller.ipc.control import Control, Message
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.supervisor.backoff import Backoff
from asgi_poller.supervisor.spawn import HUB, Process, SpawnLauncher, described_exit
from asgi_poller.topics.mail_slot import Mailbox

_log = logging.getLogger("asgi_poller.error")

# Questions that a hub has left unanswered after --timeout-worker-heartbeat. They are counted, since
# time in which this process did not run itself is not the fault of the hub.
_QUESTIONS: Final = 10
# Unit: seconds. For a hub that has been told to end; then it is killed.
_END_S: Final = 5.0
# Unit: seconds. A hub that was sent SIGTERM is replaced if the server is not stopping by then: a
# service manager sends it to all processes at once, and a worker that drains still needs the hub.
_SETTLE_S: Final = 0.5


class HubKeeper:
    """Owned by the main thread of the workers' parent, made on its loop. `mailbox` is for the
    workers. Nothing runs until one of them sends a link's end through it.
    """

    def __init__(
        self, config: Config, *, nice: int, events: EventLog, backoff: Backoff | None = None
    ) -> None:
        self.mailbox = Mailbox()
        self._config = config
        self._nice = nice
        self._events = events
        self._backoff = backoff or Backoff()
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._control: Control | None = None
        self._is_stopping = False  # workers drain
        self._is_over = False  # they have ended
        self._is_asked = False  # the hub alone was sent SIGTERM, and ends
        self._is_ready = asyncio.Event()
        self._unanswered = 0
        self._task = self._loop.create_task(self._keep())

    @property
    def pid(self) -> int:
        """Its process id; 0: none runs."""
        return 0 if self._process is None else self._process.pid

    def stopping(self) -> None:
        """The server stops: from now on SIGTERM does not end the hub, since workers drain."""
        self._is_stopping = True

    def reopen_logs(self) -> None:
        """SIGUSR1 for it."""
        if self._control is not None:
            self._control.send("reopen_logs")

    async def end(self) -> None:
        """The workers have ended: end the hub, and wait for that."""
        self._is_over = True
        if self._control is None:
            self._task.cancel()  # it waits, or starts one
        else:
            self._control.send("end")
        done, _ = await asyncio.wait({self._task}, timeout=_END_S)
        if not done:
            _log.error("Topic hub [%d] does not end: killing it.", self.pid)
            self._task.cancel()
            await asyncio.wait({self._task})
        self.mailbox.close()

    # Inside

    async def _keep(self) -> None:
        """Have a hub, from when one is first wanted."""
        await self._wanted()
        while not self._is_over:
            await asyncio.sleep(self._backoff.delay_s)
            try:
                await self._live()
            except (OSError, OperatorFault) as problem:
                self._backoff.failed(self._loop.time())
                again = f"; trying again{self._backoff.shown_delay}"
                _log.error("The topic hub cannot start: %s%s", problem, again)
                self._events.note("failed", detail=f"topic hub: {problem}")

    async def _wanted(self) -> None:
        """Until a loop has sent an end through the mailbox."""
        wanted = asyncio.Event()
        fd = self.mailbox.hub_end.fileno()
        self._loop.add_reader(fd, wanted.set)
        try:
            await wanted.wait()
        finally:
            self._loop.remove_reader(fd)

    async def _live(self) -> None:
        """One hub, from its start to its end. Raises OSError and ConfigError."""
        packed_spec = packed(HubSpec.of(self._config, nice=self._nice, has_parent=True))
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = await SpawnLauncher(HUB).launch(theirs)
            begun_s = self._loop.time()
            self._is_ready.clear()
            self._unanswered = 0
            watching = asyncio.ensure_future(self._watch(process))
            try:
                await send_bootstrap(ours, packed_spec, [self.mailbox.hub_end.fileno()])
                self._process, self._is_asked = process, False
                self._control = Control(ours, on_message=self._on_message, on_end=_nothing)
                self._events.note("started", pid=process.pid, detail="topic hub")
                code = await asyncio.shield(process.exit_code)
            finally:
                watching.cancel()
                self._process = None
                if self._control is not None:
                    self._control.close()
                    self._control = None
                if not process.exit_code.done():
                    process.send_signal(signal.SIGKILL)
                    await process.exit_code
        self._on_ended(process.pid, code, self._loop.time() - begun_s)

    def _on_ended(self, pid: int, code: int, age_s: float) -> None:
        if self._is_over:
            self._events.note("ended", pid=pid, detail=f"topic hub: it {described_exit(code)}")
            return
        if self._is_asked:
            self._events.note("ended", pid=pid, detail="topic hub: it was asked to end")
            return  # the line was written when it was told
        self._events.note("crashed", pid=pid, detail=f"topic hub: it {described_exit(code)}")
        self._backoff.failed(self._loop.time(), age_s)
        again = f"; starting another{self._backoff.shown_delay}"
        _log.error("Topic hub [%d] %s%s", pid, described_exit(code), again)

    async def _watch(self, process: Process) -> None:
        """End a hub that is not ready in time, or has stopped to answer: publishers wait for it."""
        limit_s = self._config.timeout_worker_startup
        try:
            await asyncio.wait_for(self._is_ready.wait(), limit_s)
        except TimeoutError:
            problem = f"was not ready within {limit_s:g} s (--timeout-worker-startup)"
        else:
            limit_s = self._config.timeout_worker_heartbeat
            if not limit_s:
                return
            while self._unanswered < _QUESTIONS:
                await asyncio.sleep(limit_s / _QUESTIONS)
                self._unanswered += 1
                if self._control is not None:
                    self._control.send("ask")
            problem = f"has not answered for {limit_s:g} s (--timeout-worker-heartbeat)"
        _log.error("Topic hub [%d] %s; killing it", process.pid, problem)
        process.send_signal(signal.SIGKILL)

    def _on_message(self, message: Message) -> None:
        match message["kind"]:
            case "answer":
                self._is_ready.set()
                self._unanswered = 0
            case "leaving":
                self._loop.call_later(_SETTLE_S, self._let_leave, self.pid)

    def _let_leave(self, pid: int) -> None:
        if self.pid == pid and self._control is not None and not self._is_stopping:
            _log.info("Topic hub [%d] was asked to end; starting another", pid)
            self._is_asked = True
            self._control.send("end")


def _nothing() -> None:
    """It has ended, or is about to: its exit code says so."""
