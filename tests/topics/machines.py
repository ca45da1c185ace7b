"""Two servers that stand for two machines, joined by a service, and clients of theirs."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from tests.support.server import Served, Site, serving
from tests.support.waiting import DEADLINE_S, wait_until
from tests.topics.test_topics import app


@contextlib.contextmanager
def machines(url: str, **options: Any) -> Iterator[tuple[Site, Site]]:
    """Both run meanwhile."""
    with serving(app, topics=url, **options) as one, serving(app, topics=url, **options) as other:
        yield one, other


def published(site: Served, value: object, topic: str = "a") -> str:
    """Publish as JSON; the id."""
    body = json.dumps(value).encode()
    head = f"POST /publish?topic={topic} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = site.ask(head.encode() + body)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return answer.partition(b"\r\n\r\n")[2].decode()


def is_refused(site: Served, topic: str = "a") -> bool:
    """Whether publishing raises."""
    head = f"POST /publish?topic={topic} HTTP/1.0\r\nContent-Length: 1\r\n\r\n1"
    return site.ask(head.encode()).startswith(b"HTTP/1.1 500 ")


class Follower:
    """A client with ids that reads to the end, and counts."""

    def __init__(self, site: Served, topic: str = "a", since: str | None = None) -> None:
        query = f"/?topic={topic}&ids" + ("" if since is None else f"&since={since}")
        self._stack = contextlib.ExitStack()
        self._client = self._stack.enter_context(
            websockets.sync.client.connect(site.url(query, "ws"), max_queue=None)
        )
        self._got: list[tuple[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.waits(lambda: self.subscribed is not None, "subscribed")

    def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in self._client:
                told = json.loads(message)
                if "json" in told or "text" in told:
                    self._got.append((told["id"], told.get("json", told.get("text"))))
                else:
                    self.notes.append(told)

    @property
    def values(self) -> list[Any]:
        """What has come."""
        return [value for _, value in self._got]

    @property
    def ids(self) -> list[str]:
        """Its ids."""
        return [id for id, _ in self._got]

    @property
    def subscribed(self) -> dict[str, Any] | None:
        """What it was told when it had subscribed."""
        return next((note for note in self.notes if note.get("subscribed")), None)

    @property
    def lost(self) -> list[dict[str, Any]]:
        """What it was told to have lost."""
        return [note for note in self.notes if "lost" in note]

    def send(self, text: str) -> None:
        """Publish."""
        self._client.send(text)

    def waits(self, condition: Any, what: str) -> None:
        """Wait for it; fails with what has come."""
        try:
            wait_until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.values[-5:]}, {self.notes}") from None

    def has(self, values: list[Any]) -> None:
        """Wait until so many have come: they are these."""
        self.has_count(len(values))
        assert self.values == values

    def has_count(self, count: int) -> None:
        """Wait until so many have come."""
        self.waits(lambda: len(self._got) >= count, f"{count} came")

    def has_last(self, id: str) -> None:
        """Wait until this one has come."""
        self.waits(lambda: self._got[-1:] and self._got[-1][0] == id, f"{id} came")

    def close(self) -> None:
        """Idempotent."""
        self._stack.close()
        self._thread.join(DEADLINE_S)


@contextlib.contextmanager
def followers(*sites: Served, **options: Any) -> Iterator[list[Follower]]:
    """One of each site."""
    found: list[Follower] = []
    try:
        for site in sites:
            found.append(Follower(site, **options))
        yield found
    finally:
        for each in found:
            each.close()
