"""Checks workers once a second: do their loops answer, must they be replaced?"""

from __future__ import annotations

import asyncio
import logging

from asgi_poller.config import Config
from asgi_poller.ipc.heartbeat import Health, Pulse, beat_interval_s
from asgi_poller.supervisor.worker_handle import WorkerHandle
from asgi_poller.supervisor.worker_pool import WorkerPool
from asgi_poller.system.memory import resident_bytes

_log = logging.getLogger("asgi_poller.error")

_NO_STACK = "  no stack came: the worker is stopped, or the application handles SIGUSR2 itself"

_MIB = 1024 * 1024


class HealthMonitor:
    """Owned by the supervisor's main thread."""

    def __init__(self, config: Config, pool: WorkerPool) -> None:
        self._config = config
        self._pool = pool
        self._look_s = beat_interval_s(config.timeout_worker_heartbeat)
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Check until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._look_s)
                now = asyncio.get_running_loop().time()
                for worker in self._pool.members:
                    self._look_at(worker, now)
        finally:
            for task in self._asking:
                task.cancel()

    def _look_at(self, worker: WorkerHandle, now: float) -> None:
        assert worker.pulse is not None  # it serves
        match worker.pulse.look(now):
            case Health.BLOCKED:
                self._ask(worker, worker.pulse, is_lost=False)
            case Health.LOST:
                self._ask(worker, worker.pulse, is_lost=True)
            case Health.RECOVERED:
                _log.warning("%s: its event loop runs again", worker.name)
                self._pool.note("recovered", worker)
            case Health.OK:
                why = reason_to_recycle(self._config, pid=worker.pid, age_s=worker.age_s)
                if why is not None:
                    self._pool.recycle(worker, why)

    def _ask(self, worker: WorkerHandle, pulse: Pulse, *, is_lost: bool) -> None:
        """Log where it is blocked, in a task: the other workers are checked meanwhile."""
        silent = f"its event loop has been silent for {pulse.silent_s:.1f} s"
        self._pool.note("lost" if is_lost else "blocked", worker, silent)
        if is_lost:
            self._pool.give_up(worker)
        task = asyncio.ensure_future(self._report(worker, pulse.silent_s, is_lost=is_lost))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _report(self, worker: WorkerHandle, silent_s: float, *, is_lost: bool) -> None:
        stack = await worker.blocked_stack()
        _log.error(
            "%s: its event loop has been blocked for %.1f s%s\n%s",
            worker.name,
            silent_s,
            " (--timeout-worker-heartbeat); replacing it" if is_lost else "",
            stack or _NO_STACK,
        )
        if is_lost:
            worker.kill()


def reason_to_recycle(config: Config, *, pid: int, age_s: float) -> str | None:
    """Why a worker that has served for `age_s` seconds should be replaced; None: it should not."""
    lifetime_s = config.worker_max_lifetime
    if lifetime_s is not None and age_s >= lifetime_s:
        return f"it has served for {age_s:.0f} s (--worker-max-lifetime)"
    if config.worker_max_memory is not None:
        memory = resident_bytes(pid)
        if memory is not None and memory > config.worker_max_memory:
            return f"it uses {memory / _MIB:.0f} MiB (--worker-max-memory)"
    return None
