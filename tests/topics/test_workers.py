"""Topics over worker processes: everybody gets what anybody publishes, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.command import Command, running
from tests.support.processes import is_alive, suspend
from tests.support.waiting import DEADLINE_S, wait_until
from tests.topics.workers import (
    APP,
    HISTORY,
    Resumer,
    Rooms,
    hub_of,
    hubs_of,
    resumers,
    sockets_of,
    wait_gone,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@contextlib.contextmanager
def served(*options: str, workers: int = 2) -> Iterator[tuple[Command, Rooms]]:
    with running(*HISTORY, *options, workers=workers, app=APP) as command:
        host, port = command.address
        with Rooms(f"{host}:{port}") as rooms:
            yield command, rooms


@pytest.mark.parametrize("options", [(), ("--preload",), ("--loops", "2")], ids=str)
def test_what_one_worker_publishes_all_get(options: tuple[str, ...]) -> None:
    with served(*options) as (command, rooms):
        members = rooms.member_in_each()
        for turn, publisher in enumerate(members.values()):
            publisher.say(f"message {turn}")
            assert [each.text() for each in members.values()] == [f"message {turn}"] * 2
        by_request = rooms.publish("é" * 10_000)
        assert by_request["id"]
        assert [each.text() for each in members.values()] == ["é" * 10_000] * 2
        assert rooms.ask("/count")["here"] == 2
        assert command.stop() == 0
        wait_gone(command.pid)


def test_a_message_goes_only_to_workers_with_a_subscriber() -> None:
    with served("--balance", "round-robin") as (_, rooms):  # so that each worker is asked
        mine = rooms.member("b")
        members = rooms.member_in_each()
        one = members.pop(mine.pid)
        (other,) = members.values()
        for number in range(10):
            other.say(f"{number}")
            rooms.publish(f"{number}", topic="b")
            assert mine.text() == f"{number}"
        assert rooms.came(one.pid, "b") == 10
        assert rooms.came(other.pid, "b") == 0
        assert rooms.came(other.pid, "a") == 10
        mine.close()
        wait_until(lambda: rooms.ask("/count", "b")["here"] == 0)
        rooms.publish("for nobody", topic="b")
        other.say("after it")
        while one.text() != "after it":
            pass
        assert rooms.came(one.pid, "b") == 10


def test_without_topics_there_is_no_hub() -> None:
    with served() as (command, rooms):
        rooms.ask("/pid")
        assert hubs_of(command.pid) == []
        assert command.stop() == 0
        assert "hub" not in command.text


def test_a_killed_hub_is_replaced_and_clients_are_told_of_the_gap() -> None:
    with served() as (command, rooms):
        members = rooms.member_in_each()
        with_ids = rooms.member(ids="1")
        first = hub_of(command.pid)
        os.kill(first, signal.SIGKILL)
        command.wait_for(rf"Topic hub \[{first}\] was killed by SIGKILL; starting another$")
        assert with_ids.heard() == {"topic": "a", "lost": None}
        assert rooms.publish("after it")["id"]
        assert [each.text() for each in members.values()] == ["after it"] * 2
        said = with_ids.heard()
        assert said["text"] == "after it"
        assert hub_of(command.pid) != first
        # the new one keeps a history of its own, and knows that it does not know the old one's
        assert rooms.member(ids="1", since=said["id"]).heard()["complete"] is True
        assert rooms.member(ids="1", since=with_ids.told["id"]).heard()["complete"] is False
        assert all(map(is_alive, members))
        assert command.stop() == 0
        wait_gone(command.pid)


@pytest.mark.long
def test_a_hub_that_is_asked_to_end_is_replaced() -> None:
    with served() as (command, rooms):
        member = rooms.member()
        first = hub_of(command.pid)
        os.kill(first, signal.SIGTERM)
        command.wait_for(rf"Topic hub \[{first}\] was asked to end; starting another")
        assert hub_of(command.pid, besides=first)
        wait_until(lambda: "id" in rooms.publish("after it"))
        assert member.text() == "after it"
        assert "killed" not in command.text


@pytest.mark.long
def test_a_worker_that_drains_still_publishes_and_the_hub_ends_last() -> None:
    with served() as (command, rooms):
        rooms.member()
        host, port = command.address
        with socket.create_connection((host, port), DEADLINE_S) as late:
            late.sendall(
                b"POST /publish?topic=a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nla"
            )
            rooms.publish("before")  # behind it in the worker or beside it: that one is under way
            # a service manager sends it to all processes at once
            os.killpg(command.pid, signal.SIGTERM)
            command.wait_for("Draining")
            late.sendall(b"te")
            answer = b""
            while piece := late.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert b'"id"' in answer
        assert command.wait() == 0
        wait_gone(command.pid)
        ends = [line for line in command.lines if "Finished" in line]
        assert ["hub" in line for line in ends[-2:]] == [True, False], ends
        assert "supervisor" in ends[-1]


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=str)
def test_the_hub_has_nothing_of_its_parents_but_the_mailbox(options: tuple[str, ...]) -> None:
    """No listener, no lane: it would keep a port or a connection open."""
    with served(*options) as (command, rooms):
        rooms.member_in_each()
        hub = hub_of(command.pid)
        assert len(sockets_of(hub) & sockets_of(command.pid)) == 1
        for worker in command.workers:
            assert not sockets_of(hub) & sockets_of(worker)


@pytest.mark.long
def test_a_killed_supervisor_leaves_no_hub() -> None:
    with served() as (command, rooms):
        rooms.member()
        assert hub_of(command.pid)
        os.kill(command.pid, signal.SIGKILL)
        wait_gone(command.pid)


class Publisher(threading.Thread):
    """Publishes numbers, one after the other, to whichever worker there is; `taken` are those for
    which there was an answer.
    """

    def __init__(self, rooms: Rooms) -> None:
        super().__init__(daemon=True)
        self._rooms = rooms
        self._is_over = threading.Event()
        self.taken: list[str] = []

    def run(self) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            with contextlib.suppress(httpx.TransportError):  # its worker has just been killed
                if "id" in self._rooms.publish(str(number)):
                    self.taken.append(str(number))

    def stop(self) -> str:
        """The last that was taken."""
        self._is_over.set()
        self.join(DEADLINE_S)
        return self.taken[-1]


@contextlib.contextmanager
def publishing(rooms: Rooms) -> Iterator[Publisher]:
    publisher = Publisher(rooms)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop()


def assert_complete(each: Resumer, taken: list[str]) -> None:
    """It got all that was taken, in order, and nothing twice."""
    assert each.gaps == 0
    numbers = [int(text) for _, text in each.got]
    assert numbers == sorted(set(numbers))
    assert set(map(int, taken)) <= set(numbers)


@pytest.mark.long
def test_nothing_is_missed_or_doubled_while_workers_are_killed_and_replaced() -> None:
    with (
        served() as (command, rooms),
        resumers(rooms.address, 6) as clients,
        publishing(rooms) as publisher,
    ):
        wait_until(lambda: len(publisher.taken) > 20)
        os.kill(command.workers[0], signal.SIGKILL)
        command.wait_for("is ready", count=3)
        os.kill(command.workers[0], signal.SIGTERM)
        command.wait_for("is ready", count=4)
        command.signal(signal.SIGHUP)
        command.wait_for("Restart complete")
        wait_until(lambda: len(command.workers) == 2)
        os.kill(command.workers[1], signal.SIGKILL)
        command.wait_for("is ready", count=7)
        last = publisher.stop()
        for each in clients:
            wait_until(lambda each=each: each.has(last), "the last message")  # type: ignore[misc]  # bound
            assert_complete(each, publisher.taken)
            assert each.connections >= 3
        assert command.stop() == 0
        wait_gone(command.pid)


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.long
def test_workers_that_come_and_go_leave_no_descriptor() -> None:
    with served() as (command, rooms):
        first = rooms.member_in_each()
        hub = hub_of(command.pid)
        wait_until(lambda: rooms.ask("/count")["here"] == 2)
        before = descriptors_of(command.pid), descriptors_of(hub)
        for turn in range(1, 11):
            command.signal(signal.SIGHUP)
            command.wait_for("Restart complete", count=turn)
            rooms.member_in_each()
        wait_until(lambda: len(command.workers) == 2)
        assert not set(first) & set(command.workers)
        wait_until(
            lambda: (descriptors_of(command.pid), descriptors_of(hub)) <= before, f"{before}"
        )
        assert hubs_of(command.pid) == [hub]


@pytest.mark.long
def test_a_child_of_the_application_does_not_keep_its_workers_link() -> None:
    with served() as (command, rooms):
        rooms.member_in_each()
        hub = hub_of(command.pid)
        before = descriptors_of(hub)
        forked = rooms.ask("/fork")
        os.kill(forked["pid"], signal.SIGKILL)
        wait_until(lambda: descriptors_of(hub) == before - 1, "the link has ended")
        assert is_alive(forked["child"])
        os.kill(forked["child"], signal.SIGKILL)
        assert command.stop() == 0


@pytest.mark.long
def test_the_hub_survives_a_restart_of_all_workers_and_knows_what_was() -> None:
    with served() as (command, rooms):
        member = rooms.member(ids="1")
        hub = hub_of(command.pid)
        command.signal(signal.SIGHUP)
        rooms.publish("during it")
        command.wait_for("Restart complete")
        again = rooms.member(ids="1", since=member.told["id"])
        assert again.heard()["text"] == "during it"
        assert again.heard()["complete"] is True
        assert hubs_of(command.pid) == [hub]


@pytest.mark.long
def test_a_new_supervisor_has_a_hub_of_its_own() -> None:
    with served() as (command, rooms):
        member = rooms.member(ids="1")
        hub = hub_of(command.pid)
        command.signal(signal.SIGUSR2)
        new = int(command.wait_for(r"Started a new supervisor \[(\d+)\]")[1])
        assert command.wait(has_heir=True) == 0
        assert not is_alive(hub)
        again = rooms.member(ids="1", since=member.told["id"])
        assert again.heard()["complete"] is False
        rooms.publish("new")
        assert again.heard()["text"] == "new"
        os.kill(new, signal.SIGTERM)
        wait_gone(command.pid)


@pytest.mark.long
def test_a_hub_that_does_not_answer_is_replaced() -> None:
    with served("--timeout-worker-heartbeat", "1.5") as (command, rooms):
        member = rooms.member()
        first = hub_of(command.pid)
        suspend(first)
        said = rooms.publish("meanwhile")  # it waits; whether the stopped hub had it nobody can say
        assert "id" in said or "gone" in said["problem"]
        command.wait_for(rf"Topic hub \[{first}\] has not answered for 1.5 s .*; killing it")
        hub_of(command.pid, besides=first)
        rooms.publish("after it")
        while member.text() != "after it":
            pass
        assert not is_alive(first)
        assert command.stop() == 0


@pytest.mark.long
def test_a_hub_that_answers_is_left_alone() -> None:
    with served("--timeout-worker-heartbeat", "3") as (command, rooms):
        member = rooms.member()
        hub = hub_of(command.pid)
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            member.say("hello")
            assert member.text() == "hello"
        assert hubs_of(command.pid) == [hub]


@pytest.mark.long
def test_the_hub_opens_its_log_anew_and_leaves_a_terminals_signals_to_the_supervisor(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(log)},
            "err": {"class": "logging.StreamHandler"},
        },
        "loggers": {"asgi_poller": {"handlers": ["file", "err"], "level": "INFO"}},
    }
    (tmp_path / "logging.json").write_text(json.dumps(config))
    with served("--log-config", str(tmp_path / "logging.json")) as (command, rooms):
        rooms.member()
        hub = hub_of(command.pid)
        wait_until(lambda: f"Started topic hub [{hub}]" in log.read_text())
        log.rename(tmp_path / "log.1")
        for number in (signal.SIGUSR1, signal.SIGHUP):
            os.killpg(command.pid, number)
        command.wait_for("Restart complete")
        assert hubs_of(command.pid) == [hub]
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait() == 0
        wait_gone(command.pid)
        assert f"Finished topic hub [{hub}]" in log.read_text()
        assert "Traceback" not in command.text
