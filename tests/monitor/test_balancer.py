"""HAProxy, configured as docs/deployment.md says, sends clients elsewhere before a server stops."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.monitor.metrics import monitor_of
from tests.support.command import Process, get, started
from tests.support.processes import ROOT, free_port
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on the path"),
]

HEAD = """\
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend web
    bind 127.0.0.1:{port}
    default_backend chat
"""


def backend() -> str:
    """The block of the page that asks /readyz."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```haproxy\n(.*?)```", page, re.DOTALL)
    return next(block for block in blocks if "/readyz" in block)


def test_nobody_is_sent_to_a_server_that_stops(tmp_path: Path) -> None:
    port = free_port()
    options = ("--metrics", "0", "--drain-delay", "8s")
    with started(*options) as leaving, started(*options) as staying:
        lines = []
        for name, command in (("one", leaving), ("two", staying)):
            command.wait_ready()
            line = re.search(r"    server one 127.0.0.1:8000 (check port )9100\n", backend())
            assert line is not None
            address = f"127.0.0.1:{command.address[1]}"
            lines.append(f"    server {name} {address} {line[1]}{monitor_of(command).port}\n")
        text = re.sub(r"    server one .*\n", "".join(lines), backend())
        file = tmp_path / "haproxy.cfg"
        file.write_text(HEAD.format(port=port) + text)
        proxy = Process(["haproxy", "-db", "-f", str(file)], both_streams=True)
        seen: Counter[str] = Counter()
        problems: list[str] = []
        over = threading.Event()

        def visit() -> None:
            while not over.wait(0.005):
                try:
                    seen[get(("127.0.0.1", port), "/pid").split()[0]] += 1
                except (OSError, AssertionError) as error:
                    problems.append(repr(error))

        try:
            wait_until(lambda: is_served(port), "HAProxy serves")
            visitor = threading.Thread(target=visit, daemon=True)
            visitor.start()
            wait_until(lambda: min(seen[str(it.pid)] for it in (leaving, staying)) > 5, "both")
            leaving.signal(signal.SIGTERM)
            leaving.wait_for("Shutting down")
            before = seen[str(leaving.pid)]
            assert leaving.wait() == -signal.SIGTERM
            count = seen.total()
            wait_until(lambda: seen.total() > count + 50, "visits go on")
            assert seen[str(leaving.pid)] == before, "nobody came after the delay"
            over.set()
            visitor.join()
            assert problems == []
        finally:
            over.set()
            proxy.close()


def is_served(port: int) -> bool:
    try:
        return bool(get(("127.0.0.1", port), "/pid"))
    except (OSError, AssertionError):
        return False
