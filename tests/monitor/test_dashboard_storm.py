"""The dashboard of a running server with two workers, in a real browser: during a storm of
WebSockets its figures are those of /metrics, and a worker that is killed shows.

With `--pictures docs/images` it writes the documentation's pictures.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asgi_poller.commands.status_words import whole
from tests.monitor.test_application import ask
from tests.monitor.test_dashboard_browser import FIGURES, LIVE, TABLES, WATCH
from tests.support.browser import Page, browser, executable
from tests.support.command import Command, Process, running
from tests.support.server import Served
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the path"),
]

CHANNELS = 3000
EVENTS = "[...document.querySelectorAll('#events li')].map((each) => each.innerText)"
AS_OF = "document.getElementById('as-of').dateTime"
#: A figure of the page, and the metrics that it is the sum of.
SUMS = {
    "websockets_open": ["loop_websockets"],
    "websockets_opened": ["websockets_opened_total"],
    "connections_open": ["loop_connections"],
    "requests_running": ["loop_running_requests"],
    "accepted": ["poller_accepted_total"],
    "refused": [
        "refused_total", "poller_failed_total", "poller_aborted_total", "poller_dropped_total",
    ],
    "messages_received": ["websocket_messages_received_total"],
    "messages_sent": ["websocket_messages_sent_total"],
}  # fmt: skip


class Metrics:
    """What /metrics says at one moment."""

    def __init__(self, address: tuple[str, int]) -> None:
        text = ask(Served(address[1]), "/metrics").body.decode()
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> int:
        """Of all samples of that name that have these labels."""
        values: list[float] = [
            sample.value
            for sample in self._samples
            if sample.name == f"asgi_poller_{name}" and labels.items() <= sample.labels.items()
        ]
        return round(sum(values))

    def figures(self) -> dict[str, int]:
        """As on the page."""
        return {name: sum(map(self.sum, names)) for name, names in SUMS.items()}

    def rows(self, table: str) -> list[list[str]]:
        """As in a table of the page: whole numbers only."""
        if table == "closes":
            found = [
                (code, [self.sum("websocket_closes_total", code=code, by=by) for by in
                        ("peer", "application", "server")])
                for code in sorted({each.labels["code"] for each in self._samples
                                    if each.name == "asgi_poller_websocket_closes_total"})
            ]  # fmt: skip
            return [[code, *map(whole, counts)] for code, counts in found if any(counts)]
        loops = [
            each.labels for each in self._samples if each.name == "asgi_poller_loop_connections"
        ]
        return [
            [each["worker"], each["loop"], whole(self.sum("loop_connections", **each))]
            for each in loops
        ]


def addresses(command: Command) -> tuple[tuple[str, int], tuple[str, int]]:
    """Where it serves, and where it shows."""
    found = command.wait_for(r"Metrics and health on http://([^:]+):(\d+)")
    return command.address, (found[1], int(found[2]))


@contextlib.contextmanager
def storm(address: tuple[str, int], *options: str) -> Iterator[Process]:
    """Clients that open CHANNELS WebSockets and keep them, until told to end."""
    url = f"ws://{address[0]}:{address[1]}/"
    command = [sys.executable, "-m", "asgi_poller.storm", url, "--mode", "hold", "--touch"]
    given = ["-c", str(CHANNELS), "--burst", "100", "--interval", "100ms", "--duration", "300s"]
    clients = Process([*command, *given, *options], both_streams=True)
    try:
        yield clients
        clients.signal(signal.SIGINT)
        clients.wait()
    finally:
        clients.close()


def page_after(page: Page, moment: float) -> dict[str, int]:
    """The figures of the first snapshot that is younger than `moment`."""
    iso = datetime.fromtimestamp(moment).astimezone().isoformat()
    page.wait_for(f"new Date({AS_OF}) > new Date({iso!r})")
    return whole_figures(page)


def whole_figures(page: Page) -> dict[str, int]:
    texts = page.run(FIGURES)
    return {name: int(texts[name].replace(",", "")) for name in SUMS}


def assert_equal_at_rest(page: Page, port: tuple[str, int], **expected: int) -> None:
    """Once nothing changes any more, the page says what /metrics says, exactly."""

    def is_settled() -> bool:
        figures = Metrics(port).figures()
        return all(figures[name] == value for name, value in expected.items())

    wait_until(is_settled, f"/metrics says {expected}")
    before = Metrics(port)
    figures = page_after(page, time.time())
    assert figures == before.figures() == Metrics(port).figures()
    tables = page.run(TABLES)
    assert [[row[0], row[1], row[3]] for row in tables["loops"]] == before.rows("loops")
    assert [[row[0].split()[0], *row[1:]] for row in tables["closes"]] == before.rows("closes")


def keep_picture(page: Page, folder: str | None, name: str, **look: int | str) -> None:
    """Where pictures are wanted."""
    if folder is None:
        return
    page.look_like(**look)  # type: ignore[arg-type]
    page_after(page, time.time())
    page_after(page, time.time())  # bars have moved to their place
    Path(folder).mkdir(exist_ok=True)
    image = pytest.importorskip("PIL.Image", reason="pictures need pillow: they are made small")
    small = image.open(io.BytesIO(page.picture())).convert("RGB").quantize(128, dither=0)
    small.save(Path(folder) / f"{name}.png", optimize=True)


def test_a_storm_and_a_killed_worker(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pictures = request.config.getoption("--pictures")
    with running("--metrics", "0", "--pollers", "2") as command, browser(tmp_path) as windows:
        served, port = addresses(command)
        page = windows.open(f"http://{port[0]}:{port[1]}", first=WATCH)
        page.look_like(width=1280, height=900)
        page.wait_for(LIVE)
        with storm(served):
            is_over = False
            while not is_over:
                before, moment = Metrics(port).figures(), time.time()
                shown = page_after(page, moment)
                after = Metrics(port).figures()
                for name in SUMS:
                    assert before[name] <= shown[name] <= after[name], name
                is_over = before["websockets_open"] == CHANNELS
            # each has been greeted, and has had its message echoed
            assert_equal_at_rest(page, port, websockets_open=CHANNELS, messages_sent=2 * CHANNELS)
            keep_picture(page, pictures, "dashboard-light", width=1280, height=900)
        assert_equal_at_rest(page, port, connections_open=0, requests_running=0)
        assert page.run(FIGURES)["websockets_opened"] == whole(CHANNELS)

        victim = command.workers[0]
        os.kill(victim, signal.SIGKILL)
        page.wait_for(f"{EVENTS}.some((text) => /crashed[^]*{victim}/.test(text))")
        page.wait_for("document.getElementById('restarts').textContent === 'Replaced: 1 crashed.'")
        successor = command.wait_for(r"Started worker \d+ \[(\d+)", count=3)[1]
        rows = "[...document.getElementById('workers').tBodies[0].rows].map((row) =>" \
            " `${row.cells[1].textContent} ${row.cells[2].textContent}`)"  # fmt: skip
        page.wait_for(f"{rows}.includes('{successor} ● serving')")
        assert not any(re.match(rf"{victim}\b", row) for row in page.run(rows))
        assert page.run("document.querySelectorAll('.line-of-time .mark.bad').length") == 1
        # What the dead worker had counted last is not lost.
        assert page.run(FIGURES)["websockets_opened"] == whole(CHANNELS)
        if pictures is not None:
            with storm(served):
                wait_until(lambda: Metrics(port).figures()["websockets_open"] == CHANNELS)
                keep_picture(
                    page, pictures, "dashboard-dark", width=1280, height=900, scheme="dark"
                )
                keep_picture(page, pictures, "dashboard-phone", width=390, height=844)
        assert page.run("faults") == []
