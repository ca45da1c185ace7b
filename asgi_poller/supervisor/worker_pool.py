"""The workers of a supervisor: as many as wanted, replaced when they die or reach a limit.

Replacements of workers that serve (rolling restart, recycling, a blocked loop) come one at a time,
and the new one is ready before the old one drains. Replacements of dead workers come at once, and
after repeated early deaths with a growing delay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault, StartupError
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.supervisor.backoff import Backoff
from asgi_poller.supervisor.drain_watch import DrainWatch
from asgi_poller.supervisor.poller_host import PollerHost
from asgi_poller.supervisor.spawn import Launcher, described_exit
from asgi_poller.supervisor.worker_handle import Callbacks, State, WorkerHandle

_log = logging.getLogger("asgi_poller.error")

LauncherMaker = Callable[[], Coroutine[Any, Any, Launcher]]
"""Gives what starts workers; for --preload that loads the application. Raises StartupError."""


class WorkerPool:
    """Owned by the supervisor's main thread."""

    def __init__(
        self,
        config: Config,
        poller_host: PollerHost,
        make_launcher: LauncherMaker,
        events: EventLog | None = None,
    ) -> None:
        self.events = events or EventLog()
        self._config = config
        self._poller_host = poller_host
        self._make_launcher = make_launcher
        self._launcher: Launcher | None = None
        self._callbacks = Callbacks(self._on_leaving, self._on_limit_reached)
        self._target = config.workers
        self._living: set[WorkerHandle] = set()  # all that have not ended
        self._members: list[WorkerHandle] = []  # those that serve, the oldest first
        self._filling: set[asyncio.Task[None]] = set()  # each starts one in a dead one's place
        self._recycling: set[WorkerHandle] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._launching = asyncio.Lock()
        self._backoff = Backoff()
        self._watch = DrainWatch()
        self._is_stopping = False

    @property
    def members(self) -> list[WorkerHandle]:
        """The workers that serve, the oldest first."""
        return list(self._members)

    # Start and end

    async def start(self, first_serves: Callable[[], object]) -> None:
        """Start all workers: one alone, so that an error is reported once, then the others.

        `first_serves` is called in between. Raises OperatorFault if one of them fails.
        """
        self._launcher = await self._make_launcher()
        await self._bring_up()
        first_serves()
        others = {asyncio.ensure_future(self._start_another()) for _ in range(1, self._target)}
        if others:
            self._filling |= others
            done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()

    async def stop(self, timeout_s: float, spread_s: float = 0.0) -> None:
        """Drain all workers and wait for their end; seconds as for `LoopServer.drain`. Those
        that take too long are killed.
        """
        self._is_stopping = True
        for task in (*self._filling, *self._tasks):
            task.cancel()
        await asyncio.sleep(0)  # those that they were starting are drained with the others
        for worker in self._living:
            worker.drain(timeout_s, spread_s, adopt=True)
        self._watch.begin(set(self._living), timeout_s + spread_s, is_last=True)
        while self._living:
            await asyncio.wait([worker.ended for worker in self._living])
            await asyncio.sleep(0)  # their done callbacks

    def kill(self) -> None:
        """End all workers by force; `stop` then returns soon."""
        self._watch.force()
        for worker in self._living:
            worker.kill()

    def close(self) -> None:
        """Give back what starts workers."""
        if self._launcher is not None:
            self._launcher.close()

    def reopen_logs(self) -> None:
        """SIGUSR1 for all of them."""
        for worker in self._living:
            worker.reopen_logs()

    # Changes

    def scale(self, by: int) -> int:
        """Have `by` workers more, or fewer, but at least one; returns how many there should be."""
        self._target = max(1, self._target + by)
        self._level()
        return self._target

    async def restart(self) -> bool:
        """Replace every worker, one after the other; whether all were. What fails is reported, and
        those that are not replaced yet go on.
        """
        self.events.note("reload")
        olds = self.members
        launcher = self._launcher
        try:
            self._launcher = await self._make_launcher()
        except OperatorFault as fault:
            _log.error("Restart failed, the old workers go on: %s", fault)
            return False
        if launcher is not None and launcher is not self._launcher:
            launcher.close()
        for done, old in enumerate(olds):
            why = f"restarting all, {done + 1} of {len(olds)}"
            if not await self.replace(old, why, self._config.drain_spread, "reload"):
                _log.error("Restart given up: %d of %d workers are replaced", done, len(olds))
                return False
        _log.info("Restart complete: %d workers are replaced", len(olds))
        return True

    async def replace(
        self, old: WorkerHandle, why: str, spread_s: float = 0.0, counted: str = "recycled"
    ) -> bool:
        """Start another worker; when it serves, drain `old`. Whether that went well.

        `why` is for the log, `counted` for Snapshot.restarts. True also if `old` has ended by
        itself.
        """
        async with self._one_at_a_time:
            if old not in self._members:
                return True
            _log.info("Replacing %s: %s", old.name, why)
            try:
                await self._bring_up()
            except OperatorFault as fault:
                _log.error("%s goes on, its replacement failed: %s", old.name, fault)
                self.events.note("failed", detail=f"the replacement of {old.name}: {fault}")
                return False
            self._drain(old, spread_s, why)
            self.events.count_restart(counted)
            self._level()
            return True

    def recycle(self, worker: WorkerHandle, why: str) -> None:
        """Replace a worker soon. It is tried again, later and later, until it works."""
        if worker not in self._recycling and worker in self._members and not self._is_stopping:
            self._recycling.add(worker)
            self._run(self._recycle(worker, why))

    def give_up(self, worker: WorkerHandle) -> None:
        """Give a worker that does not move nothing more; start another. The caller kills it."""
        if worker in self._members:
            self._members.remove(worker)
            self._poller_host.retire(worker)
            self.events.count_restart("lost")
            self._level()

    # Inside

    async def _recycle(self, worker: WorkerHandle, why: str) -> None:
        try:
            spread_s = self._config.drain_spread
            while not await self.replace(worker, why, spread_s):
                self._backoff.failed(self._now())
                await asyncio.sleep(max(1.0, self._backoff.delay_s))
        finally:
            self._recycling.discard(worker)

    async def _start_another(self) -> None:
        try:
            await self._bring_up()
        finally:
            self._filling.discard(asyncio.current_task())

    async def _bring_up(self) -> None:
        """Have another worker that serves. Raises OperatorFault; then it has been ended."""
        launcher = await self._usable_launcher()
        worker = self._poller_host.make_worker(
            self._free_number(), self._callbacks, with_config=not self._config.preload
        )
        self._living.add(worker)
        worker.ended.add_done_callback(lambda ended: self._on_ended(worker, ended.result()))
        try:
            await worker.start(launcher)
            await worker.wait_ready(self._config.timeout_worker_startup)
        except asyncio.CancelledError:
            worker.drain(self._config.timeout_graceful_shutdown)
            raise
        except BaseException:  # raised again; nobody else would end it
            worker.kill()
            raise
        if worker.state is not State.SERVING:
            raise StartupError(f"{worker.name} was asked to end before it served")
        self._members.append(worker)
        self._poller_host.admit(worker)
        self.note("started", worker)
        _log.info("%s is ready", worker.name)

    async def _usable_launcher(self) -> Launcher:
        async with self._launching:
            if self._launcher is None or self._launcher.is_gone:
                self._launcher = await self._make_launcher()
            return self._launcher

    def _free_number(self) -> int:
        taken = {worker.number for worker in self._living}
        return next(number for number in range(1, len(taken) + 2) if number not in taken)

    def _drain(self, worker: WorkerHandle, spread_s: float, why: str) -> None:
        """Take it out of the poller pool first, so that it gets no more connections."""
        if worker in self._members:
            self.note("draining", worker, why)
            self._members.remove(worker)
            self._poller_host.retire(worker)
            timeout_s = self._config.timeout_graceful_shutdown
            worker.drain(timeout_s, spread_s)
            self._watch.begin({worker}, timeout_s + spread_s)

    def _on_ended(self, worker: WorkerHandle, code: int) -> None:
        self._living.discard(worker)
        self._watch.ended(worker)
        is_unexpected = code != 0 or (worker in self._members and not self._is_stopping)
        # first: a snapshot that does not have the worker any more has the event
        self.note("crashed" if is_unexpected else "ended", worker, f"it {described_exit(code)}")
        self._poller_host.worker_died(worker)
        if worker not in self._members:
            return
        self._members.remove(worker)
        self._backoff.failed(self._now(), worker.age_s)
        if not self._is_stopping:
            end = f"{worker.name} {described_exit(code)} after {worker.age_s:.0f} s"
            _log.error("%s; starting another%s", end, self._backoff.shown_delay)
            self.events.count_restart("crashed")
            self._level()

    def _on_leaving(self, worker: WorkerHandle) -> None:
        """SIGTERM was sent to this worker alone."""
        if worker not in self._members or self._is_stopping:
            worker.drain(self._config.timeout_graceful_shutdown, adopt=self._is_stopping)
            return
        _log.info("%s was asked to end; starting another", worker.name)
        self._drain(worker, 0.0, "it was asked to end")
        self.events.count_restart("asked")  # after its event, as a snapshot reads them
        self._level()

    def _on_limit_reached(self, worker: WorkerHandle) -> None:
        self.recycle(worker, "--limit-max-requests is reached")

    def _level(self) -> None:
        """Have as many workers as there should be, soon."""
        if self._is_stopping:
            return
        while self._filling and len(self._members) + len(self._filling) > self._target:
            self._filling.pop().cancel()
        while len(self._members) > self._target:
            self._drain(self._members[-1], 0.0, "one worker fewer is wanted")
        while len(self._members) + len(self._filling) < self._target:
            task = asyncio.ensure_future(self._fill())
            self._filling.add(task)
            task.add_done_callback(self._on_filled)

    def _on_filled(self, task: asyncio.Task[None]) -> None:
        self._filling.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._backoff.failed(self._now())
            _log.error("starting a worker failed", exc_info=task.exception())
        self._level()

    async def _fill(self) -> None:
        """Start one worker, however often that takes."""
        while True:
            await asyncio.sleep(self._backoff.delay_s)
            try:
                await self._bring_up()
                return
            except OperatorFault as fault:
                self._backoff.failed(self._now())
                _log.error(
                    "A worker cannot start: %s; trying again%s", fault, self._backoff.shown_delay
                )
                self.events.note("failed", detail=str(fault))

    def note(self, kind: str, worker: WorkerHandle, detail: str = "") -> None:
        """Something has happened to a worker; `kind` as in Event."""
        self.events.note(kind, worker=worker.number, pid=worker.pid, detail=detail)

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
