"""Every metric of /metrics: name, kind, labels, help, and where its value is in a snapshot.

The exposition and docs/metrics.md are made from this. Names and units follow Prometheus
(prometheus.io/docs/practices/naming): base units, `_total` for counters.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from asgi_poller.metrics.histogram import BOUNDS_US, HistogramValue
from asgi_poller.metrics.loop_counts import STATUS_CLASSES, LoopValues
from asgi_poller.metrics.refusals import REFUSALS
from asgi_poller.metrics.snapshot import (
    RESTART_REASONS,
    LoopSnapshot,
    PollerSnapshot,
    Snapshot,
    WorkerSnapshot,
)
from asgi_poller.monitor.as_json import closes_of

PREFIX = "asgi_poller_"
_BOUNDS_S = tuple(bound / 1_000_000 for bound in BOUNDS_US)
_STATES = ("starting", "serving", "draining")


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: counts by upper bound (not cumulative; one more for what is beyond all, which
    may be left out), and the sum of all that was observed.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


Value = float | Buckets
Samples = Iterable[tuple[Sequence[str], Value]]
"""(values of the labels, value) of each."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `read` gets a snapshot and its total of all loops. What has no value on this
    system, or has no one to count it now, gives no sample.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    read: Callable[[Snapshot, LoopValues], Samples]

    @property
    def unit(self) -> str:
        """The base unit that the name says; empty: a plain number."""
        plain = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes") if plain.endswith(f"_{unit}")), "")


def _seconds(value: HistogramValue) -> Buckets:
    return Buckets(_BOUNDS_S, value.counts, value.sum_us / 1_000_000)


def _batches(poller: PollerSnapshot) -> Buckets:
    bounds = [2**power for power in range(len(poller.batches))]
    return Buckets(bounds, poller.batches, poller.accepted)


def _gauge(
    name: str,
    help: str,
    read: Callable[[Snapshot], float | None],
    *,
    kind: Literal["counter", "gauge"] = "gauge",
) -> Metric:
    """A value of the whole server."""

    def samples(snapshot: Snapshot, total: LoopValues) -> Samples:
        value = read(snapshot)
        return [] if value is None else [((), value)]

    return Metric(PREFIX + name, kind, help, (), samples)


def _sum(name: str, help: str, field: str) -> Metric:
    """A count of all loops together."""
    return Metric(
        PREFIX + name, "counter", help, (), lambda _, total: [((), getattr(total, field))]
    )


def _duration(name: str, help: str, field: str) -> Metric:
    """A histogram of all loops together."""
    return Metric(
        PREFIX + name,
        "histogram",
        help,
        (),
        lambda _, total: [((), _seconds(getattr(total, field)))],
    )


def _poller(
    name: str,
    help: str,
    read: Callable[[PollerSnapshot], Value],
    *,
    kind: Literal["counter", "gauge", "histogram"] = "counter",
) -> Metric:
    """Of each poller."""
    return Metric(
        f"{PREFIX}poller_{name}",
        kind,
        help,
        ("poller",),
        lambda snapshot, _: [((poller.name,), read(poller)) for poller in snapshot.pollers],
    )


def _worker(name: str, help: str, read: Callable[[WorkerSnapshot], float | None]) -> Metric:
    """Of each worker."""

    def samples(snapshot: Snapshot, total: LoopValues) -> Samples:
        for worker in snapshot.workers:
            value = read(worker)
            if value is not None:
                yield (str(worker.number),), value

    return Metric(f"{PREFIX}worker_{name}", "gauge", help, ("worker",), samples)


def _loop(
    name: str,
    help: str,
    read: Callable[[LoopSnapshot], Value],
    *,
    kind: Literal["counter", "gauge", "histogram"] = "gauge",
) -> Metric:
    """Of each loop of each worker."""
    return Metric(
        f"{PREFIX}loop_{name}",
        kind,
        help,
        ("worker", "loop"),
        lambda snapshot, _: [
            ((str(worker.number), str(loop.index)), read(loop))
            for worker in snapshot.workers
            for loop in worker.loops
        ],
    )


def _build(snapshot: Snapshot, total: LoopValues) -> Samples:
    return [((snapshot.version, snapshot.build, platform.python_version()), 1)]


def _by_state(state: str) -> list[tuple[str, float]]:
    return [(each, float(each == state)) for each in _STATES]


_SERVER = (
    Metric(
        f"{PREFIX}build_info",
        "gauge",
        "What runs: always 1.",
        ("version", "build", "python"),
        _build,
    ),
    _gauge(
        "start_time_seconds", "When the server started, since the epoch.", lambda s: s.started_at
    ),
    Metric(
        f"{PREFIX}state",
        "gauge",
        "1 for the state that the server is in: starting, serving or draining.",
        ("state",),
        lambda snapshot, _: [((each,), value) for each, value in _by_state(snapshot.state)],
    ),
    _sum("log_lines_dropped_total", "Log lines that were not written.", "log_lines_dropped"),
)

_LISTENING = (
    Metric(
        f"{PREFIX}listener_queue_connections",
        "gauge",
        "Connections that wait for accept() now (Linux, TCP).",
        ("listener",),
        lambda snapshot, _: [
            ((each.url,), each.queue) for each in snapshot.listeners if each.queue is not None
        ],
    ),
    Metric(
        f"{PREFIX}listener_queue_limit_connections",
        "gauge",
        "Connections that may wait for accept() (Linux, TCP).",
        ("listener",),
        lambda snapshot, _: [
            ((each.url,), each.queue_limit)
            for each in snapshot.listeners
            if each.queue_limit is not None
        ],
    ),
    _gauge(
        "listen_overflows_total",
        "Times that an accept queue was full: the kernel's ListenOverflows, of all programs in this"
        " network namespace.",
        lambda s: s.listen_overflows,
        kind="counter",
    ),
    _gauge(
        "listen_drops_total",
        "Connections that the kernel dropped before accept(): its ListenDrops, of all programs in"
        " this network namespace.",
        lambda s: s.listen_drops,
        kind="counter",
    ),
    Metric(
        f"{PREFIX}refused_total",
        "counter",
        "Connections and requests that were turned away.",
        ("reason",),
        lambda snapshot, _: [((why,), snapshot.refused.get(why, 0)) for why in REFUSALS],
    ),
)

_POLLERS = (
    _poller("accepted_total", "Connections accepted.", lambda p: p.accepted),
    _poller("aborted_total", "Connections that had ended before accept().", lambda p: p.aborted),
    _poller("failed_total", "Calls of accept() that failed otherwise.", lambda p: p.failed),
    _poller("shortages_total", "Times that no descriptor was left.", lambda p: p.shortages),
    _poller("dropped_total", "Connections closed as no loop took them.", lambda p: p.dropped),
    _poller(
        "queue_connections",
        "Accepted connections that wait for a loop with room now.",
        lambda p: p.waiting,
        kind="gauge",
    ),
    _poller(
        "batch_connections",
        "Connections accepted in one round.",
        _batches,
        kind="histogram",
    ),
    _poller(
        "hand_over_seconds",
        "From accept() until a loop's lane had the connection.",
        lambda p: _seconds(p.hand_over),
        kind="histogram",
    ),
)

_WORKERS = (
    Metric(
        f"{PREFIX}worker_state",
        "gauge",
        "1 for the state that the worker is in: starting, serving or draining.",
        ("worker", "state"),
        lambda snapshot, _: [
            ((str(worker.number), each), value)
            for worker in snapshot.workers
            for each, value in _by_state(worker.state)
        ],
    ),
    _worker("age_seconds", "For how long the worker has run.", lambda w: w.age_s),
    _worker("resident_memory_bytes", "Resident memory of the process.", lambda w: w.memory_bytes),
    Metric(
        f"{PREFIX}worker_restarts_total",
        "counter",
        "Workers started to replace one, by why: it crashed, was lost (blocked for too long),"
        " recycled (a limit), asked to end, or there was a reload.",
        ("reason",),
        lambda snapshot, _: [((why,), snapshot.restarts.get(why, 0)) for why in RESTART_REASONS],
    ),
)

_LOOPS = (
    _loop("connections", "Open connections.", lambda each: each.values.connections_open),
    _loop("websockets", "Open WebSockets.", lambda each: each.values.websockets_open),
    _loop(
        "running_requests",
        "Requests and WebSockets that the application is called for now.",
        lambda each: each.values.requests_running,
    ),
    _loop("assigned_total", "Connections given to it.", lambda each: each.assigned, kind="counter"),
    _loop(
        "adopted_total",
        "Connections that it took.",
        lambda each: each.values.adopted,
        kind="counter",
    ),
    _loop(
        "taken_back_total",
        "Connections that went to another loop because it was late.",
        lambda each: each.taken_back,
        kind="counter",
    ),
    _loop(
        "silent_seconds",
        "For how long it has left a call unanswered, now.",
        lambda each: each.silent_s,
    ),
    _loop(
        "lag_seconds",
        "How late a timer of the loop comes.",
        lambda each: _seconds(each.values.lag),
        kind="histogram",
    ),
)

_HTTP = (
    Metric(
        f"{PREFIX}http_responses_total",
        "counter",
        "Responses by class of status.",
        ("status",),
        lambda _, total: [
            ((status,), count)
            for status, count in zip(STATUS_CLASSES, total.responses, strict=True)
        ],
    ),
    _duration(
        "http_request_duration_seconds",
        "From a request's head to its response's end.",
        "request",
    ),
)

_WEBSOCKETS = (
    _sum("websockets_opened_total", "WebSockets accepted.", "websockets_opened"),
    _sum(
        "websockets_denied_total", "Handshakes answered with an HTTP status.", "websockets_denied"
    ),
    _duration("websocket_handshake_duration_seconds", "From accept() to 101.", "handshake"),
    Metric(
        f"{PREFIX}websocket_closes_total",
        "counter",
        "WebSockets that ended, by close code (RFC 6455, 7.4) and by whom.",
        ("code", "by"),
        lambda _, total: [((code, by), count) for code, by, count in closes_of(total)],
    ),
    _sum("websocket_messages_received_total", "Messages received.", "messages_received"),
    _sum("websocket_messages_sent_total", "Messages sent.", "messages_sent"),
    _sum(
        "websocket_received_bytes_total",
        "Bytes received, frame headers included.",
        "bytes_received",
    ),
    _sum("websocket_sent_bytes_total", "Bytes sent, frame headers included.", "bytes_sent"),
    _sum(
        "websocket_deflate_input_bytes_total",
        "Bytes of sent messages before compression, of those that were compressed.",
        "raw_bytes_deflated",
    ),
    _sum("websocket_deflate_output_bytes_total", "And after it.", "deflated_bytes"),
    _sum(
        "websocket_inflate_input_bytes_total",
        "Bytes of compressed messages received, as they came.",
        "inflated_bytes",
    ),
    _sum("websocket_inflate_output_bytes_total", "And inflated.", "raw_bytes_inflated"),
    _sum("websocket_pings_total", "Pings sent.", "pings_sent"),
    _sum("websocket_pings_unanswered_total", "Pings without a pong in time.", "pings_unanswered"),
    _sum(
        "websocket_slow_consumers_total",
        "Times that a client fell behind --ws-send-limit.",
        "slow_consumers",
    ),
)

_HTTP2 = (
    Metric(
        f"{PREFIX}http2_connections",
        "gauge",
        "Connections that speak HTTP/2, now.",
        (),
        lambda _, total: [((), total.http2_connections_open)],
    ),
    _sum("http2_streams_total", "Requests and WebSockets over HTTP/2.", "http2_streams"),
    _sum(
        "http2_faults_total",
        "HTTP/2 connections that were ended for their client's fault.",
        "http2_faults",
    ),
)

_TOPICS = (
    Metric(
        f"{PREFIX}topic_subscriptions",
        "gauge",
        "Subscriptions to topics, now.",
        (),
        lambda _, total: [((), total.topic_subscriptions)],
    ),
    _sum("topic_publications_total", "Messages that were published here.", "topic_publications"),
    _sum(
        "topic_deliveries_total",
        "Messages of topics that were delivered, one for each subscriber.",
        "topic_deliveries",
    ),
    _sum(
        "topic_drops_total",
        "Messages of topics that a subscriber lost, since it did not read.",
        "topic_drops",
    ),
)

SECTIONS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("The server", _SERVER),
    ("Listening", _LISTENING),
    ("Pollers", _POLLERS),
    ("Workers", _WORKERS),
    ("Event loops", _LOOPS),
    ("HTTP", _HTTP),
    ("HTTP/2", _HTTP2),
    ("WebSockets", _WEBSOCKETS),
    ("Topics", _TOPICS),
)
CATALOGUE: tuple[Metric, ...] = tuple(metric for _, metrics in SECTIONS for metric in metrics)
