"""What serves in one process: cores, and the poller pool that feeds them, on listeners that
somebody else opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.config import Config
from asgi_poller.handoff.thread_lane import ThreadLane, close_connection
from asgi_poller.listeners.listeners import Listener
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.pollers.master_poller import PollerSettings
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.serve import tls_reload
from asgi_poller.serve.limits_wiring import LimitsWiring, LocalCounter
from asgi_poller.serve.loop_group import LoopGroup
from asgi_poller.tls import TlsContext, TlsSettings

_log = logging.getLogger("asgi_poller.error")
_SHUTDOWN_AT_LEAST_S = 1.0  # for the lifespans' shutdown, however long the drain took


class Serving:
    """Cores, lanes and pollers. Owned by the thread whose loop `start` runs on.

    The order of a life: `start`, `stop_accepting`, `end`; the last two are in order after a `start`
    that failed, too. Listeners are closed by whoever opened them, after `stop_accepting`.
    `limit_reached` is called as LoopGroup says. `tls`, `access_log` and `pollers` replace what the
    configuration would give.
    """

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        *,
        limit_reached: Callable[[], None],
        tls: TlsContext | None = None,
        access_log: AccessLog | None = None,
        pollers: PollerSettings | None = None,
    ) -> None:
        self._config = config
        self._listeners = listeners
        self._limit_reached = limit_reached
        self._tls = tls
        self._access_log = access_log
        self._poller_settings = pollers or PollerSettings(nice=config.poller_nice)
        self._cores: LoopGroup | None = None
        self._lanes: list[ThreadLane] = []
        self._poller_pool: PollerPool | None = None
        self._limits: LimitsWiring | None = None
        self._freshness: asyncio.Task[None] | None = None

    @property
    def lanes(self) -> list[ThreadLane]:
        """One for each core; each knows its load."""
        return self._lanes

    @property
    def cores(self) -> list[LoopServer]:
        """The cores that are up."""
        return [] if self._cores is None else self._cores.all

    async def start(self, application: Any) -> None:
        """Bring the cores up, lifespans included, then accept. Raises OperatorFault."""
        config = self._config
        infos = tuple(listener.info for listener in self._listeners)
        if self._tls is None and any(info.tls for info in infos):
            self._tls = TlsContext(tls_settings(config))
        self._limits = limits = LimitsWiring(config, infos, workers=False)
        self._cores = LoopGroup(
            config,
            infos,
            tls=self._tls,
            access_log=self._access_log,
            counter=None
            if limits.connection_limits is None
            else LocalCounter(limits.connection_limits),
            limit_reached=self._limit_reached,
        )
        _log.info("Waiting for application startup.")
        await self._cores.start(application)
        _log.info("Application startup complete.")
        self._lanes = [ThreadLane(core, end_ticket=limits.end_ticket) for core in self._cores.all]
        self._poller_pool = PollerPool(
            self._listeners,
            self._lanes,
            pollers=config.pollers,
            balance=config.balance,
            settings=self._poller_settings,
            admit=limits.admit,
            end_ticket=limits.end_ticket,
            head_reader=limits.head_reader,
        )
        limits.start(self._poller_pool)
        self._poller_pool.start()
        if self._tls is not None:
            self._freshness = asyncio.create_task(tls_reload.keep_fresh(self._tls))

    def reload_certificates(self) -> None:
        """Read certificate and key anew, if there are any. The thread of `start`."""
        if self._tls is not None:
            tls_reload.reload(self._tls)

    def stop_accepting(self) -> None:
        """End the pollers. What they have accepted is still served by `end`. Idempotent."""
        if self._poller_pool is not None:
            self._poller_pool.stop()
        if self._limits is not None:
            self._limits.stop()
        if self._freshness is not None:
            self._freshness.cancel()

    async def end(self, timeout_s: float, force: asyncio.Event) -> None:
        """Drain within `timeout_s` seconds, then shut the application down; `force` cuts both
        short.
        """
        if self._cores is None or not self._cores.all:
            return  # it never came up
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        # what waits in the lanes is adopted first: its delivery was scheduled before this
        await _unless(force, self._cores.drain(timeout_s), None)
        for lane in self._lanes:
            for accepted in lane.reclaim():
                close_connection(accepted.fd)
        _log.info("Waiting for application shutdown.")
        limit_s = max(_SHUTDOWN_AT_LEAST_S, deadline - loop.time())
        if await _unless(force, self._cores.shutdown(), limit_s):
            _log.info("Application shutdown complete.")


async def _unless(
    force: asyncio.Event, work: Coroutine[Any, Any, bool | None], limit_s: float | None
) -> bool:
    """Wait for `work`, but not past `force` or `limit_s` seconds: then it is cancelled. Whether it
    came to its end, and returned True.
    """
    task = asyncio.ensure_future(work)
    forced = asyncio.ensure_future(force.wait())
    await asyncio.wait({task, forced}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    forced.cancel()
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):  # its own, not ours
        return await task is True
    return False


def tls_settings(config: Config) -> TlsSettings:
    """The part of the configuration that TLS needs."""
    return TlsSettings(
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
        ssl_keyfile_password=config.ssl_keyfile_password,
        ssl_version=config.ssl_version,
        ssl_cert_reqs=config.ssl_cert_reqs,
        ssl_ca_certs=config.ssl_ca_certs,
        ssl_ciphers=config.ssl_ciphers,
        ssl_alpn=config.ssl_alpn,
    )
