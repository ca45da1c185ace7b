"""`python -m benchmarks.subscription_memory`: what a WebSocket and its subscriptions take.

One server process, a bare ASGI application, plain sockets as clients that read nothing; the figure
is the growth of the server's PSS. Writes benchmarks/results/subscription-memory.json.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.runner import RESULTS, save

TOPICS = 1000
_CALM_S = 1.0  # until what opening needed is given back
_WAIT_S = 10.0
HANDSHAKE = (
    "GET /{start}/{count} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/START/COUNT: subscribes to so many of the topics, the first of them START."""
    _, start, count = scope["path"].split("/")
    await receive()
    await send({"type": "websocket.accept"})
    for number in range(int(start), int(start) + int(count)):
        topic = f"topic:{number % TOPICS}"
        await send({"type": "websocket.topic.subscribe", "topic": topic})
    while (await receive())["type"] == "websocket.receive":
        pass


def proportional_bytes(pid: int) -> int:
    """PSS, from proc_pid_smaps(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def opened(port: int, count: int, subscriptions: int) -> list[socket.socket]:
    """So many clients, past their handshakes and subscribed."""
    clients = []
    for start in range(count):
        client = socket.create_connection(("127.0.0.1", port), _WAIT_S)
        client.sendall(HANDSHAKE.format(start=start, count=subscriptions).encode())
        while b"\r\n\r\n" not in client.recv(4096):
            pass
        clients.append(client)
    time.sleep(_CALM_S)
    return clients


def measured(port: int, pid: int, count: int) -> dict[str, float]:
    """Bytes for each WebSocket with 0, 1 and 11 subscriptions, once everything has begun."""
    clients = opened(port, count // 4, 1)
    each = []
    for subscriptions in (0, 1, 11):
        before = proportional_bytes(pid)
        clients += opened(port, count, subscriptions)
        each.append((proportional_bytes(pid) - before) / count)
    for client in clients:
        client.close()
    idle, one, eleven = each
    return {
        "websocket_bytes": idle,
        "first_subscription_bytes": one - idle,
        "subscription_bytes": (eleven - one) / 10,
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--count", default=4000, help="WebSockets for each figure.")
def main(count: int) -> None:
    """Measure, and write the result."""
    options = ["--port", "0", "--lifespan", "off", "--no-access-log"]
    command = [sys.executable, "-m", "asgi_poller", f"{__spec__.name}:app", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = (re.search(r"running on http://127.0.0.1:(\d+)", it) for it in server.stderr)
            port = int(next(found for found in lines if found)[1])
            figures = measured(port, server.pid, count)
        finally:
            server.terminate()
            server.communicate()
    save({"machine": machine.describe(), **figures}, RESULTS / "subscription-memory.json")
    for name, value in figures.items():
        click.echo(f"{name:26} {value:8,.0f}")


if __name__ == "__main__":
    main()
