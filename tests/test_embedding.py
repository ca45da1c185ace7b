"""`Config` and `Server` in a program of the user's, as uvicorn's are used."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgi_poller import Config, Server
from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.errors import ConfigError, ListenError, StartupError
from tests.support.command import Command, get, run_python
from tests.support.waiting import DEADLINE_S

# A program that serves in one of several ways; `sock` is the caller's.
PROGRAM = """
import asyncio, socket, sys
import asgi_poller
from asgi_poller import Config, Server
from tests.supervisor.app import app
def bound():
    sock = socket.create_server(("127.0.0.1", 0))
    print("running on http://127.0.0.1:%d" % sock.getsockname()[1], file=sys.stderr, flush=True)
    return sock
config = lambda: Config(app, "127.0.0.1", "0", log_level="info")
"""
WAYS = {
    "run": "asgi_poller.run(app, '127.0.0.1', '0')",
    "run with sockets": "asgi_poller.run(app, sockets=[bound()])",
    "Server.run": "Server(config()).run()",
    "Server.run with sockets": "Server(config()).run(sockets=[bound()])",
    "Server.run with bind_socket": "c = config(); Server(c).run(sockets=[c.bind_socket()])",
    "Server.serve": "asyncio.run(Server(config()).serve())",
    "Server.serve with sockets": "asyncio.run(Server(config()).serve(sockets=[bound()]))",
}


@contextlib.contextmanager
def program(way: str) -> Iterator[Command]:
    with contextlib.closing(Command(program=[sys.executable, "-c", PROGRAM + way])) as run:
        yield run


@pytest.mark.parametrize("way", WAYS)
def test_every_way_serves_and_logs(way: str) -> None:
    with program(WAYS[way]) as run:
        run.wait_for(r"^INFO:     Application startup complete\.$")
        assert int(get(run.address).split()[0]) == run.pid
        run.signal(signal.SIGTERM)
        assert run.wait() == -signal.SIGTERM
        assert run.lines[-1] == f"INFO:     Finished server process [{run.pid}]"
        assert run.text.count("running on") == 1
        assert "Traceback" not in run.text


def test_log_level() -> None:
    with program("Server(Config('tests.no_such_module:app', log_level='critical')).run()") as run:
        assert run.wait() == 1
        assert "INFO:" not in run.text
    with program("Config(app, ws='websockets', use_colors=False)") as run:
        assert run.wait() == 0
        assert run.text == "WARNING:  --ws websockets is uvicorn's; using auto"


def test_logging_is_left_alone() -> None:
    code = (
        "import logging, asgi_poller;"
        "asgi_poller.Config('a:b', log_config=None, access_log=False);"
        "print([(one.handlers, one.level, one.propagate) for one in map(logging.getLogger,"
        " ('', 'asgi_poller', 'asgi_poller.error', 'asgi_poller.access'))])"
    )
    shown = run_python("-c", code)
    untouched = "([], 0, True)"
    expected = ", ".join([f"([], {logging.WARNING}, True)", *[untouched] * 3])
    assert shown.stdout.strip() == f"[{expected}]"


def quiet(app: Any, *places: Any, **options: Any) -> Config:
    """A Config that leaves this process's logging alone."""
    return Config(app, *places, log_config=None, **options)


def test_places_may_be_positional() -> None:
    config = quiet("main:app", "::1", "8001", "/run/s", fd="3")
    assert (config.host, config.port, config.uds, config.fd) == ("::1", 8001, "/run/s", 3)
    config = quiet("main:app", None, None, None)
    assert (config.host, config.port, config.uds, config.fd) == ("127.0.0.1", 8000, None, None)
    with pytest.raises(ConfigError, match="--port: must be a whole number, not 'x'"):
        quiet("main:app", "a", "x")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope.get("seen", "plain").encode()})


async def fetched(config: Config, *, sockets: list[socket.socket] | None = None) -> str:
    """What the application answers, on the first socket that the server says it has."""
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=sockets))
    while not server.started:
        assert not task.done(), await task
        await asyncio.sleep(0.005)  # nobody is told of it
    name = server.servers[0].sockets[0].getsockname()
    is_file = isinstance(name, str)
    transport = httpx.AsyncHTTPTransport(uds=name if is_file else None)
    port = 80 if is_file else name[1]
    async with httpx.AsyncClient(transport=transport, timeout=DEADLINE_S) as client:
        text = (await client.get(f"http://127.0.0.1:{port}")).text
    server.should_exit = True
    await task
    return text


def is_listening(bound: socket.socket) -> bool:
    return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@pytest.mark.parametrize("kind", ["tcp", "uds", "fd"])
def test_bind_socket(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asgi_poller.error")
    inherited = socket.socket()
    inherited.bind(("127.0.0.1", 0))
    places: dict[str, dict[str, Any]] = {
        "tcp": {"port": 0},
        "uds": {"uds": tmp_path / "s"},
        "fd": {"fd": inherited.fileno()},
    }
    config = quiet(app, **places[kind])
    with inherited, config.bind_socket() as bound:
        assert bound.fileno() != inherited.fileno()
        assert not is_listening(bound)
        assert asyncio.run(fetched(config, sockets=[bound])) == "plain"
        assert bound.fileno() == -1
        assert inherited.fileno() >= 0
    assert caplog.text.count("running on") == 1
    assert ("unix:" if kind == "uds" else "http://127.0.0.1:") in caplog.text


def test_an_address_that_cannot_be_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ListenError, match="already in use"):
            quiet(app, port=taken.getsockname()[1]).bind_socket()
    before = len(os.listdir("/dev/fd"))
    with open(os.devnull) as file, pytest.raises(ListenError, match="is not a socket"):
        quiet(app, fd=file.fileno()).bind_socket()
    assert len(os.listdir("/dev/fd")) == before
    with pytest.raises(ListenError, match="give host and port"):
        quiet(app, bind=["127.0.0.1:0"]).bind_socket()


def test_what_was_loaded_is_what_is_served() -> None:
    config = quiet(app, port=0)
    assert not config.loaded
    config.load()
    assert config.loaded
    assert config.loaded_app is app
    assert asyncio.run(fetched(config)) == "plain"

    async def wrapper(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "seen": "wrapped"}, receive, send)

    config.loaded_app = wrapper
    assert asyncio.run(fetched(config)) == "wrapped"
    with pytest.raises(StartupError):
        quiet("tests.no_such_module:app").load()


def test_the_rest_is_immutable_and_can_be_passed_on() -> None:
    config = quiet("main:app", port=1)
    for name in ("port", "no_such_thing"):
        with pytest.raises(FrozenInstanceError, match=rf"'{name}' .* give it to Config"):
            setattr(config, name, 2)
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert not again.loaded
