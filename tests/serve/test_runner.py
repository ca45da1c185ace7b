"""A loop that ends waits for nobody for ever, and sys.exit() in an application ends no server."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.errors import StartupError
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.serve.runner import run_loop
from tests.support.apps import answer
from tests.support.client import get, handshake
from tests.support.fake_connection import errors_in
from tests.support.server import serving
from tests.support.waiting import wait_until


def test_what_the_coroutine_returns_and_raises(loop: str) -> None:
    async def returns() -> int:
        return 5

    async def raises() -> None:
        raise ZeroDivisionError

    async def exits() -> None:
        sys.exit(7)

    make = loop_factory(loop)
    assert run_loop(returns(), make) == 5
    with pytest.raises(ZeroDivisionError):
        run_loop(raises(), make)
    with pytest.raises(SystemExit) as end:
        run_loop(exits(), make)
    assert end.value.code == 7


def test_an_exit_that_is_meant_for_the_process(loop: str) -> None:
    """A signal handler's, for one."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 8)
        await asyncio.Event().wait()

    with pytest.raises(SystemExit) as end:
        run_loop(main(), loop_factory(loop))
    assert end.value.code == 8


def test_tasks_that_ignore_their_end_are_left_behind(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass  # that is the point

    kept: list[asyncio.Task[None]] = []

    async def main() -> None:
        kept.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    caplog.set_level(logging.WARNING)
    run_loop(main(), loop_factory(loop))
    assert "1 tasks ignore" in caplog.text
    kept[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be


def test_tasks_and_generators_are_ended(loop: str) -> None:
    ended: list[str] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def task() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    kept: list[object] = []

    async def main() -> None:
        kept.append(asyncio.create_task(task()))
        iterator = generator()
        kept.append(iterator)
        await anext(iterator)

    run_loop(main(), loop_factory(loop))
    assert sorted(ended) == ["generator", "task"]


def test_threads_of_the_executor_are_not_waited_for(loop: str) -> None:
    go_on = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, go_on.wait, 60)
        await asyncio.sleep(0)

    run_loop(main(), loop_factory(loop))  # within the test's time limit
    go_on.set()


@pytest.mark.parametrize("loops", [1, 2])
def test_an_application_that_exits_ends_its_request_alone(
    loop: str, loops: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["path"] == "/exit":
            sys.exit("I am leaving")
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            sys.exit(1)
        await answer(send, b"still here")

    with serving(application, loop=loop, loops=loops) as site:
        others = [site.connect() for _ in range(4)]
        for _ in range(4):
            with site.connect() as client:
                client.sendall(get("/exit"))
                assert client.response().status == 500
            with site.connect() as client:
                client.sendall(handshake())
                assert client.head().status == 101
                assert client.frame().close_code == 1011
        for other in others:
            other.sendall(get())
            assert other.response().body == b"still here"
            other.close()
        wait_until(lambda: len(errors_in(caplog)) == 8)
    assert "ends what the application was called for" in caplog.text


def test_a_lifespan_that_exits_cannot_start() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        sys.exit(9)

    with pytest.raises(StartupError, match=r"sys\.exit"), serving(application, lifespan="on"):
        pass
