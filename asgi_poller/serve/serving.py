"""What serves in one process: event loops, and the pollers that accept for them, on listeners that
the caller has opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.config import Config
from asgi_poller.handoff.metric_rows import local_row
from asgi_poller.handoff.thread_lane import ThreadLane, close_connection
from asgi_poller.listeners.listeners import Listener
from asgi_poller.loops.drain_counts import progress
from asgi_poller.loops.drain_progress import say_end, say_progress
from asgi_poller.loops.loop_server import LoopServer
from asgi_poller.metrics.snapshot import LoopSnapshot
from asgi_poller.pollers.master_poller import PollerSettings
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.serve import tls_reload
from asgi_poller.serve.limits_wiring import LimitsWiring, LocalCounter
from asgi_poller.serve.loop_group import LoopGroup, loop_count, unless_forced
from asgi_poller.serve.overview import is_metered, loop_snapshot
from asgi_poller.tls import TlsContext
from asgi_poller.topics.loop_topics import MakeLink


class Serving:
    """Loop servers, lanes and pollers. Owned by the thread whose loop `start` runs on.

    The order of a life: `start`, `stop_accepting`, `end`; the last two are in order after a `start`
    that failed, too. The caller closes the listeners it has opened, after `stop_accepting`.
    `limit_reached` is called as LoopGroup says, `link_topics` too. `access_log` and `pollers`
    replace what the configuration would give.
    """

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        *,
        limit_reached: Callable[[], None],
        tls: TlsContext | None,
        access_log: AccessLog | None = None,
        pollers: PollerSettings | None = None,
        link_topics: MakeLink | None = None,
    ) -> None:
        self._config = config
        self._listeners = listeners
        self._limit_reached = limit_reached
        self._tls = tls
        self._access_log = access_log
        self._link_topics = link_topics
        self._poller_settings = pollers or PollerSettings(
            nice=config.poller_nice, is_timed=is_metered(config)
        )
        self._loops: LoopGroup | None = None
        self._lanes: list[ThreadLane] = []
        self._poller_pool: PollerPool | None = None
        self._limits: LimitsWiring | None = None
        self._rows = [local_row() for _ in range(loop_count(config))] if is_metered(config) else []

    @property
    def lanes(self) -> list[ThreadLane]:
        """One for each loop; each knows its load."""
        return self._lanes

    @property
    def loop_servers(self) -> list[LoopServer]:
        """Those that have started."""
        return [] if self._loops is None else self._loops.servers

    @property
    def poller_pool(self) -> PollerPool | None:
        """None before it has started."""
        return self._poller_pool

    def loop_snapshots(self) -> tuple[LoopSnapshot, ...]:
        """What the loops have counted; none before they have started. Any thread."""
        return tuple(
            loop_snapshot(index, lane, row)
            for index, (lane, row) in enumerate(zip(self._lanes, self._rows, strict=False))
        )

    async def start(self, application: Any) -> None:
        """Start the loops, lifespans included, then accept. Raises OperatorFault."""
        config = self._config
        infos = tuple(listener.info for listener in self._listeners)
        self._limits = limits = LimitsWiring(config, infos, workers=False)
        self._loops = LoopGroup(
            config,
            infos,
            count=loop_count(config),
            tls=self._tls,
            access_log=self._access_log,
            counter=None
            if limits.connection_limits is None
            else LocalCounter(limits.connection_limits),
            rows=self._rows,
            link_topics=self._link_topics,
            limit_reached=self._limit_reached,
        )
        await self._loops.start(application)
        self._lanes = [
            ThreadLane(server, end_ticket=limits.end_ticket) for server in self._loops.servers
        ]
        self._poller_pool = PollerPool(
            self._listeners,
            self._lanes,
            pollers=config.pollers,
            balance=config.balance,
            settings=self._poller_settings,
            admit=limits.admit,
            held_back=limits.held_back,
            end_ticket=limits.end_ticket,
            head_reader=limits.head_reader,
        )
        self._poller_pool.start()

    def reload_certificates(self) -> None:
        """Read certificate and key again, if there are any. The thread of `start`."""
        if self._tls is not None:
            tls_reload.reload(self._tls)

    def stop_accepting(self) -> None:
        """End the pollers. What they have accepted is still served by `end`. Idempotent."""
        if self._poller_pool is not None:
            self._poller_pool.stop()
        if self._limits is not None:
            self._limits.stop()

    async def end(
        self,
        timeout_s: float,
        force: asyncio.Event,
        *,
        spread_s: float = 0.0,
        has_progress: bool = True,
    ) -> None:
        """Drain, with seconds as for `LoopServer.drain`, then shut the application down; `force`
        cuts both short. `has_progress`: lines say how far it is.
        """
        if self._loops is None or not self._loops.servers:
            return  # they never started
        clock = asyncio.get_running_loop().time
        start_s = clock()
        limit_s = spread_s + timeout_s
        shown_s = limit_s if has_progress else 0.0
        telling = asyncio.ensure_future(say_progress(shown_s, self._progress, is_last=True))
        # what waits in the lanes is adopted first: its delivery was scheduled before this
        await unless_forced(force, self._loops.drain(timeout_s, spread_s), None)
        telling.cancel()
        say_end(self._loops.drained(clock() - start_s), limit_s, is_forced=force.is_set())
        for lane in self._lanes:
            for accepted in lane.reclaim():
                close_connection(accepted.fd)
        await self._loops.shutdown(start_s + limit_s, force)

    def _progress(self, rest_s: float) -> tuple[int, str]:
        assert self._loops is not None  # `end` has looked
        left = self._loops.left()
        return left.count, progress(left, rest_s)
