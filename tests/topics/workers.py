"""Clients of the application `rooms`, wherever it is served, and the hub's process behind it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support.processes import is_alive
from tests.support.waiting import DEADLINE_S, wait_until

APP = "tests.topics.rooms:app"
HISTORY = ("--topics-history", "100000,60s")
HUB_NAME = "asgi-poller: hu"


class Member:
    """A WebSocket that has subscribed to `topic`; `pid` is the worker that has it, `told` what it
    was told of its subscription.
    """

    def __init__(self, address: str, topic: str = "a", **query: str) -> None:
        parameters = urllib.parse.urlencode({"topic": topic, **query})
        self.topic = topic
        opening = websockets.sync.client.connect(
            f"ws://{address}/?{parameters}", open_timeout=DEADLINE_S, compression=None
        )
        self._stack = contextlib.ExitStack()
        self.client = self._stack.enter_context(opening)
        self.pid: int = self.heard()["pid"]
        self.told: Any = None if "since" in query else self.heard()

    def heard(self) -> Any:
        """The next message, parsed."""
        return json.loads(self.text())

    def text(self) -> str:
        """The next message."""
        message = self.client.recv(DEADLINE_S)
        assert isinstance(message, str)
        return message

    def say(self, text: str) -> None:
        """Publish to the topic, in the worker that has this client."""
        self.client.send(text)

    def close(self) -> None:
        self._stack.close()


class Rooms:
    """A server of the application, at HOST:PORT. Members are closed with it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rooms:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def ask(self, path: str, topic: str = "a", body: str | None = None) -> Any:
        """What a worker says, with its pid; with a problem if topics are not to be had."""
        url = f"http://{self.address}{path}?{urllib.parse.urlencode({'topic': topic})}"
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, url, content=body, timeout=DEADLINE_S)
        assert answer.status_code in (200, 503), answer.text
        return answer.json()

    def publish(self, text: str, topic: str = "a") -> Any:
        """One message, by whichever worker is asked."""
        return self.ask("/publish", topic, text)

    def member(self, topic: str = "a", **query: str) -> Member:
        member = Member(self.address, topic, **query)
        self._stack.callback(member.close)
        return member

    def member_in_each(self, workers: int = 2, topic: str = "a") -> dict[int, Member]:
        """One member in each worker, by its process id."""
        members: dict[int, Member] = {}
        for _ in range(50):
            member = self.member(topic)
            if members.setdefault(member.pid, member) is not member:
                member.close()
            if len(members) == workers:
                return members
        raise AssertionError(f"only {len(members)} of {workers} workers serve")

    def came(self, pid: int, topic: str) -> int:
        """How many publications of a topic have come to a worker."""
        for _ in range(200):
            said = self.ask("/came", topic)
            if said["pid"] == pid:
                return int(said["came"])
        raise AssertionError(f"{pid} is never asked")


class Resumer(threading.Thread):
    """A client that comes back whenever its connection ends, and says what it had last; `got` are
    the ids and texts of all that it got, `gaps` how often it was told that more was missed.
    """

    def __init__(self, address: str, topic: str = "a") -> None:
        super().__init__(daemon=True)
        self._address = address
        self._topic = topic
        self._since: str | None = None
        self._is_over = threading.Event()
        self.is_joined = threading.Event()
        self.connections = 0
        self.gaps = 0
        self.got: list[tuple[str, str]] = []

    def run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError, TimeoutError, ConnectionClosed, InvalidHandshake):
                self._follow()
            self._is_over.wait(0.02)

    def stop(self) -> None:
        self._is_over.set()
        self.join(DEADLINE_S)

    def has(self, text: str) -> bool:
        return any(each == text for _, each in list(self.got))

    def _follow(self) -> None:
        query = {"ids": "1"} | ({} if self._since is None else {"since": self._since})
        parameters = urllib.parse.urlencode({"topic": self._topic, **query})
        url = f"ws://{self._address}/?{parameters}"
        with websockets.sync.client.connect(url, open_timeout=DEADLINE_S) as client:
            self.connections += 1
            client.recv(DEADLINE_S)  # its process
            while not self._is_over.is_set():
                try:
                    self._take(json.loads(client.recv(0.2)))
                except TimeoutError:
                    continue

    def _take(self, message: Any) -> None:
        if "lost" in message:
            self.gaps += 1
            return
        self._since = message["id"]
        if "subscribed" in message:
            self.gaps += not message["complete"]
            self.is_joined.set()
        else:
            self.got.append((message["id"], message["text"]))


@contextlib.contextmanager
def resumers(address: str, count: int, topic: str = "a") -> Iterator[list[Resumer]]:
    """So many of them, all subscribed."""
    started = [Resumer(address, topic) for _ in range(count)]
    for each in started:
        each.start()
    try:
        for each in started:
            assert each.is_joined.wait(DEADLINE_S)
        yield started
    finally:
        for each in started:
            each.stop()


def processes_of(session: int) -> dict[int, str]:
    """The processes of a session that run, and the kernel's names of them."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name)
            if os.getsid(pid) == session and is_alive(pid):
                found[pid] = (folder / "comm").read_text().strip()
    return found


def hubs_of(session: int) -> list[int]:
    """The hubs that run in a session: that of the command that the test has started."""
    return [pid for pid, name in processes_of(session).items() if name == HUB_NAME]


def hub_of(session: int, *, besides: int = 0) -> int:
    """The hub, when there is one, and it is not the one that is known."""
    wait_until(lambda: bool(set(hubs_of(session)) - {besides}), "there is a hub")
    (hub,) = set(hubs_of(session)) - {besides}
    return hub


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process has, by the kernel's names of them."""
    names = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            names.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return {name for name in names if name.startswith("socket:")}


def wait_gone(session: int) -> None:
    """Wait until nothing is left of a command."""
    wait_until(lambda: not processes_of(session), "all processes have ended")
