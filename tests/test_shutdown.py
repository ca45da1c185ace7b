"""The end of the real command: in order, in time, and as shells and service managers expect it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer, converse
from tests.support.client import Client, get, handshake
from tests.support.command import Command, running, started
from tests.support.frames import close as close_frame
from tests.support.frames import text

APP = "tests.test_shutdown:app"
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
# as uvicorn: SIGTERM is raised once more after an orderly end, Ctrl+C is an end like any other
EXIT_CODES = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 0}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Does as its path says. Runs in the command's process."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("the application ends", file=sys.stderr, flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        message = await converse(receive, send)
        print(f"disconnect {message['code']}", file=sys.stderr, flush=True)
    else:
        await respond(scope["path"], receive, send)


async def respond(path: str, receive: Receive, send: Send) -> None:
    match path:
        case "/body":  # as long as the request's body does not end
            while (await receive()).get("more_body"):
                pass
        case "/stubborn":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
        case "/thread":
            threading.Thread(target=time.sleep, args=(3600,), name="stubborn").start()
        case "/executor":
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
        case _:
            pass
    await answer(send, b"done")


@contextlib.contextmanager
def command(*options: str) -> Iterator[Command]:
    with running(*options, workers=1, app=APP) as process:
        yield process


def connected(process: Command) -> Client:
    return Client(process.address[1])


def slow_request(process: Command) -> Client:
    """A request that is under way until its last byte is sent."""
    client = connected(process)
    client.sendall(get("/body", "Content-Length: 2", "Expect: 100-continue", method="POST"))
    assert client.response().status == 100
    client.sendall(b"a")
    return client


def websocket(process: Command) -> Client:
    client = connected(process)
    client.sendall(handshake())
    assert client.head().status == 101
    client.sendall(text("hello"))
    assert client.frame().payload == b"hello"
    return client


def is_refused(process: Command) -> bool:
    try:
        connected(process).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.long
@BOTH
def test_everybody_gets_an_orderly_end(number: signal.Signals, loop: str) -> None:
    with command("--loop", loop) as process:
        request, channel = slow_request(process), websocket(process)
        idle = connected(process)
        idle.sendall(get())
        assert idle.response().body == b"done"
        process.signal(number)
        assert channel.frame().close_code == 1012
        assert idle.rest() == b""  # closed at once
        assert is_refused(process)  # while others are still served
        channel.sendall(close_frame(1012))
        assert channel.rest() == b""  # the server hangs up, as RFC 6455, 7.1.1 has it
        assert process.process.poll() is None
        request.sendall(b"b")
        response = request.response()
        assert (response.body, response.header("connection")) == (b"done", "close")
        assert request.rest() == b""
        assert process.wait() == EXIT_CODES[number]
        assert "the application ends" in process.text
        assert "disconnect 1012" in process.text
        assert "Application shutdown complete" in process.text
        assert "Traceback" not in process.text


def test_who_does_not_come_to_an_end_is_cut_off() -> None:
    with command("--timeout-graceful-shutdown", "1") as process:
        request, channel = slow_request(process), websocket(process)
        process.signal(signal.SIGTERM)
        assert channel.frame().close_code == 1012  # never answered
        with contextlib.suppress(ConnectionResetError):
            assert request.rest() == b""
        assert process.wait() == -signal.SIGTERM
        assert "Graceful shutdown took longer than 1 s" in process.text
        assert "the application ends" in process.text


@BOTH
def test_a_second_signal_cuts_everything_off(number: signal.Signals) -> None:
    with command("--timeout-graceful-shutdown", "600") as process:
        request = slow_request(process)
        process.signal(number)
        process.wait_for("Shutting down")
        process.signal(number)
        with contextlib.suppress(ConnectionResetError):
            assert request.rest() == b""
        assert process.wait() == EXIT_CODES[number]


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("path", ["/stubborn", "/thread", "/executor"])
def test_what_an_application_leaves_running_holds_nobody_up(
    number: signal.Signals, path: str
) -> None:
    with command("--timeout-graceful-shutdown", "0.5") as process:
        client = connected(process)
        client.sendall(get(path))
        if path == "/thread":
            assert client.response().body == b"done"
        else:
            assert client.is_silent(0.1)
        process.signal(number)
        assert process.wait() == EXIT_CODES[number]
        assert "Traceback" not in process.text


def test_a_signal_without_anybody_there() -> None:
    with command() as process:
        process.signal(signal.SIGINT)
        assert process.wait() == 0


def test_a_start_that_fails_is_exit_code_3() -> None:
    with started(app="tests.test_shutdown:nothing") as process:
        assert process.wait() == 3
        assert len(process.lines) <= 2, process.text


def test_a_lifespan_that_fails_is_exit_code_3() -> None:
    with started(app="tests.test_shutdown:fails") as process:
        assert process.wait() == 3
        assert "no database" in process.text
        assert "Traceback" not in process.text


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that cannot start."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
