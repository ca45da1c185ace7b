"""What a server says while it ends: progress, and what became of everybody. On real servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator

import pytest
from websockets.sync.client import ClientConnection, connect

from asgi_poller.loops import drain_progress
from asgi_poller.loops.drain_counts import DrainCounts, Drained, Left
from asgi_poller.loops.drain_progress import say_end, say_progress
from tests.support.client import Client, get, handshake
from tests.support.command import Command, started
from tests.support.gunicorn import gunicorn
from tests.support.waiting import DEADLINE_S

APP = "tests.supervisor.ending:app"
FORMS = {
    "one": (),
    "loops": ("--loops", "2"),
    "workers": ("--workers", "3"),
    "reload": ("--reload", "--reload-dir", "tests/supervisor"),
}
PROGRESS = r"Draining: "
END = r"(Drained|Graceful shutdown took|Ended without grace)"


@contextlib.contextmanager
def served(form: str, *options: str) -> Iterator[Command]:
    with started(*FORMS[form], *options, app=APP) as command:
        command.wait_for("running on")
        if form == "workers":
            command.wait_for(r"All 3 workers are ready, after \d+\.\d s")
        else:
            command.wait_for("Application startup complete")
        yield command


def polite(command: Command, stack: contextlib.ExitStack) -> ClientConnection:
    """A WebSocket whose client answers a Close."""
    host, port = command.address
    client: ClientConnection = stack.enter_context(connect(f"ws://{host}:{port}/"))
    assert client.ping().wait(DEADLINE_S)
    return client


def mute(command: Command, stack: contextlib.ExitStack) -> None:
    """A WebSocket whose client reads nothing and answers nothing."""
    client = stack.enter_context(contextlib.closing(Client(command.address[1])))
    client.sendall(handshake())
    assert client.head().status == 101


def endless_request(command: Command, stack: contextlib.ExitStack) -> None:
    client = stack.enter_context(contextlib.closing(Client(command.address[1])))
    seen = len(command.lines)
    client.sendall(get("/forever"))
    command.wait_for("for ever", after=seen)


@pytest.mark.parametrize("form", FORMS)
def test_progress_and_what_was_cut_off(form: str) -> None:
    with served(form, "--timeout-graceful-shutdown", "3") as command, contextlib.ExitStack() as all:
        for _ in range(4):
            polite(command, all)
        for _ in range(2):
            mute(command, all)
        endless_request(command, all)
        command.signal(signal.SIGINT)
        command.wait()
        lines = [line for line in command.lines if "Draining" in line]
        left = "3 connections" if form in ("workers", "reload") else "2 WebSockets and 1 request"
        assert f"{left} left" in lines[0]
        assert "3 s until they are cut off. (CTRL+C to force quit)" in lines[0]
        assert 2 <= len(lines) <= 4, "one line a second, however many loops or workers there are"
        assert sum("CTRL+C" in line for line in lines) == 1
        (end,) = command.said(END)
        assert end.string.endswith(
            "Graceful shutdown took longer than 3 s: 2 WebSockets and 1 request cut off;"
            " 4 WebSockets closed with a handshake."
        )


@pytest.mark.parametrize("form", FORMS)
def test_an_orderly_end_is_one_line(form: str) -> None:
    with served(form) as command, contextlib.ExitStack() as all:
        for _ in range(5):
            polite(command, all)
        command.signal(signal.SIGTERM)
        command.wait()
        (end,) = command.said(END)
        assert end.string.endswith(" s: 5 WebSockets closed with a handshake.")
        assert "Drained in " in end.string
        shutting_down = command.said("Shutting down")
        assert len(shutting_down) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_client_that_has_vanished_got_no_handshake(form: str) -> None:
    with served(form) as command, contextlib.ExitStack() as all:
        polite(command, all)
        with contextlib.closing(Client(command.address[1])) as client:
            client.sendall(handshake())
            assert client.head().status == 101
            command.signal(signal.SIGTERM)
            assert client.frame().close_code == 1012
            client.reset()
        command.wait()
        (end,) = command.said(END)
        assert end.string.endswith(
            " s: 1 WebSocket closed with a handshake and 1 WebSocket gone without."
        )


@pytest.mark.parametrize("form", FORMS)
def test_nobody_there_is_no_line(form: str) -> None:
    with served(form) as command:
        command.signal(signal.SIGINT)
        command.wait()
        assert command.said(f"{PROGRESS}|{END}") == []


@pytest.mark.parametrize("form", FORMS)
def test_a_second_ctrl_c_ends_at_once_and_says_so(form: str) -> None:
    with served(form, "--timeout-graceful-shutdown", "600") as command:
        with contextlib.ExitStack() as all:
            endless_request(command, all)
            command.signal(signal.SIGINT)
            command.wait_for(r"CTRL\+C to force quit\)", count=1)
            command.signal(signal.SIGINT)
            command.wait()
        (end,) = command.said(END)
        lost = {
            "workers": "1 connection lost with a worker that was killed",
            "reload": "1 connection lost with a worker that was killed",
        }.get(form, "1 request cut off")
        assert "Ended without grace after" in end.string
        assert end.string.endswith(f" s: {lost}.")


def test_a_restart_says_how_far_it_is_and_offers_no_force() -> None:
    with served("workers", "--timeout-graceful-shutdown", "2") as command:
        with contextlib.ExitStack() as all:
            for _ in range(3):
                polite(command, all)
            endless_request(command, all)
            command.signal(signal.SIGHUP)
            command.wait_for(r"Replacing Worker \d+ \[\d+\]: restarting all, 3 of 3")
            command.wait_for("Restart complete: 3 workers are replaced")
            command.wait_for(r"Graceful shutdown took longer than 2 s: 1 request cut off")
        assert command.said(PROGRESS)
        assert not command.said(r"Draining.*CTRL\+C")
        ended = [match.string for match in command.said(END)]
        handshakes = [
            int(word)
            for line in ended
            for word in line.split(" WebSocket")[0].split()[-1:]
            if word.isdecimal()
        ]
        assert sum(handshakes) == 3, ended


def test_a_reload_says_how_long_it_took() -> None:
    with served("reload") as command:
        command.signal(signal.SIGHUP)
        command.wait_for(r"Reloaded in \d+\.\d s")


def test_gunicorn_s_workers_say_the_end_alone() -> None:
    with gunicorn("-w", "2", "--graceful-timeout", "2", app=APP) as server:
        port = int(server.address.rpartition(":")[2])
        with contextlib.closing(Client(port)) as client:
            client.sendall(get("/forever"))
            server.wait_for("for ever")
            server.signal(signal.SIGTERM)
            server.process.wait(DEADLINE_S)
        assert server.said(PROGRESS) == []
        assert len(server.said("1 request cut off")) == 1


# The sentences and their pace


def test_a_long_drain_has_about_ten_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock runs a hundred times as fast; each look finds one less of 400."""
    monkeypatch.setattr(drain_progress, "_STEP_S", 0.01)
    monkeypatch.setattr(drain_progress, "_PATIENCE_S", 0.0)
    left = iter(range(400, 0, -1))

    async def drain() -> None:
        work = say_progress(1.0, lambda rest_s: (next(left), "left"), is_last=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(work, 1.2)

    with caplog.at_level(logging.INFO, "asgi_poller.error"):
        asyncio.run(drain())
    assert 5 <= len(caplog.records) <= 13


def test_nothing_is_said_twice_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "asgi_poller.error"):
        say_end(Drained.of([DrainCounts(), DrainCounts()], 1.0), 10.0, is_forced=True)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (Left(websockets=312, requests=4), "312 WebSockets and 4 requests"),
        (Left(1, 1, 1, 1), "1 WebSocket, 1 request, 1 task and 1 connection"),
        (Left(tasks=2), "2 tasks"),
        (Left(websockets=1_200_000), "1,200,000 WebSockets"),
    ],
)
def test_what_is_left_in_words(left: Left, text: str) -> None:
    assert str(left) == text
