"""How each kind of figure is taken from a running server. A measure returns named numbers.

Names say their unit. `per_s` is the headline of a measure where there is a rate; `cpu_us` is the
server's CPU time (its whole process tree) in microseconds for one operation; `failed` counts
attempts and channels that were lost.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asgi_poller.storm import probe
from asgi_poller.storm.fleet import Fleet, Outcome
from asgi_poller.storm.plan import Plan, loopback_sources, made_payload, parse_url
from asgi_poller.storm.summary import document
from benchmarks import http2_load, http_load
from benchmarks.servers import Server

Metrics = dict[str, float]
ALL_AT_ONCE = 1 << 30
# Idle connections before memory is read the first time: what a server makes once is made then.
WARM_CONNECTIONS = 200
# Longer than any run of a storm that goes on beside an echo.
BESIDE_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a measure works with: the server, how long to measure, and how much smaller to be."""

    server: Server
    seconds: float
    warmup_s: float
    scale: float = 1.0

    def count(self, full: int) -> int:
        """A number of connections, scaled for a quick run."""
        return max(1, round(full * self.scale))


def storm(asked: Asked, path: str, **fields: Any) -> dict[str, Any]:
    """Run a plan against the server; storm's JSON document."""
    return document(
        Fleet(plan_for(asked.server.port, path, **fields), server_pids=(asked.server.pid,)).run()
    )


def plan_for(port: int, path: str, **fields: Any) -> Plan:
    """A storm's plan for a local port, sources rotating."""
    target = parse_url(f"ws://127.0.0.1:{port}{path}")
    sources = loopback_sources(target["family"], target["address"])
    return Plan(**target, sources=sources, **fields)


def _lost(found: dict[str, Any]) -> int:
    return int(found["failed"]["total"] + found["lost"]["total"])


def _per_message(found: dict[str, Any]) -> Metrics:
    """Raises RuntimeError where there is nothing to divide by."""
    measured = found["messages"]["measured"]
    times = found["round_trip_ms"]
    if not measured:
        raise RuntimeError(f"no message came back, {_lost(found)} connections failed")
    memory = found["server"]["memory_octets"]
    return {
        "per_s": found["messages"]["per_s"],
        "cpu_us": round(1e6 * found["server"]["cpu_s"]["measuring"] / measured, 3),
        "p50_ms": times["p50"],
        "p99_ms": times["p99"],
        "failed": _lost(found),
        "mib": round(memory.get("measuring", 0) / (1 << 20), 2),
    }


def json_message(octets: int) -> bytes:
    """A JSON document of exactly `octets`, as compressible as what applications send."""
    rows = [{"id": at, "name": f"sensor-{at}", "value": at * 1.25, "ok": True} for at in range(99)]
    text = json.dumps({"type": "update", "rows": rows})
    return (text[: octets - 1] + "}").encode()


def echo(
    path: str, *, octets: int, in_flight: int, connections: int = 0, **more: Any
) -> Callable[[Asked], Metrics]:
    """Messages echoed per second by `connections` (0: 100, or 20 for large messages)."""

    def measure(asked: Asked) -> Metrics:
        payload = json_message(octets) if more.get("deflate") else made_payload(octets)
        found = storm(
            asked,
            path,
            mode="echo",
            connections=connections or (100 if octets < 1 << 16 else 20),
            payload=payload,
            in_flight=in_flight,
            warmup_s=asked.warmup_s,
            duration_s=asked.seconds,
            **more,
        )
        extra = {"deflated": found["deflate_channels"]} if more.get("deflate") else {}
        return _per_message(found) | extra

    return measure


def fan_out(
    path: str = "/fan",
    *,
    payload: bytes | None = None,
    connections: int = 1000,
    text: bool = False,
    deflate: bool = False,
) -> Callable[[Asked], Metrics]:
    """Deliveries per second of one message, by default 32 octets, to so many channels."""

    def measure(asked: Asked) -> Metrics:
        found = storm(
            asked,
            path,
            mode="fan-out",
            connections=connections,
            concurrency=100,
            payload=made_payload(32) if payload is None else payload,
            text=text,
            deflate=deflate,
            warmup_s=asked.warmup_s,
            duration_s=asked.seconds,
        )
        extra = {"deflated": found["deflate_channels"]} if deflate else {}
        return _per_message(found) | extra

    return measure


def http(*, connections: int = http_load.CONNECTIONS) -> Callable[[Asked], Metrics]:
    """Requests per second on keep-alive connections."""

    def measure(asked: Asked) -> Metrics:
        before_s = asked.server.cpu_s()
        load = http_load.run(asked.server.port, "/", seconds=asked.seconds, connections=connections)
        used_s = asked.server.cpu_s() - before_s
        metrics = {
            "per_s": round(load.requests / load.seconds, 1),
            "cpu_us": round(1e6 * used_s / max(1, load.requests), 3),
            "failed": load.errors,
        }
        if load.p50_ms is not None and load.p99_ms is not None:
            metrics |= {"p50_ms": load.p50_ms, "p99_ms": load.p99_ms}
        return metrics

    return measure


def http2() -> Callable[[Asked], Metrics]:
    """Requests per second on 100 streams of one HTTP/2 connection."""

    def measure(asked: Asked) -> Metrics:
        port, seconds = asked.server.port, asked.seconds
        return _of_load(asked, lambda: http2_load.requests(port, "/", seconds=seconds))

    return measure


def http2_echo(*, octets: int) -> Callable[[Asked], Metrics]:
    """Echoes on 100 WebSockets of one HTTP/2 connection, one in flight on each."""

    def measure(asked: Asked) -> Metrics:
        port, seconds = asked.server.port, asked.seconds
        return _of_load(asked, lambda: http2_load.echoes(port, "/", octets=octets, seconds=seconds))

    return measure


def _of_load(asked: Asked, run: Callable[[], http_load.Load]) -> Metrics:
    before_s = asked.server.cpu_s()
    load = run()
    used_s = asked.server.cpu_s() - before_s
    return {
        "per_s": round(load.requests / load.seconds, 1),
        "cpu_us": round(1e6 * used_s / max(1, load.requests), 3),
        "failed": load.errors,
    }


def opens(*, close: str | None) -> Callable[[Asked], Metrics]:
    """WebSockets opened per second, 100 under way at a time: kept open, or closed when open."""

    def measure(asked: Asked) -> Metrics:
        count = asked.count(12_000)
        fields: dict[str, Any] = {"mode": "open", "close": close}
        if close is None:
            fields = {"mode": "hold", "warmup_s": 0.0, "duration_s": 0.1}
        found = storm(
            asked,
            "/",
            connections=count,
            burst=ALL_AT_ONCE,
            concurrency=100,
            timeout_s=10.0,
            **fields,
        )
        return {
            "per_s": found["open_per_s"],
            "cpu_us": round(1e6 * found["server"]["cpu_s"]["opening"] / count, 2),
            "p50_ms": found["open_ms"]["p50"],
            "p99_ms": found["open_ms"]["p99"],
            "failed": _lost(found),
        }

    return measure


def idle_memory(*, deflate: bool) -> Callable[[Asked], Metrics]:
    """Memory (PSS) that one idle connection costs the server, in octets."""

    def measure(asked: Asked) -> Metrics:
        fields = {"mode": "hold", "burst": ALL_AT_ONCE, "concurrency": 100, "deflate": deflate}
        storm(asked, "/", connections=WARM_CONNECTIONS, warmup_s=0.0, duration_s=0.2, **fields)
        count = asked.count(5000)
        # Read at the end of the hold: what opening needed for a moment has been given back.
        found = storm(asked, "/", connections=count, warmup_s=0.0, duration_s=1.0, **fields)
        memory = found["server"]["memory_octets"]
        grown = memory["measuring"] - memory["before"]
        return {"octets": round(grown / max(1, found["opened"])), "failed": _lost(found)}

    return measure


def burst(*, attempts: int, timeout_s: float) -> Callable[[Asked], Metrics]:
    """Failures of a burst: 10,000 connects every 50 ms, all kept open."""

    def measure(asked: Asked) -> Metrics:
        found = storm(
            asked,
            "/",
            mode="hold",
            connections=attempts,
            burst=10_000,
            interval_s=0.05,
            timeout_s=timeout_s,
            warmup_s=0.0,
            duration_s=0.0,
        )
        return {
            "failed": found["failed"]["total"],
            "failed_percent": round(100 * found["failure_rate"], 3),
            "per_s": found["open_per_s"],
            "p50_ms": found["open_ms"]["p50"],
            "p99_ms": found["open_ms"]["p99"],
            "max_ms": found["open_ms"]["max"],
            "listen_overflows": found["server"]["listen_overflows"] or 0,
        }

    return measure


def echo_beside_opens(asked: Asked) -> Metrics:
    """Echoes per second of 50 connections, alone and while 3,000 WebSockets a second open and
    close.
    """
    per_s, step_s = 3000, 0.05
    echoing = {
        "mode": "echo",
        "connections": 50,
        "payload": made_payload(32),
        "warmup_s": asked.warmup_s,
    }
    alone = storm(asked, "/", duration_s=asked.seconds, **echoing)
    seconds = asked.warmup_s + asked.seconds + 1.0
    words = ["--connections", str(round(per_s * seconds)), "--burst", str(round(per_s * step_s))]
    words += ["--interval", f"{step_s}", "--timeout", "5s", "--processes", "1", "--json", "-", "-q"]
    url = f"ws://127.0.0.1:{asked.server.port}/"
    with subprocess.Popen(
        [sys.executable, "-m", "asgi_poller.storm", url, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        beside = storm(asked, "/", duration_s=asked.seconds, **echoing)
        said, _ = process.communicate(timeout=BESIDE_LIMIT_S)
    opened = json.loads(said)
    return {
        "per_s_alone": alone["messages"]["per_s"],
        "per_s": beside["messages"]["per_s"],
        "open_per_s": opened["open_per_s"],
        "open_p50_ms": opened["open_ms"]["p50"],
        "open_p99_ms": opened["open_ms"]["p99"],
        "failed": _lost(alone) + _lost(beside) + _lost(opened),
    }


def spread(asked: Asked) -> Metrics:
    """How evenly idle connections lie on the workers: the most and the fewest that one has."""
    count = asked.count(4000)
    before = {pid: probe.connections_of(pid) for pid in asked.server.pids()}
    held: dict[int, int] = {}

    def look(outcome: Outcome) -> None:
        if outcome.phase != "holding":
            return
        now = {pid: probe.connections_of(pid) - had for pid, had in before.items()}
        if sum(now.values()) >= sum(held.values()):  # else they are being closed already
            held.update(now)

    plan = plan_for(
        asked.server.port, "/", mode="hold", connections=count, burst=100, interval_s=0.01,
        warmup_s=0.0, duration_s=1.0,
    )  # fmt: skip
    outcome = Fleet(plan, on_tick=look).run()
    # The supervisor, where there is one, holds none; so do helper processes.
    workers = sorted(number for number in held.values() if number > count / 100)
    mean = sum(workers) / max(1, len(workers))
    return {
        "workers": len(workers),
        "fewest": workers[0] if workers else 0,
        "most": workers[-1] if workers else 0,
        "off_mean_percent": round(
            100 * max((abs(n - mean) for n in workers), default=0) / max(1.0, mean), 2
        ),
        "failed": outcome.tally.failures,
    }
