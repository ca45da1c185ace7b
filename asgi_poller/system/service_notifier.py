"""Pid file, service manager and its watchdog, for a server that has a process to itself."""

from __future__ import annotations

import asyncio
import os

from asgi_poller.config import Config
from asgi_poller.system.pid_file import PidFile
from asgi_poller.system.sd_notify import ServiceManager

# Unit: seconds beyond what a stop may take by the settings, for processes to end.
_END_MARGIN_S = 10.0


class ServiceNotifier:
    """Owned by the main thread. The order of a life: `begin` before anything is bound or dropped,
    `feed_watchdog` on the loop, `ready`, `stopping`, `end`; the last two also after a failure.

    Without a pid file and a service manager nothing happens. The manager's
    variables are taken out of os.environ.
    """

    def __init__(self, config: Config) -> None:
        self._manager = ServiceManager.from_environment(os.environ)
        self._pid_file = None if config.pid_file is None else PidFile(config.pid_file)
        self._watchdog: asyncio.Task[None] | None = None

    def begin(self, *, successor_of: int | None = None) -> None:
        """Write the pid file; `successor_of` may still be in it. Raises ConfigError."""
        if self._pid_file is not None:
            self._pid_file.write(successor_of=successor_of)

    def starting(self, limit_s: float) -> None:
        """Start-up may take so many seconds."""
        self._manager.extend_timeout(limit_s)

    def feed_watchdog(self) -> None:
        """Feed the manager's watchdog from the running loop, as often as it expects."""
        interval_s = self._manager.watchdog_interval_s
        if interval_s is not None and self._watchdog is None:
            self._watchdog = asyncio.ensure_future(self._feed(interval_s))

    def ready(self, status: str = "") -> None:
        """The server serves, for the first time or again."""
        self._manager.ready(status)

    def reloading(self) -> None:
        """A reload has begun; `ready` follows."""
        self._manager.reloading()

    def hand_over(self, pid: int) -> None:
        """Another process is the server from now on, and notifies instead of this one."""
        self._manager.hand_over(pid)
        self._manager = ServiceManager()

    def stopping(self, limit_s: float | None = None) -> None:
        """The server has begun to stop, which may take so many seconds (None: what the manager
        allows).
        """
        self._manager.stopping()
        if limit_s is not None:
            self._manager.extend_timeout(limit_s + _END_MARGIN_S)

    def end(self) -> None:
        """Remove the pid file, if it is still ours. Idempotent."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if self._pid_file is not None:
            self._pid_file.remove()

    async def _feed(self, interval_s: float) -> None:
        while True:
            self._manager.watchdog()
            await asyncio.sleep(interval_s)
