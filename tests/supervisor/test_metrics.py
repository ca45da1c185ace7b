"""What a supervisor shows of its workers: totals that never shrink, whatever becomes of a worker,
restarts by why, and events.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.client import Client, close_code, handshake, send_all
from tests.support.command import Command, get, running
from tests.support.frames import PING, PONG, TEXT, close, frame, text
from tests.support.waiting import DEADLINE_S, wait_until


class Watched:
    """A command with a monitor, and what it shows."""

    def __init__(self, command: Command) -> None:
        self.command = command
        found = command.wait_for(r"Metrics and health on http://127\.0\.0\.1:(\d+)")
        self._url = f"http://127.0.0.1:{found[1]}/status.json"

    def status(self) -> dict[str, Any]:
        """All of it, now."""
        with urllib.request.urlopen(self._url, timeout=DEADLINE_S) as response:
            shown: dict[str, Any] = json.loads(response.read())
        return shown

    def total(self, name: str) -> Any:
        return self.status()["total"][name]

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until what is shown is so."""
        shown: list[dict[str, Any]] = []

        def is_so() -> bool:
            shown.append(self.status())
            return condition(shown[-1])

        wait_until(is_so, what)
        return shown[-1]

    def websocket(self) -> Client:
        """One that is open and greeted."""
        client = Client(self.command.address[1])
        client.sendall(handshake())
        assert client.response(has_body=False).status == 101
        assert client.frame().opcode == TEXT
        return client

    def echo(self, client: Client, count: int) -> None:
        for _ in range(count):
            client.sendall(text("hello"))
            assert client.frame().payload == b"hello"

    def kinds(self) -> list[str]:
        """Of the events of workers."""
        return [event["kind"] for event in self.status()["events"] if event["worker"]]


@contextlib.contextmanager
def watched(*options: str, workers: int = 2) -> Iterator[Watched]:
    with running("--metrics", "0", *options, workers=workers) as command:
        yield Watched(command)


@contextlib.contextmanager
def never_shrinking(at: Watched, *names: str) -> Iterator[None]:
    """These totals are looked at all the time, and never become less."""
    is_over = threading.Event()
    faults: list[str] = []

    def look() -> None:
        before = dict.fromkeys(names, 0)
        while not is_over.is_set():
            total = at.status()["total"]
            now = {name: total[name] for name in names}
            faults.extend(
                f"{name}: {before[name]}, {now[name]}" for name in names if now[name] < before[name]
            )
            before = now

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(DEADLINE_S)
    assert faults == []


@pytest.mark.parametrize("options", [(), ("--preload",), ("--loops", "2")])
def test_what_killed_workers_had_counted_stays(options: tuple[str, ...]) -> None:
    with watched(*options) as at:
        names = ("messages_received", "messages_sent", "bytes_sent", "adopted")
        with never_shrinking(at, *names):
            for number in (1, 2, 3):
                serve_and_kill(at, number)
        assert at.kinds().count("crashed") == 6


def serve_and_kill(at: Watched, number: int) -> None:
    """The round of that number: 8 clients, each greeted with a message and echoed 5, and then the
    end of all workers.
    """
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(at.websocket()) for _ in range(8)]
        for client in clients:
            at.echo(client, 5)
        shown = at.wait_for(
            lambda status: bool(status["total"]["messages_sent"] == 48 * number),
            "all messages are shown",
        )
        total = shown["total"]
        assert total["messages_received"] == 40 * number
        assert total["websockets_opened"] == 8 * number
        assert total["websockets_open"] == 8
        victims = [worker["pid"] for worker in shown["workers"]]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
    shown = at.wait_for(
        lambda status: (
            [each["state"] for each in status["workers"]] == ["serving"] * 2
            and not {each["pid"] for each in status["workers"]} & set(victims)
        ),
        "others serve",
    )
    # rows that are used again are clean
    values = [loop["values"] for worker in shown["workers"] for loop in worker["loops"]]
    assert {each["messages_sent"] for each in values} == {each["adopted"] for each in values} == {0}
    assert shown["total"]["messages_received"] == 40 * number
    assert shown["total"]["connections_open"] == shown["total"]["websockets_open"] == 0
    assert shown["restarts"] == {"crashed": 2 * number}


def test_a_rolling_restart_keeps_the_counts_and_is_an_event() -> None:
    with watched() as at:
        clients = [at.websocket() for _ in range(4)]
        for client in clients:
            at.echo(client, 1)
        pids = {worker["pid"] for worker in at.status()["workers"]}
        at.command.signal(signal.SIGHUP)
        for client in clients:
            assert close_code(client) == 1012
            client.sendall(close(1012))
            client.close()
        at.command.wait_for("Restart complete")
        shown = at.wait_for(
            lambda status: pids.isdisjoint(worker["pid"] for worker in status["workers"]),
            "the old ones have ended",
        )
        assert shown["restarts"] == {"reload": 2}
        assert shown["total"]["messages_received"] == 4
        assert shown["total"]["closes"] == [{"code": "1012", "by": "server", "count": 4}]
        kinds = [event["kind"] for event in shown["events"]]
        assert kinds.count("reload") == 1
        assert kinds.count("draining") == kinds.count("ended") == 2
        assert "crashed" not in kinds


def test_a_worker_that_is_asked_to_end_is_replaced() -> None:
    with watched() as at:
        pid = at.status()["workers"][0]["pid"]
        os.kill(pid, signal.SIGTERM)
        shown = at.wait_for(lambda status: status["restarts"] == {"asked": 1}, "it is counted")
        assert [e["kind"] for e in shown["events"] if e["pid"] == pid][:2] == [
            "started",
            "draining",
        ]
        at.wait_for(
            lambda status: ("ended", pid) in [(e["kind"], e["pid"]) for e in status["events"]],
            "it has ended",
        )


def test_a_blocked_worker_is_silent_then_lost() -> None:
    with watched("--timeout-worker-heartbeat", "2") as at:
        blocked = int(get(at.command.address, "/block?30").split()[0])

        def is_silent(status: dict[str, Any]) -> bool:
            return any(
                worker["pid"] == blocked and worker["loops"][0]["silent_s"] > 0.5
                for worker in status["workers"]
            )

        at.wait_for(is_silent, "nobody has called it, and still it is seen")
        shown = at.wait_for(lambda status: status["restarts"] == {"lost": 1}, "it is lost")
        assert ("lost", blocked) in [(e["kind"], e["pid"]) for e in shown["events"]]


@pytest.mark.long
def test_a_blocked_worker_that_recovers() -> None:
    with watched("--timeout-worker-heartbeat", "0") as at:
        pid = int(get(at.command.address, "/block?11").split()[0])
        at.wait_for(
            lambda status: (
                [e["kind"] for e in status["events"] if e["pid"] == pid][-2:]
                == ["blocked", "recovered"]
            ),
            "it was blocked, and is not any more",
        )


def test_refusals_of_pollers_and_loops_are_one_table() -> None:
    with watched("--limit-connections", "1") as at, at.websocket() as client:
        with Client(at.command.address[1]) as other:
            assert other.response().status == 503
        client.sendall(close(1000))
        close_code(client)
        client.rest()

        def is_let_in() -> bool:
            with Client(at.command.address[1]) as broken:
                send_all(broken, b"nonsense\r\n\r\n")
                return broken.response().status == 400

        wait_until(is_let_in, "there is room again")
        shown = at.wait_for(
            lambda status: (
                status["refused"].get("400") == 1
                and sum(status["total"]["handshake"]["counts"]) == 1
            ),
            "both workers have published",
        )
        assert shown["refused"]["connections"] >= 1


def test_time_from_accept_is_the_machines_in_another_process() -> None:
    with watched() as at:
        for _ in range(20):
            at.websocket().close()
        shown = at.wait_for(
            lambda status: sum(status["total"]["handshake"]["counts"]) == 20, "all are counted"
        )
        mean_us = shown["total"]["handshake"]["sum_us"] / 20
        assert 0 < mean_us < DEADLINE_S * 1_000_000 / 20


def test_a_worker_answers_nobody_for_it() -> None:
    """A stopped process is shown all the same, as it was."""
    with watched() as at, at.websocket() as client:
        at.echo(client, 3)
        client.sendall(frame(PING, b"x"))
        assert client.frame().opcode == PONG
        at.wait_for(lambda status: status["total"]["messages_received"] == 3, "it is shown")
        stopped = [worker["pid"] for worker in at.status()["workers"]]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert at.total("messages_received") == 3
            assert at.total("websockets_open") == 1
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
