"""The examples do what they say, with real clients; and they say how to run them."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from asgi_poller.settings.table import OPTIONS
from examples import chat
from tests.support.processes import ROOT
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))


@contextmanager
def served(name: str, **options: Any) -> Iterator[str]:
    """Serve `examples.NAME:app`; HOST:PORT."""
    with serving(f"examples.{name}:app", log_config=None, **options) as site:
        yield f"127.0.0.1:{site.port}"


def received(channel: ClientConnection) -> Any:
    """The next event of the chat."""
    return json.loads(channel.recv(timeout=DEADLINE_S))


def said(name: str, text: str) -> str:
    return json.dumps({"name": name, "text": text})


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_says_how_to_run_it(name: str) -> None:
    documentation = importlib.import_module(f"examples.{name}").__doc__ or ""
    commands = re.findall(r"^    asgi-poller (.+)$", documentation, re.MULTILINE)
    assert commands, "the docstring has no command"
    app, *options = commands[0].split()
    assert app == f"examples.{name}:app"
    assert all(option.removeprefix("--") in OPTIONS for option in options[::2])


def test_echo_over_http_and_websocket() -> None:
    with served("echo") as address:
        assert httpx.get(f"http://{address}/there").text == "Hello from /there\n"
        with connect(f"ws://{address}/") as channel:
            for message in ("text", b"bytes", "", b""):
                channel.send(message)
                assert channel.recv(timeout=DEADLINE_S) == message


def test_the_chat_tells_everyone_and_counts_them() -> None:
    with served("chat", pollers=8) as address:
        assert "<title>Chat</title>" in httpx.get(f"http://{address}/").text
        with connect(f"ws://{address}/chat") as ann:
            assert received(ann) == {"line": None, "members": 1}
            with connect(f"ws://{address}/chat") as bob:
                assert received(bob) == received(ann) == {"line": None, "members": 2}
                ann.send(said("Ann", "hello"))
                event = {"line": {"name": "Ann", "text": "hello"}, "members": 2}
                assert received(bob) == received(ann) == event
            assert received(ann) == {"line": None, "members": 1}


@pytest.fixture(autouse=True)
def new_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module, and the room in it, outlive a server."""
    monkeypatch.setattr(chat, "room", chat.Room())


def test_the_chat_shows_what_was_said_before() -> None:
    with served("chat") as address:
        with connect(f"ws://{address}/chat") as first:
            received(first)
            first.send(said("Ann", "anyone?"))
            received(first)
        with connect(f"ws://{address}/chat") as second:
            assert received(second)["line"] == {"name": "Ann", "text": "anyone?"}


@pytest.mark.parametrize("line", ["", "{}", said("", "no name"), said("Ann", ""), "[1"])
def test_the_chat_refuses_what_is_no_line(line: str) -> None:
    with served("chat") as address, connect(f"ws://{address}/chat") as channel:
        received(channel)
        channel.send(line)
        with pytest.raises(ConnectionClosed) as closed:
            received(channel)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_starlette() -> None:
    with served("starlette_app") as address:
        assert httpx.get(f"http://{address}/").json()["up_seconds"] >= 0
        with httpx.stream("GET", f"http://{address}/count/3") as response:
            assert list(response.iter_lines()) == ["1", "2", "3"]
        with connect(f"ws://{address}/shout", subprotocols=[Subprotocol("shout")]) as channel:
            assert channel.subprotocol == "shout"
            channel.send("quiet")
            assert channel.recv(timeout=DEADLINE_S) == "QUIET"
