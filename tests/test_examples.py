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
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from asgi_poller.settings.table import OPTIONS
from tests.support.processes import ROOT
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S, wait_until

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))


@contextmanager
def served(name: str, **options: Any) -> Iterator[str]:
    """Serve `examples.NAME:app`; HOST:PORT."""
    with serving(f"examples.{name}:app", log_config=None, **options) as site:
        yield f"127.0.0.1:{site.port}"


def received(channel: ClientConnection) -> Any:
    """What comes next, parsed."""
    return json.loads(channel.recv(timeout=DEADLINE_S))


def asked(channel: ClientConnection, **message: Any) -> Any:
    """Send it; the answer, whatever of other topics comes before it."""
    channel.send(json.dumps(message))
    topic = next(iter(message.values()))
    while (answer := received(channel))["topic"] != topic:
        pass
    return answer


def said(name: str, text: str) -> dict[str, str]:
    return {"name": name, "text": text}


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


def members_are(channel: ClientConnection, count: int) -> None:
    while received(channel).get("json") != count:
        pass


def test_the_chat_tells_everyone_and_counts_them() -> None:
    with served("chat", pollers=8) as address:
        assert "<title>Chat</title>" in httpx.get(f"http://{address}/").text
        assert "class Topics" in httpx.get(f"http://{address}/topics.js").text
        with connect(f"ws://{address}/chat") as ann:
            asked(ann, subscribe="room")
            asked(ann, subscribe="members")
            members_are(ann, 1)
            with connect(f"ws://{address}/chat") as bob:
                asked(bob, subscribe="members")
                members_are(ann, 2)
                bob.send(json.dumps({"publish": "room", "json": said("Bob", "hello")}))
                assert received(ann)["json"] == said("Bob", "hello")
            members_are(ann, 1)


def test_the_chat_shows_what_was_said_before() -> None:
    with served("chat") as address:
        with connect(f"ws://{address}/chat") as first:
            asked(first, subscribe="room")
            for number in range(60):
                asked(first, publish="room", json=said("Ann", str(number)))
        url = f"http://{address}/room"
        wait_until(lambda: httpx.get(url).json()["lines"][-1:] == [said("Ann", "59")])
        room = httpx.get(url).json()
        assert room["lines"] == [said("Ann", str(number)) for number in range(10, 60)]
        with connect(f"ws://{address}/chat") as second:  # what comes behind that is all that comes
            assert asked(second, subscribe="room", since=room["since"])["complete"] is True


@pytest.mark.parametrize("line", ["", {}, said("", "no name"), said("Ann", ""), [1], None])
def test_the_chat_refuses_what_is_no_line(line: Any) -> None:
    with served("chat") as address, connect(f"ws://{address}/chat") as channel:
        assert asked(channel, publish="room", json=line)["error"] == "invalid"
        assert asked(channel, publish="members", json=1000)["error"] == "forbidden"


def test_starlette() -> None:
    with served("starlette_app") as address:
        assert httpx.get(f"http://{address}/").json()["up_seconds"] >= 0
        with httpx.stream("GET", f"http://{address}/count/3") as response:
            assert list(response.iter_lines()) == ["1", "2", "3"]
        with connect(f"ws://{address}/shout", subprotocols=[Subprotocol("shout")]) as channel:
            assert channel.subprotocol == "shout"
            channel.send("quiet")
            assert channel.recv(timeout=DEADLINE_S) == "QUIET"
