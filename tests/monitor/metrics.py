"""A running server's metrics, read as Prometheus would read them."""

from __future__ import annotations

import importlib
import json
from typing import Any

from tests.support.client import Response, get
from tests.support.command import Command
from tests.support.server import Served
from tests.support.waiting import wait_until

text_string_to_metric_families = importlib.import_module(
    "prometheus_client.parser"
).text_string_to_metric_families

#: What the log says of a monitor's port.
SHOWN = r"Metrics and health on http://127.0.0.1:(\d+)"


class MonitorPort(Served):
    """A monitor's port, and what it shows."""

    def page(self, path: str, *headers: str, host: str = "localhost") -> Response:
        """The answer to one request."""
        with self.connect() as client:
            client.sendall(get(path, "Connection: close", *headers, host=host))
            return client.response()

    def status(self, path: str) -> int:
        """What /healthz or /readyz say."""
        return self.page(path).status

    def json(self) -> dict[str, Any]:
        """What /status.json says."""
        shown: dict[str, Any] = json.loads(self.page("/status.json").body)
        return shown

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; 0 without any."""
        answer = self.page("/metrics")
        assert answer.status == 200, answer
        found: float = sum(
            sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
            if sample.name == f"asgi_poller_{name}" and labels.items() <= sample.labels.items()
        )
        return found

    def wait_for(self, name: str, least: float, **labels: str) -> None:
        """Wait until a value is at least so large: loops publish four times a second."""
        wait_until(lambda: self.value(name, **labels) >= least, f"{name}{labels} is {least}")


def monitor_of(command: Command) -> MonitorPort:
    """The monitor of a command with --metrics 0."""
    return MonitorPort(int(command.wait_for(SHOWN)[1]))
