"""A worker as the supervisor sees it: its process, control socket, lanes and heartbeat.

Its states, and what moves them:

    event      in STARTING    in SERVING    in DRAINING   in ENDED
    ready      SERVING        -             DRAINING      -
    drain      DRAINING       DRAINING      DRAINING      ENDED
    ended      ENDED          ENDED         ENDED         -
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from asgi_poller.errors import StartupError
from asgi_poller.handoff.connection_table import ConnectionTable
from asgi_poller.handoff.metric_rows import MetricRows
from asgi_poller.handoff.process_lane import ProcessLane
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.ipc.bootstrap import WorkerSpec, packed, send_bootstrap
from asgi_poller.ipc.control import Control, Message
from asgi_poller.ipc.heartbeat import Pulse
from asgi_poller.ipc.stack_dump import STACK_SIGNAL, StackPipe, stack_of
from asgi_poller.loops.drain_counts import Drained, Left
from asgi_poller.supervisor.spawn import Launcher, Process, described_exit
from asgi_poller.topics.mail_slot import Mailbox

_log = logging.getLogger("asgi_poller.error")

# Unit: seconds beyond what a worker was given to drain, for its application's shutdown and its
# interpreter's; then it is killed. And for one that has closed its control socket, to end.
_END_MARGIN_S = 5.0


class State(Enum):
    """What a worker does."""

    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()
    ENDED = auto()


_TABLE: dict[tuple[State, str], State] = {
    (State.STARTING, "ready"): State.SERVING,
    (State.STARTING, "drain"): State.DRAINING,
    (State.STARTING, "ended"): State.ENDED,
    (State.SERVING, "drain"): State.DRAINING,
    (State.SERVING, "ended"): State.ENDED,
    (State.DRAINING, "ready"): State.DRAINING,  # the order was on its way to it
    (State.DRAINING, "drain"): State.DRAINING,
    (State.DRAINING, "ended"): State.ENDED,
    (State.ENDED, "drain"): State.ENDED,
}


class WorkerFailed(StartupError):
    """A worker did not get as far as serving. `exit_code` is what the server should end with."""

    def __init__(self, problem: str, exit_code: int) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Called with the worker: it was sent SIGTERM; it has reached --limit-max-requests."""

    leaving: Callable[[WorkerHandle], object]
    limit_reached: Callable[[WorkerHandle], object]


class WorkerHandle:
    """Owned by the supervisor's main thread, made on its loop. Seconds are the loop's.

    The order of a life: `start`, `wait_ready`, `drain` or `kill`, and `ended` is done at last; the
    owner then calls `PollerHost.worker_died`.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        lanes: list[ProcessLane],
        counters: Counters,
        *,
        table: ConnectionTable | None = None,
        metric_rows: MetricRows | None = None,
        mailbox: Mailbox,
        heartbeat_limit_s: float,
        callbacks: Callbacks,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.number = spec.number
        self.lanes = lanes
        self.state = State.STARTING
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self.ready_at: float | None = None
        self._spec = spec
        self._counters = counters
        # what it is given besides, by descriptor, in this order
        self._shared = [each for each in (table, metric_rows) if each is not None]
        self._mailbox = mailbox
        self._heartbeat_limit_s = heartbeat_limit_s
        self._callbacks = callbacks
        self._stacks = StackPipe()
        self._threads: list[int] = []
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._failure: WorkerFailed | None = None
        self._process: Process | None = None
        self._control: Control | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self.pulse: Pulse | None = None
        self.drained: Drained | None = None  # what it says of its connections' end

    @property
    def rows(self) -> tuple[int, ...]:
        """Its loops' rows, of counters and metrics."""
        return self._spec.rows

    @property
    def pid(self) -> int:
        """Its process id; 0 before it has one."""
        return 0 if self._process is None else self._process.pid

    @property
    def name(self) -> str:
        """Its name in the log."""
        return f"Worker {self.number} [{self.pid}]"

    @property
    def age_s(self) -> float:
        """Seconds that it has been serving; 0 if it never was."""
        return 0.0 if self.ready_at is None else self._loop.time() - self.ready_at

    async def start(self, launcher: Launcher) -> None:
        """Start the process and send it its specification. Raises WorkerFailed, ConfigError; then
        it has ended, or is about to.
        """
        ours: socket.socket | None = None
        try:
            packed_spec = packed(self._spec)
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = await launcher.launch(theirs)
            self._process.exit_code.add_done_callback(self._on_process_ended)
            ends = [lane.worker_end.fileno() for lane in self.lanes]
            shared = [each.fd for each in self._shared]
            mailbox = self._mailbox.loops_end.fileno()
            fds = [self._counters.fd, self._stacks.worker_end, mailbox, *ends, *shared]
            await send_bootstrap(ours, packed_spec, fds)
            self._control = Control(ours, on_message=self._on_message, on_end=self._on_hung_up)
        except BaseException as error:  # raised again, as a fault if it is one; nothing is left
            if ours is not None:
                ours.close()
            self.kill()
            if self._process is None:
                self._end(0)
            if isinstance(error, OSError):
                raise self._failed(f"it could not be started: {error}") from error
            raise
        self._stacks.close_worker_end()
        for lane in self.lanes:
            lane.name = self.name

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it serves. Raises WorkerFailed if it fails, ends or takes longer."""
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), timeout_s)
        except TimeoutError:
            raise WorkerFailed(
                f"{self.name} was not ready within {timeout_s:g} s (--timeout-worker-startup)",
                StartupError.exit_code,
            ) from None

    def drain(self, timeout_s: float, spread_s: float = 0.0, *, adopt: bool = False) -> None:
        """Let it end: seconds as for `LoopServer.drain`, `adopt` as for `worker.Drain`. It is
        killed if that takes much longer. A second call replaces the first.
        """
        self._enter("drain")
        if self.state is State.ENDED:
            return
        if self._control is not None:
            self._control.send("drain", timeout_s=timeout_s, spread_s=spread_s, adopt=adopt)
        self._kill_in(timeout_s + spread_s + _END_MARGIN_S)

    def reopen_logs(self) -> None:
        """SIGUSR1 for it."""
        if self._control is not None:
            self._control.send("reopen_logs")

    def kill(self) -> None:
        """End it by force."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)

    async def blocked_stack(self) -> str:
        """The stack of the thread whose loop is blocked; empty if there is no answer."""
        if self._process is None or self.pulse is None:
            return ""
        self._process.send_signal(STACK_SIGNAL)
        dump = await self._stacks.read()
        return stack_of(self._threads[self.pulse.silent_index], dump) if dump else ""

    # Events

    def _on_message(self, message: Message) -> None:
        match message:
            case {"kind": "ready", "threads": [*threads]} if len(threads) == len(self.lanes):
                self._threads = [int(thread) for thread in threads]
                self._on_ready()
            case {"kind": "failed", "problem": str(problem), "exit_code": int(exit_code)}:
                self._failure = WorkerFailed(problem, exit_code)
            case {"kind": "leaving"}:
                self._callbacks.leaving(self)
            case {"kind": "limit"}:
                self._callbacks.limit_reached(self)
            case {"kind": "drained", **numbers}:
                self.drained = _drained(numbers)
            case _:
                _log.error("%s sent an unknown message: %.200r", self.name, message)

    def _on_ready(self) -> None:
        now = self._loop.time()
        self.ready_at = now
        rows = [self._counters.row(row) for row in self._spec.rows]
        self.pulse = Pulse(rows, self._heartbeat_limit_s, now)
        self._enter("ready")
        if not self._ready.done():
            self._ready.set_result(None)

    def _on_hung_up(self) -> None:
        if self._process is not None:
            self._process.hung_up()
            self._kill_in(_END_MARGIN_S)

    def _on_process_ended(self, exit_code: asyncio.Future[int]) -> None:
        self._end(exit_code.result())

    def _end(self, code: int) -> None:
        self._enter("ended")
        if self._control is not None:
            self._control.read_now()  # its last messages say why it failed
            self._control.close()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._stacks.close()
        if not self._ready.done():
            self._ready.set_exception(
                self._failure or self._failed(f"it {described_exit(code)} before it was ready")
            )
            self._ready.exception()  # taken, in case no task waits for it
        self.ended.set_result(code)

    def _failed(self, problem: str) -> WorkerFailed:
        return WorkerFailed(f"worker {self.number}: {problem}", StartupError.exit_code)

    def _enter(self, event: str) -> None:
        self.state = _TABLE[self.state, event]

    def _kill_in(self, seconds: float) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = self._loop.call_later(seconds, self._kill_late)

    def _kill_late(self) -> None:
        if self.state is not State.ENDED:
            _log.error("%s does not end: killing it.", self.name)
            self.kill()


def _drained(numbers: dict[str, Any]) -> Drained | None:
    """A worker's report; None if it makes no sense."""
    try:
        return Drained(
            Left(**{name: int(count) for name, count in numbers["began_with"].items()}),
            int(numbers["handshakes"]),
            Left(**{name: int(count) for name, count in numbers["cut_off"].items()}),
            float(numbers["took_s"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
