"""What is compared: each scenario has an application, a measure, and the columns of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

from benchmarks import measures
from benchmarks.measures import Asked, Metrics
from benchmarks.peers import SEVERAL_WORKERS, WEBSOCKETS

BARE, FRAMEWORK, COMPUTING, TOPICS = "bare:app", "framework:app", "computing:app", "topics:app"
# Who sends to all by something that is made for it; the others have only loops.
SENDERS = ("asgi-poller*", "websockets, broadcast", "socketify, topics", "C, only writes")
BUSY_S = "0.2"


@dataclass(frozen=True, slots=True)
class Setup:
    """How a server is started: scenarios with equal set-ups share one server in a round."""

    app: str = BARE
    workers: int = 1
    environ: tuple[tuple[str, str], ...] = ()
    # More options, for our own server: its command line is the only one that we may lengthen.
    more: str = ""
    # A name of its own keeps a scenario from sharing: its server is fresh.
    alone: str = ""
    # The server on one core and the load on another; else both on all of them.
    pinned: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One comparison. `columns` maps the metrics worth a table's column to their headings, the
    first being the one that charts show; `less_is_better` tells which way it goes. `quick`
    scenarios are part of a quick run. `needs` names what a server must have (peers.py).
    """

    name: str
    title: str
    measure: Callable[[Asked], Metrics]
    setup: Setup = field(default_factory=Setup)
    columns: Mapping[str, str] = field(default_factory=dict)
    less_is_better: bool = False
    quick: bool = False
    needs: tuple[str, ...] = (WEBSOCKETS,)
    peers: tuple[str, ...] = ()  # patterns: these only

    def is_for(self, peer: str) -> bool:
        """Whether a peer of this name takes part."""
        return not self.peers or any(fnmatch(peer, pattern) for pattern in self.peers)


MESSAGES = {
    "per_s": "messages/s",
    "cpu_us": "server µs each",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
}
DELIVERIES = MESSAGES | {"per_s": "deliveries/s"}
DELIVERIES_DEFLATED = DELIVERIES | {"deflated": "channels compressed"}
COMPUTING_COLUMNS = MESSAGES | {"mib": "server MiB"}
DEFLATED = MESSAGES | {"deflated": "channels compressed"}
REQUESTS = MESSAGES | {"per_s": "requests/s"}
OPENS = {"per_s": "opened/s", "cpu_us": "server µs each", "p99_ms": "p99 ms", "failed": "failed"}
MEMORY = {"octets": "octets each", "failed": "failed"}
BURST = {
    "failed": "failed",
    "failed_percent": "%",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
    "per_s": "opened/s",
    "listen_overflows": "listen overflows",
}
BESIDE = {
    "per_s": "echoes/s with opens",
    "per_s_alone": "alone",
    "open_per_s": "opened/s",
    "open_p50_ms": "open p50 ms",
    "open_p99_ms": "open p99 ms",
}
SPREAD = {
    "off_mean_percent": "% off the mean",
    "fewest": "fewest",
    "most": "most",
    "workers": "workers",
}


def _echo(
    label: str, octets: int, in_flight: int, *, text: bool = False, quick: bool = False
) -> Scenario:
    return Scenario(
        f"echo-{label}-{'text' if text else 'binary'}-{in_flight}",
        f"Echo, {octets:,} octets {'text' if text else 'binary'}, {in_flight} in flight",
        measures.echo("/", octets=octets, in_flight=in_flight, text=text),
        columns=MESSAGES,
        quick=quick,
    )


def _deflate(in_flight: int, *, quick: bool = False) -> Scenario:
    return Scenario(
        f"echo-deflate-{in_flight}",
        f"Echo, 576 octets of JSON, permessage-deflate offered, {in_flight} in flight",
        measures.echo("/", octets=576, in_flight=in_flight, text=True, deflate=True),
        columns=DEFLATED,
        quick=quick,
    )


def _framework_echo(in_flight: int) -> Scenario:
    return Scenario(
        f"framework-echo-{in_flight}",
        f"FastAPI echo, 32 octets text, {in_flight} in flight",
        measures.echo("/ws", octets=32, in_flight=in_flight, text=True),
        setup=Setup(app=FRAMEWORK),
        columns=MESSAGES,
    )


def _fan_out(*, framework: bool = False, deflate: bool = False, quick: bool = False) -> Scenario:
    size = "576 octets of JSON, permessage-deflate offered" if deflate else "32 octets"
    sender = ", Starlette's send_text" if framework else ""
    return Scenario(
        f"{'framework-' if framework else ''}fan-out{'-deflate' if deflate else ''}",
        f"One message to 1,000 channels{sender}, {size}",
        measures.fan_out(
            payload=measures.json_message(576) if deflate else None,
            text=framework or deflate,
            deflate=deflate,
        ),
        setup=Setup(app=FRAMEWORK if framework else BARE),
        columns=DELIVERIES_DEFLATED if deflate else DELIVERIES,
        quick=quick,
    )


def _topics(kind: str = "") -> Scenario:
    """In one server: by topics, by topics to who has asked for compression, by a loop."""
    path, how = ("/loop", "FastAPI's send_text in a loop") if kind == "loop" else ("/fan", "topics")
    offered = ", permessage-deflate offered" if kind == "deflate" else ""
    return Scenario(
        f"topics-{kind}" if kind else "topics",
        f"256 octets of JSON to 10,000 WebSockets: {how}{offered}",
        measures.fan_out(
            path,
            payload=measures.json_message(256),
            connections=10_000,
            text=True,
            deflate=kind == "deflate",
        ),
        setup=Setup(app=TOPICS, alone="topics"),
        columns=DELIVERIES_DEFLATED if offered else DELIVERIES,
        peers=SENDERS[:1] if kind else SENDERS,
    )


def _topics_of_workers(workers: int) -> Scenario:
    return Scenario(
        f"workers-topics-{workers}",
        f"256 octets of JSON to 10,000 WebSockets of {workers} worker{'s'[: workers - 1]}, on all"
        " cores: topics",
        measures.fan_out(payload=measures.json_message(256), connections=10_000, text=True),
        setup=Setup(app=TOPICS, workers=workers, alone="workers-topics", pinned=False),
        columns=DELIVERIES,
        peers=SENDERS[:1],
    )


HTTP2_PEERS = ("asgi-poller", "asgi-poller, compiled", "h2corn", "hypercorn")
HTTP2 = {"per_s": "requests/s", "cpu_us": "server µs each", "failed": "failed"}


def _http2() -> Scenario:
    return Scenario(
        "http2",
        "HTTP/2 GET, bare ASGI, 100 streams of one connection",
        measures.http2(),
        columns=HTTP2,
        needs=(),
        peers=HTTP2_PEERS,
    )


def _http2_echo() -> Scenario:
    return Scenario(
        "http2-echo",
        "Echo over HTTP/2, 32 octets binary, 100 WebSockets of one connection",
        measures.http2_echo(octets=32),
        columns=HTTP2 | {"per_s": "messages/s"},
        peers=HTTP2_PEERS,
    )


def _get(*, framework: bool = False, connections: int = 64, quick: bool = False) -> Scenario:
    name, title = ("framework-json", "FastAPI JSON") if framework else ("http", "bare ASGI")
    few = connections != 64
    count = f", {connections} connection{'s' if connections > 1 else ''}"
    return Scenario(
        f"{name}-{connections}" if few else name,
        f"HTTP GET, {title}{count if few else ''}",
        measures.http(connections=connections),
        setup=Setup(app=FRAMEWORK if framework else BARE),
        columns=REQUESTS,
        quick=quick,
        needs=(),
    )


def _memory(*, deflate: bool) -> Scenario:
    name = "idle-memory-deflate" if deflate else "idle-memory"
    offered = "permessage-deflate offered" if deflate else "no extension offered"
    return Scenario(
        name,
        f"Memory of an idle WebSocket (PSS), {offered}",
        measures.idle_memory(deflate=deflate),
        setup=Setup(alone=name),
        columns=MEMORY,
        less_is_better=True,
        quick=True,
    )


SCENARIOS = (
    _echo("32", 32, 1, quick=True),
    _echo("32", 32, 16, quick=True),
    _echo("32", 32, 1, text=True),
    _echo("32", 32, 16, text=True),
    _echo("4k", 4096, 1),
    _echo("4k", 4096, 16),
    _echo("64k", 65536, 1),
    _echo("64k", 65536, 16),
    _deflate(1, quick=True),
    _deflate(16),
    _fan_out(quick=True),
    _fan_out(deflate=True),
    _get(quick=True),
    _get(connections=8),
    _get(connections=1),
    _http2(),
    _http2_echo(),
    Scenario(
        "opens",
        "Opening WebSockets that stay open",
        measures.opens(close=None),
        columns=OPENS,
        quick=True,
    ),
    Scenario(
        "opens-dropped",
        "Opening WebSockets, each dropped by its client when open",
        measures.opens(close="drop"),
        columns=OPENS,
    ),
    Scenario(
        "opens-closed",
        "Opening WebSockets, each closed by close frames when open",
        measures.opens(close="handshake"),
        columns=OPENS,
    ),
    Scenario(
        "echo-beside-opens",
        "Echo of 50 connections while 3,000 WebSockets a second open and close",
        measures.echo_beside_opens,
        columns=BESIDE,
    ),
    _framework_echo(1),
    _framework_echo(16),
    _fan_out(framework=True),
    _fan_out(framework=True, deflate=True),
    _topics(),
    _topics("deflate"),
    _topics("loop"),
    _topics_of_workers(1),
    _topics_of_workers(2),
    _get(framework=True, quick=True),
    _get(framework=True, connections=8),
    _get(framework=True, connections=1),
    _memory(deflate=False),
    _memory(deflate=True),
    Scenario(
        "burst",
        "The burst: 18,000 attempts, 10,000 every 50 ms, 5 s timeout",
        measures.burst(attempts=18_000, timeout_s=5.0),
        setup=Setup(alone="burst"),
        columns=BURST,
        less_is_better=True,
        quick=True,
    ),
    Scenario(
        "burst-busy",
        "The burst, the application blocking its loop 200 ms at a time: 16,000 attempts",
        measures.burst(attempts=16_000, timeout_s=8.0),
        setup=Setup(alone="burst-busy", environ=(("BENCH_BUSY_S", BUSY_S),)),
        columns=BURST,
        less_is_better=True,
    ),
    Scenario(
        "spread",
        "4,000 idle WebSockets over 4 workers",
        measures.spread,
        setup=Setup(workers=4, alone="spread"),
        columns=SPREAD,
        less_is_better=True,
        needs=(WEBSOCKETS, SEVERAL_WORKERS),
    ),
    Scenario(
        "computing-echo",
        "Echo of 40 connections, the application computing for each message, on all cores",
        measures.echo("/", octets=32, in_flight=1, connections=40, text=False),
        setup=Setup(app=COMPUTING, alone="computing", pinned=False),
        columns=COMPUTING_COLUMNS,
    ),
)


def chosen(names: tuple[str, ...], *, quick: bool) -> tuple[Scenario, ...]:
    """Those that match one of `names`, shell patterns, or all of the run. Raises KeyError."""
    for name in names:
        if not any(fnmatch(one.name, name) for one in SCENARIOS):
            raise KeyError(name)
    if names:
        return tuple(one for one in SCENARIOS if any(fnmatch(one.name, name) for name in names))
    return tuple(one for one in SCENARIOS if one.quick or not quick)
