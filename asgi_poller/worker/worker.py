"""A worker process: event loops that get connections from the supervisor's pollers, by their lanes.

    new ──► starting ── ready ──► serving ── drain ──► draining ─► end
                └── failed ─────────────────────────────────────────┘

It drains when the supervisor sends `drain`, or when the supervisor has ended. After SIGTERM it asks
the supervisor, which gives its lanes nothing more and then sends `drain`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.handoff.connection_table import ConnectionTable
from asgi_poller.handoff.lane_receiver import LaneReceiver
from asgi_poller.handoff.metric_rows import MetricRows
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.importer import load_application
from asgi_poller.ipc.bootstrap import WorkerSpec
from asgi_poller.ipc.control import Control, Message
from asgi_poller.ipc.heartbeat import Heartbeat, beat_interval_s
from asgi_poller.ipc.stack_dump import write_stacks_to
from asgi_poller.logs import background_writing, log_with_pid, reopen_log_files
from asgi_poller.loops.drain_progress import say_end
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.serve.limits_wiring import SharedCounter
from asgi_poller.serve.loop_group import LoopGroup
from asgi_poller.serve.runner import run_loop, settle_garbage
from asgi_poller.system.fork_guard import ForkGuard
from asgi_poller.system.signals import SUPERVISOR_SIGNALS
from asgi_poller.tls import TlsContext, context_of
from asgi_poller.topics.hub_link import HubLink
from asgi_poller.topics.mail_slot import MailSlot
from asgi_poller.worker.parent_watchdog import ParentWatchdog

_log = logging.getLogger("asgi_poller.error")
T = TypeVar("T")

# Unit: seconds. SIGTERM was for this worker alone, and the supervisor does not answer.
_ANSWER_S = 2.0
# Unit: seconds beyond all that is limited anyway, until an orphan is ended by force.
_ORPHAN_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Drain:
    """An order to end: seconds as for `LoopServer.drain`. `adopt`: what waits in the lanes comes
    first, since no other worker will take it.
    """

    timeout_s: float
    spread_s: float = 0.0
    adopt: bool = False


class Worker:
    """Lives in the main thread of its process. `fds` are those that came with `spec`.

    `application` and `tls` are given to a forked worker; any other loads them.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        config: Config,
        control: socket.socket,
        fds: list[int],
        *,
        application: Any = None,
        tls: TlsContext | None = None,
    ) -> None:
        self._spec = spec
        self._config = config
        self._application = application
        self._tls = tls
        self._socket = control
        counters, stacks, mailbox, *lanes = fds
        self._mail_slot = MailSlot(socket.socket(fileno=mailbox))
        write_stacks_to(stacks)
        self._metric_rows = MetricRows.attach(lanes.pop()) if spec.has_metrics else None
        self._table = ConnectionTable.attach(lanes.pop()) if spec.has_table else None
        self._counters = Counters.attach(counters)
        self._receivers = [
            LaneReceiver(
                socket.socket(fileno=lane),
                self._counters.row(row),
                table=self._table,
                mark=mark,
            )
            for lane, row, mark in zip(lanes, spec.rows, spec.marks, strict=True)
        ]
        self._loops: LoopGroup | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._control: Control | None = None
        self._orders: asyncio.Queue[Drain] = asyncio.Queue()
        self._is_ordered = False  # to end
        self._is_orphaned = False
        self._is_limit_reported = False

    def run(self) -> int:
        """Serve until the supervisor wants no more; the exit code."""
        config = self._config
        platform.name_process(f"worker {self._spec.number}")
        if self._spec.nice:
            os.nice(self._spec.nice)
        platform.raise_descriptor_limit()
        limit_s = config.timeout_graceful_shutdown + config.drain_spread + _ORPHAN_MARGIN_S
        watch = ParentWatchdog(self._socket, limit_s)
        watch.start()
        ForkGuard(
            SUPERVISOR_SIGNALS,
            [info.address for info in self._spec.infos],
            [self._socket.fileno, watch.fileno, *(each.fileno for each in self._receivers)],
            several=self._mail_slot.descriptors,
        ).begin()
        with background_writing():
            return run_loop(self._main(), loop_factory(config.loop))

    # Start and end

    async def _main(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._control = Control(self._socket, on_message=self._on_message, on_end=self._on_orphaned)
        # a bound method, not the loop's own handler: sse-starlette asks the object behind it
        # whether the server is about to end
        signal.signal(signal.SIGTERM, self._take_sigterm)
        log_with_pid("Started worker %d [%d]", self._spec.number, os.getpid())
        starting = asyncio.ensure_future(self._start())
        ordered = asyncio.ensure_future(self._orders.get())
        await asyncio.wait({starting, ordered}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        try:
            threads = await starting
        except asyncio.CancelledError:
            return 0  # asked to end before it served
        except OperatorFault as fault:
            self._control.send("failed", problem=str(fault), exit_code=fault.exit_code)
            return fault.exit_code
        settle_garbage()
        self._control.send("ready", threads=threads)
        await self._end(await ordered)
        log_with_pid("Finished worker %d [%d]", self._spec.number, os.getpid())
        return 0

    def _counter(self) -> SharedCounter | None:
        if self._table is None:
            return None
        return SharedCounter(self._table, self._spec.marks[0], self._config.limit_channels)

    async def _start(self) -> list[int]:
        """Start the loops and adopt from now on; returns their threads' identifiers."""
        config = self._config
        if self._tls is None:
            self._tls = context_of(config)
        if self._application is None:
            self._application = load_application(config)
        rows = self._metric_rows
        loops = LoopGroup(
            config,
            self._spec.infos,
            count=len(self._receivers),
            tls=self._tls,
            counter=self._counter(),
            websocket_share=self._spec.websocket_share,
            rows=[] if rows is None else [rows.row(index) for index in self._spec.rows],
            link_topics=functools.partial(HubLink, self._mail_slot.connect),
            limit_reached=self._on_limit_reached,
        )
        await loops.start(self._application)
        self._loops = loops
        return [
            await _on(server, functools.partial(self._attach, server, index))
            for index, server in enumerate(loops.servers)
        ]

    def _attach(self, server: LoopServer, index: int) -> int:
        self._receivers[index].attach(server)
        cells = self._counters.row(self._spec.rows[index])
        Heartbeat(server, cells, beat_interval_s(self._config.timeout_worker_heartbeat)).beat()
        return threading.get_ident()

    async def _end(self, order: Drain) -> None:
        """Drain, and shut the application down. Another order meanwhile replaces the first."""
        loops = self._loops
        assert loops is not None
        loop = asyncio.get_running_loop()
        for server, receiver in zip(loops.servers, self._receivers, strict=True):
            if order.adopt:
                await _on(server, receiver.adopt_waiting)
            await _on(server, receiver.detach)
        start_s = loop.time()
        drains: set[asyncio.Future[Any]] = set()
        while True:
            deadline_s = loop.time() + order.timeout_s + order.spread_s
            drains.add(asyncio.ensure_future(loops.drain(order.timeout_s, order.spread_s)))
            another = asyncio.ensure_future(self._orders.get())
            await asyncio.wait({*drains, another}, return_when=asyncio.FIRST_COMPLETED)
            if not another.done():
                another.cancel()
                break
            order = another.result()
        for drain in drains:
            drain.cancel()
        await asyncio.wait(drains)
        drained = loops.drained(loop.time() - start_s)
        if self._is_orphaned:
            say_end(drained, order.timeout_s, is_forced=False)
        elif self._control is not None:
            self._control.send("drained", **dataclasses.asdict(drained))
        await loops.shutdown(deadline_s)

    # Messages and signals

    def _on_message(self, message: Message) -> None:
        match message:
            case {"kind": "drain", "timeout_s": timeout_s, "spread_s": spread_s, "adopt": adopt}:
                self._order(Drain(timeout_s, spread_s, adopt))
            case {"kind": "reopen_logs"}:
                reopen_log_files()
            case _:
                _log.error("Unknown message from the supervisor: %r", message)

    def _on_orphaned(self) -> None:
        _log.error("The supervisor has ended: worker %d ends too.", self._spec.number)
        self._is_orphaned = True
        self._order(Drain(self._config.timeout_graceful_shutdown, adopt=True))

    @property
    def should_exit(self) -> bool:
        """Whether it has been asked to end, as uvicorn's Server says it."""
        return self._is_ordered

    def _take_sigterm(self, number: int, frame: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_sigterm)

    def _on_sigterm(self) -> None:
        """Ask to be drained: what the pollers have for us must go elsewhere first."""
        assert self._control is not None
        self._control.send("leaving")
        order = Drain(self._config.timeout_graceful_shutdown, adopt=True)
        late = functools.partial(self._order, order, unless_ordered=True)
        asyncio.get_running_loop().call_later(_ANSWER_S, late)

    def _order(self, order: Drain, *, unless_ordered: bool = False) -> None:
        if not (unless_ordered and self._is_ordered):
            self._is_ordered = True
            self._orders.put_nowait(order)

    def _on_limit_reached(self) -> None:
        """On any loop's thread, and perhaps more than once."""
        if self._is_limit_reported or self._control is None or self._loops is None:
            return
        self._is_limit_reported = True
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has the worker
            self._loops.servers[0].loop.call_soon_threadsafe(self._control.send, "limit")


async def _on(server: LoopServer, call: Callable[[], T]) -> T:
    """Call something on the thread of a loop."""
    loop = asyncio.get_running_loop()
    if server.loop is loop:
        return call()

    async def work() -> T:
        return call()

    coroutine: Coroutine[Any, Any, T] = work()
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, server.loop))
