"""`topics.js` in a real browser: it comes back, and what it missed comes once and in order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_poller import topics
from asgi_poller.topics.current import current
from asgi_poller.topics.loop_topics import LoopTopics
from tests.support.browser import Page, browser, executable
from tests.support.command import running
from tests.support.processes import ROOT, suspend
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until
from tests.topics.test_workers import publishing
from tests.topics.workers import HISTORY, Rooms

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the path"),
]

#: Where all that happens to a page is kept for the test; its clients come back soon.
FIRST = """
window.faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(`${event.reason}`));
window.got = [], window.gaps = 0, window.states = [], window.errors = [];
"""
START = """
import("/topics.js").then(({ Topics, waitMs }) => {
  window.waitMs = waitMs;
  window.start = () => window.topics = new Topics("/ws", {
    onState: (state) => states.push(state), onError: (error) => errors.push(error) });
  window.listen = (topic, options = {}) => topics.subscribe(topic, (value, { id }) => {
    got.push(value instanceof Uint8Array ? [...value] : value);
  }, { onGap: () => gaps++, ...options });
})
"""


class Audience:
    """The WebSockets that the application has open now."""

    def __init__(self) -> None:
        self.open: set[WebSocket] = set()

    async def websocket(self, websocket: WebSocket) -> None:
        self.open.add(websocket)
        try:
            await topics.serve(websocket, may=lambda websocket, action, topic: topic != "secret")
        finally:
            self.open.discard(websocket)

    async def send_away(self, code: int) -> None:
        for websocket in list(self.open):
            await websocket.close(code)


async def page(request: Request) -> Response:
    return HTMLResponse("<!doctype html><title>Topics</title><link rel=icon href=data:,>")


async def script(request: Request) -> Response:
    return FileResponse(topics.CLIENT_JS)


class Run:
    """A browser's page, the server that it talks to, and the server's audience."""

    def __init__(self, page: Page, site: Site, audience: Audience) -> None:
        self.page = page
        self.site = site
        self.audience = audience

    def publish(self, *values: Any, topic: str = "a") -> None:
        for value in values:
            topics.publish_threadsafe(topic, json=value).result(DEADLINE_S)

    def listen(self, options: str = "{}") -> None:
        """Subscribe to "a"; returns when the server has it."""
        self.page.run(f"listen('a', {options})")
        wait_until(lambda: how_many("a") == 1, "the page has subscribed")

    def send_away(self, code: int = 1012) -> None:
        """Close all WebSockets, as a worker does that ends."""
        work = self.audience.send_away(code)
        asyncio.run_coroutine_threadsafe(work, the_topics().loop).result(DEADLINE_S)

    def cut(self) -> None:
        """Break all WebSockets without a word, as a worker that is killed."""
        serving_ = self.site.server._serving
        assert serving_ is not None
        for server in serving_.loop_servers:
            for connection in list(server.state.connections):
                the_topics().loop.call_soon_threadsafe(connection.abort)

    def got(self, *values: Any) -> None:
        """The page has got these, and nothing else."""
        self.page.wait_for(f"got.length >= {len(values)}")
        assert self.page.run("got") == list(values)


def the_topics() -> LoopTopics:
    loop_topics = current()
    assert loop_topics is not None
    return loop_topics


def application(audience: Audience) -> Starlette:
    return Starlette(
        routes=[
            Route("/", page),
            Route("/topics.js", script),
            WebSocketRoute("/ws", audience.websocket),
        ]
    )


@contextmanager
def served(audience: Audience, port: int = 0) -> Iterator[Site]:
    with serving(application(audience), port=port, topics_history="1000,60s") as site:
        yield site


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    audience = Audience()
    with served(audience) as site, browser(tmp_path) as windows:
        page = windows.open(site.url(""), first=FIRST)
        page.run(START)
        page.run("start()")
        yield Run(page, site, audience)
        assert page.run("faults") == []


def test_it_subscribes_publishes_and_leaves(run: Run) -> None:
    run.listen()
    run.page.wait_for("states.at(-1) === 'open'")
    assert run.page.run("topics.publish('a', {n: [1, null, 'é']})")
    assert run.page.run("topics.publish('a', null)")
    assert run.page.run("topics.publish('a', new Uint8Array([0, 10, 255]))")
    assert run.page.run("topics.publish('a', new Uint8Array([7, 8]).buffer)")
    run.got({"n": [1, None, "é"]}, None, [0, 10, 255], [7, 8])
    topics.publish_threadsafe("a", text="a text").result(DEADLINE_S)
    run.page.wait_for("got.length === 5 && got[4] === 'a text'")
    run.page.run("topics.unsubscribe('a')")
    wait_until(lambda: how_many("a") == 0)
    run.listen()
    run.page.run("topics.close()")
    wait_until(lambda: not run.audience.open)
    assert run.page.run("states") == ["connecting", "open", "closed"]
    assert run.page.run("topics.publish('a', 1)") is False
    assert run.page.run("gaps") == 0


def test_what_is_refused_is_said(run: Run) -> None:
    run.page.run("listen('secret')")
    run.page.wait_for("errors.length === 1")
    assert run.page.run("errors[0]") == {
        "error": "forbidden",
        "action": "subscribe",
        "topic": "secret",
        "detail": "",
    }
    run.listen()  # the others go on
    run.publish(1)
    run.got(1)


@pytest.mark.parametrize("how", ["closed", "cut"])
def test_after_each_loss_of_the_connection_nothing_is_missing_or_twice(run: Run, how: str) -> None:
    run.listen()
    for number in range(300):
        run.publish(number)
        if number % 100 == 50:  # and no waiting for it to come back
            run.send_away() if how == "closed" else run.cut()
    run.got(*range(300))
    assert run.page.run("gaps") == 0
    assert run.page.run("states.filter((each) => each === 'open').length") >= 2


def test_after_a_restart_that_forgot_the_history_it_says_so_and_goes_on(tmp_path: Path) -> None:
    audience = Audience()
    with browser(tmp_path) as windows:
        with served(audience) as site:
            run = Run(windows.open(site.url(""), first=FIRST), site, audience)
            run.page.run(START)
            run.page.run("start()")
            run.listen()
            run.publish("before")
            run.got("before")
        with served(audience, site.port):
            run.page.wait_for("gaps === 1")
            run.publish("after")
            run.got("before", "after")
        run.page.run("topics.close()")


def test_what_was_lost_on_the_way_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.listen()
    run.publish(0, 1)
    loop_topics = the_topics()
    taken = loop_topics.on_publication
    monkeypatch.setattr(loop_topics.__class__, "on_publication", lambda *ignored: None)
    run.publish(2, 3)
    monkeypatch.setattr(loop_topics.__class__, "on_publication", staticmethod(taken))
    for _ in range(2):  # told twice, and meanwhile more is published that it must not get twice
        loop_topics.loop.call_soon_threadsafe(loop_topics.on_gap, "a", "x")
        run.publish(*range(4, 7) if _ == 0 else range(7, 20))
    run.got(*range(20))
    run.publish("last")
    run.got(*range(20), "last")
    assert run.page.run("gaps") == 0


def test_a_page_may_begin_where_its_server_rendered_it(run: Run) -> None:
    since = topics.publish_threadsafe("a", json="rendered").result(DEADLINE_S)
    run.publish(1, 2)
    run.listen(f"{{since: {json.dumps(since)}}}")
    run.got(1, 2)


def test_who_subscribes_again_gets_nothing_of_the_time_before(run: Run) -> None:
    since = topics.publish_threadsafe("a", json="first").result(DEADLINE_S)
    run.listen()
    run.publish(*range(20))
    again = f"listen('a', {{since: {json.dumps(since)}}});"
    run.page.run(
        f"got.length = 0; topics.publish('a', 20); {again} topics.unsubscribe('a'); {again * 2}"
        "topics.publish('a', 'last'); null"  # behind 20, on the same connection
    )
    run.got(*range(21), "last")


def test_without_a_network_it_waits_for_one(run: Run) -> None:
    run.listen()
    limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    run.page.command("Network.enable")
    run.page.command("Network.emulateNetworkConditions", offline=True, **limits)
    run.page.wait_for("states.includes('waiting')")
    wait_until(lambda: how_many("a") == 0)
    run.publish("meanwhile")
    run.page.command("Network.emulateNetworkConditions", offline=False, **limits)
    run.got("meanwhile")


def test_attempts_are_later_each_time_until_one_was_good(run: Run) -> None:
    """With the clock of the page in the test's hand."""
    run.page.wait_for("states.at(-1) === 'open'")
    run.page.run(
        "topics.close(); window.waits = []; Math.random = () => 1; window.Real = WebSocket;"
        "window.setTimeout = (work, wait) => { waits.push(wait); window.work = work; };"
        "window.WebSocket = class { close() {} };"
        "start(); window.socket = null;"
        "window.WebSocket = class { constructor() { socket = this; } close() {} };"
    )
    lose = "socket.onclose({}); work();"
    run.page.run("topics.handleEvent({type: 'offline'}); work();" + lose * 7)
    assert run.page.run("waits") == [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
    run.page.run("socket.onopen(); " + lose)  # one that lasted for no time was none
    assert run.page.run("waits.at(-1)") == 30000
    run.page.run(
        "socket.onopen(); const now = performance.now();"
        "performance.now = () => now + 11000; " + lose
    )
    assert run.page.run("waits.at(-1)") == 1000


def test_clients_that_a_server_loses_together_do_not_come_back_together(run: Run) -> None:
    seeded = (
        "(() => { let a = 1; return () => { a |= 0; a = a + 0x6D2B79F5 | 0;"
        " let t = Math.imul(a ^ a >>> 15, 1 | a); t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;"
        " return ((t ^ t >>> 14) >>> 0) / 4294967296; }; })()"
    )
    waits = run.page.run(
        f"(() => {{ const random = {seeded};"
        " return Array.from({length: 200}, () => waitMs(0, random)); })()"
    )
    assert 0 <= min(waits) < 100
    assert 900 < max(waits) <= 1000
    in_tenths = [sum(100 * n <= wait < 100 * n + 100 for wait in waits) for n in range(10)]
    assert max(in_tenths) <= 40
    assert run.page.run(
        "[waitMs(0, () => 0.5), waitMs(3, () => 0.5), waitMs(5000, () => 0.5)]"
    ) == [
        500,
        4000,
        15000,
    ]


def test_what_the_page_about_topics_shows_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "topics.md").read_text(encoding="utf-8")
    section = page.partition("\n## In the browser\n")[2].partition("\n## ")[0]
    python, html = (
        re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[0]
        for language in ("python", "html")
    )
    names: dict[str, Any] = {}
    exec(compile(python, "topics.md", "exec"), names)
    names["app"].get("/")(lambda: HTMLResponse(f"<!doctype html><link rel=icon href=data:,>{html}"))
    with serving(names["app"]) as site, browser(tmp_path) as windows:
        ann, bob = (windows.open(site.url("")) for _ in range(2))
        wait_until(lambda: how_many("room:1") == 2)
        ann.run("document.querySelector('button').click()")
        for each in (ann, bob):
            each.wait_for("document.body.innerText.endsWith('hello')")


def how_many(topic: str) -> int:
    """The subscribers of a topic."""
    loop_topics = the_topics()
    work = loop_topics.subscribers(topic)
    return asyncio.run_coroutine_threadsafe(work, loop_topics.loop).result(DEADLINE_S)[0]


CLIENTS = """
import("/topics.js").then(({ Topics }) => {
  window.clients = Array.from({ length: 20 }, () => {
    const client = { got: [], gaps: 0, opened: 0 };
    client.topics = new Topics("/ws", { onState: (state) => client.opened += state === "open" });
    client.topics.subscribe("a", (text) => client.got.push(+text), { onGap: () => client.gaps++ });
    return client;
  });
})
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="workers")
def test_a_server_that_says_nothing_any_more_is_left(tmp_path: Path) -> None:
    """As one whose machine has lost its power: no Close, no end of the connection."""
    quicker = "window.beats = setInterval; window.setInterval = (work, ms) => beats(work, ms / 60);"
    with (
        running(*HISTORY, workers=2, app="tests.topics.pages:app") as command,
        Rooms("{}:{}".format(*command.address)) as rooms,
        browser(tmp_path) as windows,
    ):
        page = windows.open(f"http://{rooms.address}", first=FIRST + quicker)
        page.run(START)
        page.run("start(); listen('a')")
        wait_until(lambda: rooms.ask("/count")["here"] == 1)
        for pid in command.workers:
            suspend(pid)
        page.wait_for("states.includes('waiting')")
        for pid in command.workers:
            os.kill(pid, signal.SIGCONT)
        rooms.publish("7")
        page.wait_for("got.length === 1")
        assert page.run("gaps") == 0
        page.run("topics.close()")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="workers")
def test_pages_miss_nothing_while_workers_are_killed_and_replaced(tmp_path: Path) -> None:
    with (
        running(*HISTORY, workers=2, app="tests.topics.pages:app") as command,
        Rooms("{}:{}".format(*command.address)) as rooms,
        browser(tmp_path) as windows,
    ):
        page = windows.open(f"http://{rooms.address}", first=FIRST)
        page.run(CLIENTS)
        wait_until(lambda: rooms.ask("/count")["here"] == 20)
        with publishing(rooms) as publisher:
            wait_until(lambda: len(publisher.taken) > 20)
            os.kill(command.workers[0], signal.SIGKILL)
            command.wait_for("is ready", count=3)
            wait_until(lambda: rooms.ask("/count")["here"] == 20)
            command.signal(signal.SIGHUP)  # each of them loses its worker
            command.wait_for("Restart complete")
            wait_until(lambda: rooms.ask("/count")["here"] == 20)
            last = publisher.stop()
        page.wait_for(f"clients.every((each) => each.got.at(-1) === {last})")
        for client in page.run("clients"):
            assert client["gaps"] == 0
            assert client["opened"] >= 2
            assert client["got"] == sorted(set(client["got"]))
            assert set(map(int, publisher.taken)) <= set(client["got"])
        assert sum(client["opened"] for client in page.run("clients")) > 40
        assert page.run("faults") == []
        page.run("clients.forEach((each) => each.topics.close())")
        wait_until(lambda: rooms.ask("/count")["here"] == 0)
