"""At a binary upgrade the new supervisor takes the monitor's port over, and nobody who asks is
turned away meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.monitor.metrics import MonitorPort, monitor_of
from tests.support.command import running
from tests.support.processes import is_alive
from tests.support.waiting import wait_until

_NEW = r"Started a new supervisor \[(\d+)\]"


class Asker(threading.Thread):
    """Asks for /healthz again and again, over a new connection each time."""

    def __init__(self, port: MonitorPort) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._stop_asked = threading.Event()
        self.problems: list[str] = []
        self.count = 0

    def run(self) -> None:
        while not self._stop_asked.wait(0.002):
            try:
                status = self._port.status("/healthz")
                if status != 200:
                    self.problems.append(str(status))
            except (OSError, EOFError) as error:
                self.problems.append(repr(error))
            self.count += 1

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


@pytest.mark.long
def test_the_port_goes_from_one_to_the_other() -> None:
    with running("--metrics", "0", "--drain-delay", "60") as command:
        port = monitor_of(command)
        assert port.json()["pid"] == command.pid
        asker = Asker(port)
        asker.start()
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(_NEW)[1])
        try:
            assert command.wait(has_heir=True) == 0, "without --drain-delay: the new one serves"
            wait_until(lambda: port.status("/readyz") == 200, "the new one is ready")
            assert port.json()["pid"] == new
            asker.stop()
            assert asker.count > 20
            assert asker.problems == []
            assert not command.said("Serving on")
        finally:
            with contextlib.suppress(ProcessLookupError):
                for _ in range(2):  # it has the delay
                    os.kill(new, signal.SIGQUIT)
            wait_until(lambda: not is_alive(new), "the new supervisor ends")


@pytest.mark.long
def test_a_new_one_that_fails_leaves_it_to_the_old_one(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    with running("--metrics", "0", environ={"TEST_FAIL": str(fail)}) as command:
        port = monitor_of(command)
        fail.write_text("lifespan")
        asker = Asker(port)
        asker.start()
        command.signal(signal.SIGUSR2)
        command.wait_for("The upgrade failed, this supervisor goes on")
        asker.stop()
        assert asker.problems == []
        assert port.json()["pid"] == command.pid
        assert command.stop() == 0
