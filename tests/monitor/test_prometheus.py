"""Debian's Prometheus scrapes a server with workers, and has what the server has counted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.monitor.metrics import monitor_of
from tests.support.command import Process, started
from tests.support.processes import ROOT, free_port
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on the path"),
]

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: asgi-poller
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    authorization: {{credentials: s3cret}}
"""


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def _asked(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self._url}/{path}", params=parameters, timeout=DEADLINE_S)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def total(self, query: str) -> float:
        """The sum of all series; 0 without any."""
        found = self._asked("query", query=query)["result"]
        return sum(float(each["value"][1]) for each in found)

    def alerts(self) -> dict[str, str]:
        """The name and health of each alert's rule."""
        groups = self._asked("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}


def test_it_has_what_the_server_has_counted(tmp_path: Path) -> None:
    port = free_port()
    options = ("--workers", "2", "--metrics", "0", "--metrics-token", "s3cret")
    with started(*options) as command:
        command.wait_ready(2)
        monitor, served = monitor_of(command), Served(command.address[1])
        file = tmp_path / "prometheus.yml"
        rules = ROOT / "docs" / "prometheus" / "alerts.yml"
        file.write_text(CONFIG.format(port=monitor.port, rules=rules))
        scraper = Process(
            [
                "prometheus",
                f"--config.file={file}",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
            ]
        )
        try:
            scraper.wait_for("Server is ready to receive web requests")
            prometheus = Prometheus(port)
            with served.websocket() as client:
                client.frame()
                for _ in range(10):
                    served.echo(client)
                wait_until(
                    lambda: prometheus.total("asgi_poller_websocket_messages_received_total") == 10,
                    "it has the messages",
                )
                assert prometheus.total("sum(asgi_poller_loop_websockets)") == 1
            assert prometheus.total("up") == 1
            assert prometheus.total("count(asgi_poller_loop_connections)") == 2, "each loop"
            assert prometheus.total('asgi_poller_worker_state{state="serving"}') == 2
            assert prometheus.total("sum(asgi_poller_poller_accepted_total)") >= 3
            buckets = "asgi_poller_websocket_handshake_duration_seconds_bucket"
            assert 0 < prometheus.total(f"histogram_quantile(0.99, {buckets})") < 30
            wait_until(lambda: set(prometheus.alerts().values()) == {"ok"}, "alerts are evaluated")
            assert "AsgiPollerNotServing" in prometheus.alerts()
        finally:
            scraper.close()
