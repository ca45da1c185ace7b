"""The supervisor's listeners, pollers and lane monitor, and what its workers are given: lanes, and
the way to the hub of topics.
"""

from __future__ import annotations

import threading

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import StartupError
from asgi_poller.handoff.metric_rows import MetricRows
from asgi_poller.handoff.process_lane import Budget, ProcessLane
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.ipc.bootstrap import Origin, WorkerSpec
from asgi_poller.listeners.listeners import Listener, announce, close_listeners, socket_files
from asgi_poller.loops.accepted_socket import ListenerInfo
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.pollers.lane_monitor import LaneMonitor
from asgi_poller.pollers.master_poller import BATCH_COUNT, QUEUE_COUNT, PollerSettings
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.privileges import Identity, become
from asgi_poller.serve.limits_wiring import LimitsWiring
from asgi_poller.serve.loop_group import loop_count
from asgi_poller.serve.overview import is_metered
from asgi_poller.supervisor.hub_keeper import HubKeeper
from asgi_poller.supervisor.worker_book import WorkerBook
from asgi_poller.supervisor.worker_handle import Callbacks, WorkerHandle

# Added to the workers' nice value where pollers may not be raised: a little, so that on a busy
# machine accepting goes first, and beside other programs the server still counts.
_WORKER_NICE = 4
# Descriptors of the supervisor that are not for connections on their way: its own, and for each
# poller what it may hold in its batch and its queue.
_OWN_DESCRIPTORS = 1024
_POLLER_DESCRIPTORS = BATCH_COUNT + QUEUE_COUNT


class PollerHost:
    """Owned by the supervisor's main thread. `listeners` are closed by it, in `stop`.

    The order of a life: `make_worker` from the beginning; `open`, from which on connections are
    accepted; `stop`, then the workers drain; `close` when they have ended. Made on the loop.
    """

    def __init__(self, config: Config, listeners: list[Listener], events: EventLog) -> None:
        self._config = config
        self.listeners = listeners
        self._infos: tuple[ListenerInfo, ...] = tuple(listener.info for listener in listeners)
        self._counters = Counters.create()
        self._metric_rows = MetricRows.create() if is_metered(config) else None
        self.worker_book = WorkerBook(self._metric_rows)
        self._limits = limits = LimitsWiring(config, self._infos, workers=True)
        self._poller_pool = PollerPool(
            listeners,
            pollers=config.pollers,
            balance=config.balance,
            settings=PollerSettings(
                nice=config.poller_nice,
                spills=platform.HAS_FD_PASSING,
                is_timed=is_metered(config),
            ),
            admit=limits.admit,
            held_back=limits.held_back,
            end_ticket=limits.end_ticket,
            head_reader=limits.head_reader,
        )
        self._lane_monitor = LaneMonitor(
            self._poller_pool, connection_limits=limits.connection_limits, nice=config.poller_nice
        )
        self._lane_monitor.start()
        self._nice = worker_nice(config)
        limit = platform.descriptor_limit()
        reserved = _OWN_DESCRIPTORS + config.pollers * _POLLER_DESCRIPTORS
        self._budget = (
            None
            if limit is None
            else Budget(limit - min(reserved, limit // 2), lambda: self._lane_monitor.unassigned)
        )
        self._is_open = False
        self.hub = HubKeeper(config, nice=self._nice, events=events)

    @property
    def poller_pool(self) -> PollerPool:
        """Who accepts."""
        return self._poller_pool

    def open(self) -> None:
        """Accept from now on, and log where."""
        self._poller_pool.start()
        self._is_open = True
        announce(self.listeners, self._config.backlog)

    def make_worker(
        self, number: int, callbacks: Callbacks, *, with_config: bool = True
    ) -> WorkerHandle:
        """A worker that has not been started, with a lane for each of its loops.

        `with_config`: it is not forked, and needs the settings. Raises OperatorFault where the
        system has no descriptors or memory for it; then nothing is left open.
        """
        lanes: list[ProcessLane] = []
        try:
            for _ in range(loop_count(self._config)):
                lanes.append(ProcessLane(self._counters, budget=self._budget))
                if self._metric_rows is not None:
                    self._metric_rows.clear(lanes[-1].row)
                if self._limits.connection_limits is not None:
                    lanes[-1].mark = self._limits.connection_limits.new_worker()
            worker = self._handle(number, lanes, callbacks, with_config=with_config)
            self.worker_book.add(worker)
            return worker
        except BaseException as error:  # rows and sockets are given back, whatever the error
            for lane in lanes:
                self._lane_monitor.worker_died(lane)
            if isinstance(error, OSError):
                problem = f"worker {number}: it could not be started: {error}"
                raise StartupError(problem) from error
            raise

    def _handle(
        self, number: int, lanes: list[ProcessLane], callbacks: Callbacks, *, with_config: bool
    ) -> WorkerHandle:
        config = self._config
        connection_limits = self._limits.connection_limits
        spec = WorkerSpec(
            number=number,
            infos=self._infos,
            rows=tuple(lane.row for lane in lanes),
            marks=tuple(lane.mark for lane in lanes),
            has_table=connection_limits is not None,
            has_metrics=self._metric_rows is not None,
            websocket_share=self._websocket_share(),
            nice=self._nice,
            config=config if with_config else None,
            origin=Origin(),
        )
        return WorkerHandle(
            spec,
            lanes,
            self._counters,
            table=None if connection_limits is None else connection_limits.table,
            metric_rows=self._metric_rows,
            mailbox=self.hub.mailbox,
            heartbeat_limit_s=config.timeout_worker_heartbeat,
            callbacks=callbacks,
        )

    def admit(self, worker: WorkerHandle) -> None:
        """The worker serves: give it its share of the connections."""
        for lane in worker.lanes:
            self._lane_monitor.add(lane)

    def retire(self, worker: WorkerHandle) -> None:
        """Give the worker nothing more; what it has not received goes to others."""
        for lane in worker.lanes:
            self._lane_monitor.retire(lane)

    def worker_died(self, worker: WorkerHandle) -> None:
        """The worker has ended: what it has not claimed goes to others."""
        self.worker_book.remove(worker)  # before its rows are another worker's
        for lane in worker.lanes:
            self._lane_monitor.worker_died(lane)

    def stop(self, *, unlink: bool = True) -> None:
        """Accept nothing more. The workers have what was accepted.

        `unlink`: socket files go too; False if another process has taken them over.
        """
        self.hub.stopping()
        if self._is_open:
            self._poller_pool.stop()
            self._limits.stop()
        self._lane_monitor.end_search()
        for listener in self.listeners:
            listener.close(unlink=unlink)
        self.listeners = []

    async def close(self) -> None:
        """Give back what is left, after `worker_died` for each worker."""
        await self.hub.end()
        self._lane_monitor.stop()
        self._counters.close()
        if self._metric_rows is not None:
            self._metric_rows.close()
        if self._limits.connection_limits is not None:
            self._limits.connection_limits.table.close()

    def _websocket_share(self) -> int | None:
        """Each loop's part of --limit-channels, where pollers do not see which are WebSockets."""
        config = self._config
        if config.limit_channels is None or self._limits.head_reader is not None:
            return None
        return max(1, config.limit_channels // (config.workers * loop_count(config)))


def host_pollers(
    config: Config, identity: Identity | None, listeners: list[Listener], events: EventLog
) -> PollerHost:
    """Become `identity`, and host the pollers of `listeners`, which are closed if that fails.
    Raises ConfigError.
    """
    try:
        become(config, identity, socket_paths=socket_files(listeners), reads_keys_again=True)
        return PollerHost(config, listeners, events)
    except BaseException:  # raised again; nobody else would close them
        close_listeners(listeners)
        raise


def worker_nice(config: Config) -> int:
    """What to add to the workers' nice value, so that pollers go first (design decision 13)."""
    if config.worker_nice is not None:
        return config.worker_nice
    return 0 if _pollers_may_be_raised(config.poller_nice) else _WORKER_NICE


def _pollers_may_be_raised(nice: int) -> bool:
    """Whether a thread of ours gets that nice value. True if it is not asked for."""
    if nice >= 0:
        return True
    got: list[int | None] = []
    probe = threading.Thread(target=lambda: got.append(platform.set_thread_nice(nice)))
    probe.start()
    probe.join()
    return got[0] is not None and got[0] <= nice
