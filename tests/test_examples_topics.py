"""The examples on topics, with two workers: one room, prices for many, and who is here when a
worker is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.browser import Page, browser, executable
from tests.support.command import Command, Process, running
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers")

SUBSCRIBERS = int(os.environ.get("PRICES_SUBSCRIBERS", "1000"))
needs_browser = pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the path")
LAST_LINE = "document.querySelector('#lines li:last-child')?.textContent"


@contextlib.contextmanager
def served(name: str, *options: str) -> Iterator[tuple[Command, str]]:
    """An example with two workers, and its HOST:PORT."""
    with running(*options, "--no-access-log", app=f"examples.{name}:app") as command:
        yield command, "{}:{}".format(*command.address)


@pytest.fixture(autouse=True)
def ready_by_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples do not say which process answers."""

    def wait_ready(command: Command, workers: int = 1) -> None:
        command.wait_for(r"Worker \d+ \[\d+\] is ready", count=workers)

    monkeypatch.setattr(Command, "wait_ready", wait_ready)


def lines_of(page: Page) -> list[str]:
    lines: list[str] = page.run(
        "[...document.querySelectorAll('#lines li')].map(e => e.textContent)"
    )
    return lines


def say(page: Page, name: str, text: str) -> None:
    page.run(
        f"document.getElementById('name').value = {name!r};"
        f"document.getElementById('text').value = {text!r};"
        "document.querySelector('button').click()"
    )


@pytest.mark.tools
@needs_browser
def test_the_chat_is_one_room_whatever_becomes_of_its_workers(tmp_path: Path) -> None:
    with (
        served("chat", "--topics-history", "1000,10m") as (command, address),
        browser(tmp_path) as windows,
    ):
        pages = [windows.open(f"http://{address}") for _ in range(4)]  # two for each worker
        for page in pages:
            page.wait_for("document.getElementById('state').textContent === '4 people here'")
        say(pages[0], "Ann", "one")
        for page in pages:
            page.wait_for(f"{LAST_LINE} === 'Annone'")
        os.kill(command.workers[0], signal.SIGKILL)
        command.wait_for(r"Worker \d+ \[\d+\] is ready", count=3)
        for number, page in enumerate(pages):
            page.wait_for("document.getElementById('state').textContent === '4 people here'")
            say(page, "Ann", f"{number}")
            page.wait_for(f"{LAST_LINE} === 'Ann{number}'")
        for page in pages:
            page.wait_for(f"{LAST_LINE} === 'Ann3'")
            assert lines_of(page) == ["Annone", "Ann0", "Ann1", "Ann2", "Ann3"]


@pytest.mark.long
def test_prices_tick_to_many_subscribers() -> None:
    with served("prices", "--limit-connections", "20000") as (_, address):
        load = [sys.executable, "-m", "examples.prices"]
        options = ["--url", f"http://{address}", "--subscribers", str(SUBSCRIBERS)]
        watchers = Process([*load, *options], both_streams=True)
        try:
            line = watchers.wait_for(
                rf"^{SUBSCRIBERS} subscribers, {SUBSCRIBERS} deliveries, .*p99"
            )
            assert "Traceback" not in watchers.text, line
        finally:
            watchers.close()
        with connect(f"ws://{address}/ws") as channel:
            channel.send('{"publish": "price:ANT", "json": {"price": 0, "at": 0}}')
            assert json.loads(channel.recv(DEADLINE_S))["error"] == "forbidden"


@pytest.mark.tools
@needs_browser
def test_the_page_shows_prices(tmp_path: Path) -> None:
    with served("prices") as (_, address), browser(tmp_path) as windows:
        page = windows.open(f"http://{address}")
        page.wait_for("document.getElementById('state').textContent === 'open'")
        change = "document.querySelector('#BEE td:last-child').textContent"
        for price in (10.0, 9.5):  # the first until it has subscribed
            shown = f"document.querySelector('#BEE td:nth-child(2)').textContent === '{price:.2f}'"

            def is_shown(price: float = price, shown: str = shown) -> bool:
                said = {"price": price, "at": 0}
                httpx.put(f"http://{address}/prices/BEE", json=said).raise_for_status()
                return page.run(shown) is True

            wait_until(is_shown)
        assert page.run(change) in ("▼ 0.50", "▲ 0.00")


class Window(threading.Thread):
    """Somebody who looks at who is here: `lists` are all that were shown, `is_closed` is set when
    the connection has ended.
    """

    def __init__(self, address: str, name: str) -> None:
        super().__init__(daemon=True)
        self.person = name
        self.lists: list[list[str]] = []
        self.is_closed = threading.Event()
        self._stack = contextlib.ExitStack()
        opening = connect(f"ws://{address}/here?name={name}", open_timeout=DEADLINE_S)
        self._channel = self._stack.enter_context(opening)
        self.start()

    def run(self) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            for text in self._channel:
                self.lists.append(json.loads(text))
        self.is_closed.set()

    def shows(self, names: list[str]) -> bool:
        return self.lists[-1:] == [sorted(names)]

    def leave(self) -> None:
        self._stack.close()
        self.join(DEADLINE_S)


@contextlib.contextmanager
def windows_of(address: str, names: str) -> Iterator[list[Window]]:
    windows = [Window(address, name) for name in names]
    try:
        yield windows
    finally:
        for window in windows:
            window.leave()


@pytest.mark.long
def test_who_is_here_is_known_everywhere_also_after_a_worker_was_killed() -> None:
    with served("presence") as (command, address), windows_of(address, "abcdef") as windows:
        for window in windows:
            wait_until(lambda window=window: window.shows(list("abcdef")))  # type: ignore[misc]  # bound
        windows.pop().leave()
        for window in windows:
            wait_until(lambda window=window: window.shows(list("abcde")))  # type: ignore[misc]  # bound
        before = [len(window.lists) for window in windows]
        os.kill(command.workers[0], signal.SIGKILL)
        wait_until(lambda: any(window.is_closed.is_set() for window in windows))
        back = next(window for window in windows if window.is_closed.is_set())
        windows.append(Window(address, back.person))  # at once, as a page comes back

        def is_over() -> bool:
            still = [window for window in windows if not window.is_closed.is_set()]
            assert len(still) > 1, "one has come back, and the others' worker lives"
            names = [window.person for window in still]
            return all(window.shows(names) for window in still)

        wait_until(is_over, "those of the killed worker are gone")
        assert any(window.is_closed.is_set() for window in windows)
        for window, count in zip(windows, before, strict=False):
            if not window.is_closed.is_set():
                assert all(back.person in names for names in window.lists[count:])
        assert "Traceback" not in command.text
