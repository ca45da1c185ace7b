"""Topics over `--reload`: the worker goes, the hub and its history stay."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command, started
from tests.support.waiting import wait_until
from tests.topics.workers import APP, HISTORY, Rooms, hub_of, hubs_of, resumers, wait_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[Command, Rooms]]:
    """With a source that the test may change."""
    options = ("--reload", "--reload-delay", "0.05", "--reload-dir", str(folder))
    with started(*options, *HISTORY, app=APP) as command:
        host, port = command.address
        with Rooms(f"{host}:{port}") as rooms:
            rooms.ask("/pid")
            yield command, rooms


@pytest.mark.long
def test_clients_resume_over_reloads_and_miss_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as (command, rooms), resumers(rooms.address, 3) as clients:
        hub = hub_of(command.pid)
        texts = []
        for turn in range(3):
            if turn:
                (tmp_path / "source.py").write_text(f"{turn}")
                command.wait_for("Finished worker", count=turn)
            # there is no client in the first moments after a reload: nothing is lost all the same
            for number in range(20):
                texts.append(f"{turn}.{number}")
                assert rooms.publish(texts[-1])["id"]
        for each in clients:
            wait_until(lambda each=each: each.has(texts[-1]))  # type: ignore[misc]  # bound
            assert [text for _, text in each.got] == texts
            assert each.gaps == 0
        assert hubs_of(command.pid) == [hub]
        assert command.stop() == 0
        wait_gone(command.pid)


@pytest.mark.long
def test_a_killed_hub_is_replaced_and_a_killed_reloader_leaves_none(tmp_path: Path) -> None:
    with served(tmp_path) as (command, rooms):
        member = rooms.member()
        hub = hub_of(command.pid)
        os.kill(hub, signal.SIGKILL)
        command.wait_for(rf"Topic hub \[{hub}\] was killed by SIGKILL; starting another")
        hub_of(command.pid, besides=hub)
        wait_until(lambda: "id" in rooms.publish("again"))
        assert member.text() == "again"
        os.kill(command.pid, signal.SIGKILL)
        wait_gone(command.pid)


@pytest.mark.long
def test_without_topics_there_is_no_hub(tmp_path: Path) -> None:
    with served(tmp_path) as (command, _):
        (tmp_path / "source.py").write_text("changed")
        command.wait_for("Reloaded in")
        assert hubs_of(command.pid) == []
        assert command.stop() == 0
        wait_gone(command.pid)
