"""Redis and NATS that tests start, each in a directory of its own and on free ports."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.command import Process
from tests.support.processes import free_port
from tests.support.waiting import DEADLINE_S, wait_until

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")

needs_nats = pytest.mark.skipif(shutil.which("nats-server") is None, reason="no nats-server")


class RedisServer:
    """One redis-server that keeps what it is told, and can end and start again."""

    def __init__(self, directory: Path, *options: str, tls: tuple[str, ...] = ()) -> None:
        self.port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        listen = ("--port", "0", "--tls-port", str(self.port), *tls)
        self._command = [
            "redis-server",
            *(listen if tls else ("--port", str(self.port))),
            *("--bind", "127.0.0.1", "--dir", str(directory), "--save", "", "--appendonly", "yes"),
            # with everysec it answers before it writes while an fsync is under way: a killed one
            # would have forgotten that, and subscribers would be told of a gap
            *("--appendfsync", "always"),
            *options,
        ]
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it serves."""
        self.process = Process(self._command, both_streams=True)
        self.process.wait_for("Ready to accept connections")

    def stop(self, *, kill: bool = False) -> None:
        """End it, in order or not."""
        if self.process is not None:
            if not kill:
                self.process.stop()
            self.process.close()
            self.process = None

    def client(self, **options: Any) -> Any:
        """A connection to it, which a with statement closes."""
        return redis.Redis(port=self.port, decode_responses=True, **options)

    def channels(self) -> list[str]:
        """What somebody has subscribed."""
        with self.client() as client:
            found: list[str] = client.execute_command("PUBSUB", "CHANNELS")
            return sorted(found)

    def shard_channels(self) -> list[str]:
        """The same of a server of a Cluster."""
        with self.client() as client:
            found: list[str] = client.execute_command("PUBSUB", "SHARDCHANNELS")
            return sorted(found)


@contextlib.contextmanager
def redis_server(
    directory: Path, *options: str, tls: tuple[str, ...] = ()
) -> Iterator[RedisServer]:
    """Runs meanwhile."""
    server = RedisServer(directory, *options, tls=tls)
    server.start()
    try:
        yield server
    finally:
        server.stop(kill=True)


@contextlib.contextmanager
def redis_cluster(directory: Path, count: int = 3) -> Iterator[list[RedisServer]]:
    """So many masters that share the slots."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for number in range(count):
            bus_port = free_port()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port))
            nodes.append(stack.enter_context(redis_server(directory / str(number), *options)))
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=DEADLINE_S)
        wait_until(lambda: all(map(_is_whole, nodes)), "the cluster is whole")
        yield nodes


def _is_whole(node: RedisServer) -> bool:
    with node.client() as client:
        info: dict[str, str] = client.cluster("INFO")
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"


class NatsServer:
    """One nats-server with JetStream, which can end and start again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.monitor_port = free_port()
        self._command = [
            *("nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(directory)),
            *("-m", str(self.monitor_port), *options),
        ]
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it serves."""
        self.process = Process(self._command, both_streams=True)
        self.process.wait_for("Server is ready")

    def stop(self, *, kill: bool = False) -> None:
        """End it, in order or not."""
        if self.process is not None:
            if not kill:
                self.process.stop()
            self.process.close()
            self.process = None

    def subjects(self, beginning: str) -> list[str]:
        """What clients have subscribed that begins so."""
        url = f"http://127.0.0.1:{self.monitor_port}/connz?subs=1"
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            found = json.load(answer)
        lists = [each.get("subscriptions_list", []) for each in found["connections"]]
        return sorted(each for one in lists for each in one if each.startswith(beginning))


@contextlib.contextmanager
def nats_server(directory: Path, *options: str) -> Iterator[NatsServer]:
    """Runs meanwhile."""
    server = NatsServer(directory, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop(kill=True)
