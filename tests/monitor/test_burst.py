"""A burst of connects, and somebody who asks meanwhile: the burst is served, the questions too."""

from __future__ import annotations

import threading

import pytest

from tests.monitor.metrics import MonitorPort, monitor_of
from tests.support.command import running
from tests.support.crowd import crowd
from tests.support.waiting import wait_until

CONNECTIONS = 2000


@pytest.mark.long
@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("workers", [1, 2])
def test_two_thousand_connects_while_it_is_scraped(workers: int) -> None:
    with running("--metrics", "0", "--ws-ping-interval", "0", workers=workers) as command:
        port = monitor_of(command)
        accepted: list[float] = []
        ready: list[int] = []
        over = threading.Event()
        scraper = threading.Thread(target=scrape, args=(port, accepted, ready, over), daemon=True)
        with crowd(command.address) as visitors:
            scraper.start()
            visitors.open(CONNECTIONS)
            assert visitors.problems() == {}
            over.set()
            scraper.join()
            assert accepted, "it was scraped meanwhile"
            assert set(ready) == {200}
            assert accepted == sorted(accepted), "a counter never shrinks"
            wait_until(
                lambda: port.value("loop_websockets") == CONNECTIONS, "all of them are shown"
            )
            assert port.value("websocket_handshake_duration_seconds_count") == CONNECTIONS
            assert port.value("poller_batch_connections_sum") >= CONNECTIONS


def scrape(
    port: MonitorPort, accepted: list[float], ready: list[int], over: threading.Event
) -> None:
    while not over.is_set():
        accepted.append(port.value("poller_accepted_total"))
        ready.append(port.status("/readyz"))
