"""The lifespan protocol: what an application may do in it, and what a failure of it means."""

from __future__ import annotations

import asyncio

import pytest

from asgi_poller.asgi.lifespan import Lifespan
from asgi_poller.asgi.types import Application, Message, Receive, Scope, Send
from asgi_poller.errors import StartupError
from tests.support.fake_connection import errors_in, until_idle

COMPLETE: Message = {"type": "lifespan.startup.complete"}
FAILED: Message = {"type": "lifespan.startup.failed", "message": "no database"}
MODES = pytest.mark.parametrize("mode", ["auto", "on"])


def life(*startup: Message, shutdown: tuple[Message, ...] = ()) -> Application:
    """An application that sends these when it is told to start and to stop."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        assert scope["asgi"]["version"] == "3.0"
        scope["state"]["pool"] = "connected"
        assert await receive() == {"type": "lifespan.startup"}
        for message in startup:
            await send(message)
        assert await receive() == {"type": "lifespan.shutdown"}
        for message in shutdown:
            await send(message)

    return application


async def lived(application: Application, mode: str) -> tuple[Lifespan, bool]:
    """Start, run for a while, and stop; whether that went well."""
    lifespan = Lifespan(application, mode)
    await lifespan.startup()
    await until_idle()
    return lifespan, await lifespan.shutdown()


@MODES
async def test_a_good_life(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    lifespan, ended_well = await lived(
        life(COMPLETE, shutdown=({"type": "lifespan.shutdown.complete"},)), mode
    )
    assert ended_well
    assert lifespan.state == {"pool": "connected"}
    assert errors_in(caplog) == []


async def test_off_is_off() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nobody is to call")

    lifespan, ended_well = await lived(application, "off")
    assert ended_well
    assert lifespan.state == {}


@MODES
async def test_an_application_that_says_it_cannot_start(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError):
        await lived(life(FAILED), mode)
    assert errors_in(caplog) == ["no database"]


@MODES
async def test_starlette_says_so_and_raises_too(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(FAILED)
        raise ZeroDivisionError

    with pytest.raises(StartupError):
        await lived(application, mode)
    assert errors_in(caplog) == ["no database"]


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise KeyError("what is a lifespan?")


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not know lifespans, and does not mind."""


async def cancels(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("application", [raises, returns])
async def test_an_application_without_a_lifespan(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await lived(application, "auto"))[1]
    assert errors_in(caplog) == []


@pytest.mark.parametrize("application", [raises, returns])
async def test_on_means_on(application: Application) -> None:
    with pytest.raises(StartupError):
        await lived(application, "on")


@MODES
async def test_nobody_waits_for_an_application_that_was_cancelled(mode: str) -> None:
    with pytest.raises(StartupError):
        await lived(cancels, mode)


@MODES
@pytest.mark.parametrize(
    "shutdown",
    [
        ({"type": "lifespan.shutdown.failed", "message": "lost it"},),
        ({"type": "lifespan.startup.complete"},),
        ({"type": "nonsense"},),
    ],
)
async def test_an_end_that_goes_wrong(
    shutdown: tuple[Message, ...], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, ended_well = await lived(life(COMPLETE, shutdown=shutdown), mode)
    assert not ended_well
    assert errors_in(caplog)


async def test_an_application_that_returns_instead_of_answering_its_end() -> None:
    assert (await lived(life(COMPLETE), "auto"))[1]


async def test_a_life_that_ends_early(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        raise ZeroDivisionError

    assert (await lived(application, "on"))[1]
    assert len(errors_in(caplog)) == 1
