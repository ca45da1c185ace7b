"""Topics over gunicorn's workers, whose arbiter knows nothing of a hub."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gunicorn import Gunicorn, gunicorn
from tests.support.processes import ROOT, is_alive
from tests.support.waiting import wait_until
from tests.topics.workers import (
    APP,
    Rooms,
    hub_of,
    hubs_of,
    processes_of,
    resumers,
    sockets_of,
    wait_gone,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@contextlib.contextmanager
def served(*options: str, workers: int = 2) -> Iterator[tuple[Gunicorn, Rooms]]:
    with (
        gunicorn(
            *("-w", str(workers), "--graceful-timeout", "5", *options),
            app=APP,
            ready=workers,
            ASGI_POLLER_TOPICS_HISTORY="1000,60s",
        ) as server,
        Rooms(server.address) as rooms,
    ):
        yield server, rooms


def end(server: Gunicorn) -> None:
    """Stop it in order; nothing is left."""
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    wait_gone(server.pid)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=str)
def test_what_one_worker_publishes_all_get(options: tuple[str, ...]) -> None:
    with served(*options) as (server, rooms):
        members = rooms.member_in_each()
        for turn, publisher in enumerate(members.values()):
            publisher.say(f"message {turn}")
            assert [each.text() for each in members.values()] == [f"message {turn}"] * 2
        rooms.publish("from a request")
        assert [each.text() for each in members.values()] == ["from a request"] * 2
        assert rooms.ask("/count")["here"] == 2
        assert len(hubs_of(server.pid)) == 1
        assert len(server.said("Started topic hub")) == 1
        end(server)


def test_the_hub_has_nothing_of_arbiter_and_workers_but_the_mailbox() -> None:
    with served() as (server, rooms):
        rooms.member_in_each()
        hub = hub_of(server.pid)
        for other in set(processes_of(server.pid)) - {hub}:
            assert len(sockets_of(hub) & sockets_of(other)) == 1
        end(server)


def test_without_topics_there_is_no_hub() -> None:
    with served() as (server, rooms):
        rooms.ask("/pid")
        assert hubs_of(server.pid) == []
        end(server)
        assert "hub" not in server.text


def test_a_killed_hub_is_replaced() -> None:
    with served() as (server, rooms):
        members = rooms.member_in_each()
        for turn in range(3):
            hub = hub_of(server.pid)
            os.kill(hub, [signal.SIGKILL, signal.SIGTERM][turn % 2])
            wait_until(lambda hub=hub: not is_alive(hub), "it has ended")  # type: ignore[misc]  # bound
            wait_until(lambda: "id" in rooms.publish("again"), "topics work again")
            wait_until(lambda: rooms.ask("/count")["here"] == 2, "both workers have joined")
            said = rooms.publish(f"turn {turn}")
            assert said["id"]
            for each in members.values():
                while each.text() != f"turn {turn}":
                    pass
        assert all(map(is_alive, members))
        end(server)


def test_the_hub_outlives_the_worker_that_started_it() -> None:
    with served() as (server, rooms):
        member = rooms.member(ids="1")
        hub = hub_of(server.pid)
        first = set(processes_of(server.pid)) - {server.pid, hub}
        server.signal(signal.SIGHUP)
        wait_until(lambda: not any(map(is_alive, first)), "all workers are replaced")
        server.wait_for("Application startup complete", count=4)
        rooms.publish("to the old hub")
        again = rooms.member(ids="1", since=member.told["id"])
        assert again.heard()["text"] == "to the old hub"
        assert again.heard()["complete"] is True
        assert hubs_of(server.pid) == [hub]
        os.kill(hub, signal.SIGKILL)  # by whom it was started has ended long ago
        assert hub_of(server.pid, besides=hub)
        wait_until(lambda: "id" in rooms.publish("to the new hub"))
        end(server)
        assert "Unhandled exception" not in server.text


def test_workers_more_and_fewer() -> None:
    with served(workers=1) as (server, rooms):
        one = rooms.member()
        server.signal(signal.SIGTTIN)
        server.wait_for("Application startup complete", count=2)
        members = rooms.member_in_each()
        members[next(pid for pid in members if pid != one.pid)].say("from the new one")
        assert one.text() == "from the new one"
        server.signal(signal.SIGTTOU)
        wait_until(lambda: sum(map(is_alive, members)) == 1, "one ends")
        assert rooms.publish("still")["id"]
        end(server)


def test_a_worker_killed_with_its_clients_takes_nothing_along() -> None:
    with served() as (server, rooms), resumers(rooms.address, 4) as clients:
        workers = set(processes_of(server.pid)) - {server.pid, hub_of(server.pid)}
        for number in range(100):
            if number in (20, 60):
                os.kill(workers.pop(), signal.SIGKILL)
            wait_until(lambda number=number: published(rooms, str(number)))  # type: ignore[misc]  # bound
        for each in clients:
            wait_until(lambda each=each: each.has("99"), "the last message")  # type: ignore[misc]  # bound
            ids = [id for id, _ in each.got]
            assert len(set(ids)) == len(ids)
            texts = dict.fromkeys(text for _, text in each.got)
            assert list(texts) == [str(number) for number in range(100)]
            assert each.gaps == 0
        end(server)


def published(rooms: Rooms, text: str) -> bool:
    with contextlib.suppress(httpx.TransportError):  # its worker has just been killed
        return "id" in rooms.publish(text)
    return False


def test_a_service_that_cannot_be_used_is_one_line_before_any_worker(tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError('not here')")
    environ = {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "ASGI_POLLER_TOPICS": "redis://127.0.0.1:1",
    }
    with gunicorn("-w", "1", app=APP, ready=0, **environ) as server:
        assert server.wait() == 2
        assert len(server.said("--topics: needs redis-py")) == 1
        assert not server.said("Booting worker|Traceback")


def test_a_killed_arbiter_leaves_no_hub() -> None:
    with served() as (server, rooms):
        rooms.member()
        assert hub_of(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        wait_gone(server.pid)
