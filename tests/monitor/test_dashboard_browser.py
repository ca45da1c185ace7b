"""The dashboard in a real browser, fed by a source that a test writes: its figures, its looks, who
can use it. A running server's is in test_dashboard_storm.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from asgi_poller.commands.status_words import NONE, age, duration, rate, size, whole
from asgi_poller.metrics.snapshot import Event, Snapshot
from asgi_poller.monitor.as_json import as_json
from asgi_poller.monitor.live import VIEWERS
from asgi_poller.monitor.reading import Between, accepted, closes, refusals
from tests.monitor.sources import answering, counted, loop, monitor, snapshot, worker
from tests.monitor.test_live import look
from tests.support.browser import Page, browser, executable
from tests.support.server import Served

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the path"),
]

# Whatever the page does that it should not is kept where the test can see it.
WATCH = """
window.faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(`${event.reason}`));
addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective));
"""
SHADE = """((selector) => {
  const colour = getComputedStyle(document.querySelector(selector)).backgroundColor;
  const [r, g, b] = colour.match(/[\\d.]+/g);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
})"""
# Rates are of one moment alone: the page pauses itself in it, before another snapshot can come.
PAUSE = """
addEventListener("DOMContentLoaded", () => {
  const events = document.getElementById("events");
  new MutationObserver(() => {
    if (window.isHeld || events.querySelectorAll("li").length !== 2) return;
    window.isHeld = true;
    document.getElementById("pause").click();
  }).observe(events, {childList: true, subtree: true});
});
"""
LIVE = "document.getElementById('link')?.textContent === '● Live'"
TABLES = """(() => {
  const rows = (id) => [...document.getElementById(id).tBodies[0].rows].map(
    (row) => [...row.cells].map((cell) => cell.textContent));
  const ids = ["loops", "closes", "workers", "listeners", "refusals", "pollers"];
  return Object.fromEntries(ids.map((id) => [id, rows(id)]));
})()"""
FIGURES = """Object.fromEntries([...document.querySelectorAll("data[data-name]")].map(
  (each) => [each.dataset.name, each.textContent]))"""


@contextmanager
def shown(tmp_path: Path, port: Served) -> Iterator[Page]:
    """The dashboard once it is live; in the end it has done nothing wrong."""
    with browser(tmp_path) as windows:
        page = windows.open(port.url("").rstrip("/"), first=WATCH)
        page.look_like(width=1280, height=900)
        page.wait_for(LIVE)
        yield page
        assert page.run("faults") == []


class Series:
    """One snapshot after the other, then the last one again, a second later each time."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = list(snapshots)
        self.given: list[Snapshot] = []

    def __call__(self) -> Snapshot:
        given = self._snapshots.pop(0) if self._snapshots else self._after(self.given[-1])
        self.given.append(given)
        return given

    @staticmethod
    def _after(last: Snapshot) -> Snapshot:
        return dataclasses.replace(last, time=last.time + 1)


def two_snapshots() -> tuple[Snapshot, Snapshot]:
    """Of a busy server, two seconds apart."""
    first = snapshot(workers=(worker(1, loop(0), loop(1)), worker(2, loop(0), loop(1))))
    busy = loop(0, connections_open=12_345, websockets_open=12_000, messages_received=98_764)
    more = (
        worker(1, busy, loop(1, connections_open=12_300, silent_s=3.2)),
        worker(2, loop(0, websockets_opened=11, websockets_open=5), loop(1), state="draining"),
    )
    crash = Event(time=1_700_000_101.0, kind="crashed", worker=3, pid=7, detail="<b>killed</b>")
    second = dataclasses.replace(
        first,
        time=first.time + 2,
        workers=more,
        events=(*first.events, crash),
        restarts={"crashed": 1, "reload": 2},
        retired=counted(messages_received=1000, bytes_sent=5_000_000) + counted(),
    )
    return first, second


def as_page(text: str) -> str:
    return text.replace(NONE, "\N{EN DASH}")


def test_the_page_shows_what_python_reads(tmp_path: Path) -> None:
    first, second = two_snapshots()
    with monitor(Series(first, second)) as port, browser(tmp_path) as windows:
        page = windows.open(port.url("").rstrip("/"), first=WATCH + PAUSE)
        page.wait_for("window.isHeld")
        assert page.run("faults") == []
        figures, tables = page.run(FIGURES), page.run(TABLES)
        events = page.run("document.getElementById('events').innerText")
        markup = page.run("document.querySelectorAll('#events b').length")
    between, total = Between(first, second), second.total
    assert figures == {
        "websockets_open": whole(total.websockets_open),
        "websockets_opened": whole(total.websockets_opened),
        "connections_open": whole(total.connections_open),
        "requests_running": whole(total.requests_running),
        "accepted": whole(accepted(second)),
        "accepted_rate": rate(between.rate(accepted)),
        "refused": whole(sum(refusals(second).values())),
        "refused_rate": rate(between.rate(lambda each: sum(refusals(each).values()))),
        "messages_received": whole(total.messages_received),
        "messages_received_rate": rate(between.rate(lambda each: each.total.messages_received)),
        "messages_sent": whole(total.messages_sent),
        "messages_sent_rate": rate(between.rate(lambda each: each.total.messages_sent)),
        "topic_deliveries_rate": rate(between.rate(lambda each: each.total.topic_deliveries)),
        "topic_subscriptions": whole(total.topic_subscriptions),
        "topic_drops": whole(total.topic_drops),
    }
    assert tables["closes"] == [
        [f"{code} normal", *map(whole, counts)] for code, counts in closes(second).items()
    ]
    assert tables["refusals"] == [[why, whole(count)] for why, count in refusals(second).items()]
    open_here = [each.values.connections_open for member in second.workers for each in member.loops]
    assert [row[3] for row in tables["loops"]] == list(map(whole, open_here))
    assert tables["listeners"][0] == ["http://127.0.0.1:8000", "5", "4,096"]
    assert tables["listeners"][1][1:] == ["\N{EN DASH}"] * 2
    one, two = second.workers
    assert tables["workers"][0][:5] == [
        "1", "1001", "● serving, no answer for 3.2 s", age(one.age_s), size(one.memory_bytes),
    ]  # fmt: skip
    assert tables["workers"][1][2] == f"◆ {two.state}"
    assert "crashed" in events
    assert "worker 3 (7): <b>killed</b>" in events
    assert markup == 0


def test_both_readers_read_the_same(tmp_path: Path) -> None:
    """The page's readings.js and words.js beside their counterparts in Python."""
    first, second = two_snapshots()
    folder = files("asgi_poller.monitor") / "page"
    script = "".join((folder / name).read_text("utf-8") for name in ("readings.js", "words.js"))
    shares = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
    numbers = (0, 0.04, 1, 9.94, 9.96, 999.4, 999.6, 12_345.678, 5e9)
    times = (0.00001, 0.0099, 0.05, 0.0999, 0.5, 0.9994, 0.9996, 3.24, 9.96, 61, 3_700, 90_000)
    later = dataclasses.replace(second, time=second.time + 1, retired=counted(bytes_sent=1))
    with monitor(Series(first, second, later)) as port, shown(tmp_path, port) as page:
        data = [as_json(each) for each in (first, second)]
        found = page.run(
            f"(() => {{ {script}; const w = new Window(10);"
            f" for (const each of {json.dumps(data)}) w.add(each);"
            " const of = (name) => (each) => totalCounts(each, name);"
            f" return {{quantiles: {json.dumps(shares)}.map((share) => ['lag', 'handshake'].map("
            "   (name) => w.percentile(of(name), share))),"
            f" words: {json.dumps(numbers)}.map((n) => [rateText(n), size(n)]),"
            f" times: {json.dumps(times)}.map((n) => [duration(n), age(n)])}}; }})()"
        )
    between = Between(first, second)
    assert found["quantiles"] == [
        [
            between.quantile_s(lambda each: each.total.lag, share),
            between.quantile_s(lambda each: each.total.handshake, share),
        ]
        for share in shares
    ]
    assert found["words"] == [[rate(each), size(each)] for each in numbers]
    assert found["times"] == [[duration(each), age(each)] for each in times]


def test_it_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    notice = "!document.getElementById('notice').hidden"
    up = "document.getElementById('uptime').textContent"
    with browser(tmp_path) as windows:
        with monitor(answering(snapshot())) as port:
            page = windows.open(port.url("").rstrip("/"), first=WATCH)
            page.wait_for(f"{LIVE} && {up} === '1 min 40 s'")
        page.wait_for(f"{notice} && document.getElementById('link').textContent.includes('Disc')")
        told = page.run("document.getElementById('notice').innerText")
        assert "Disconnected from the server since" in told
        younger = snapshot(started_at=snapshot().time - 7, pid=5)
        with monitor(answering(younger), metrics=str(port.port)):
            page.run("document.getElementById('retry').click()")
            page.wait_for(f"{LIVE} && !({notice}) && {up} === '7 s'")
        assert page.run("faults") == []


def test_a_crash_is_announced_once(tmp_path: Path) -> None:
    with monitor(Series(*two_snapshots())) as port, shown(tmp_path, port) as page:
        said = "document.getElementById('announcement')"
        page.wait_for(f"{said}.textContent === 'worker 3 (7) crashed'")
        assert page.run(f"{said}.getAttribute('role')") == "status"
        page.run(f"window.changes = 0; new MutationObserver(() => changes++).observe({said},"
                 " {childList: true, characterData: true, subtree: true})")  # fmt: skip
        seen = "document.getElementById('uptime').textContent"
        page.wait_for(f"{seen} !== {json.dumps(page.run(seen))}")  # the next snapshot has come
        assert page.run("changes") == 0


def test_one_viewer_too_many_is_told_why(tmp_path: Path) -> None:
    with monitor(answering(snapshot())) as port, contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(look(port)) for _ in range(VIEWERS)]
        with browser(tmp_path) as windows:
            page = windows.open(port.url("").rstrip("/"), first=WATCH)
            page.wait_for("document.getElementById('notice').innerText.startsWith('Too many')")
            viewers[0].close()
            page.wait_for(LIVE)


def test_the_token_is_typed_once(tmp_path: Path) -> None:
    with monitor(answering(snapshot()), metrics_token="s3cret") as port:
        with browser(tmp_path) as windows:
            page = windows.open(port.url("").rstrip("/"), first=WATCH)
            for token, result in (("wrong", "location.search !== ''"), ("s3cret", LIVE)):
                page.wait_for("document.activeElement?.id === 'token'")
                page.command("Input.insertText", text=token)
                page.press("Enter")
                page.arrive(f"document.readyState === 'complete' && {result}")
            assert page.run("location.href") == port.url(), "the token is not in it"
            assert page.run("document.cookie") == "", "nor can a script read it"
            assert page.run("faults") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (768, 1024), (360, 740)])
def test_it_fits_and_is_accessible(tmp_path: Path, width: int, height: int, scheme: str) -> None:
    pytest.importorskip("axe_core_python", reason="in the extra `test`")
    axe = files("axe_core_python") / "axe.min.js"
    with monitor(Series(*two_snapshots())) as port, shown(tmp_path, port) as page:
        page.look_like(width=width, height=height, scheme=scheme)
        page.wait_for("document.querySelectorAll('#events li').length === 2")
        page.wait_for("innerWidth === " + str(width))
        assert page.run("document.documentElement.scrollWidth") <= width
        shades = page.run(f"{SHADE}('body')"), page.run(f"{SHADE}('.notice')")
        assert (shades[0] < 0.2) == (scheme == "dark"), "the scheme is followed"
        page.run(axe.read_text(encoding="utf-8") + "; 0")
        page.run("document.getElementById('notice').hidden = false")  # it is looked at too
        found = page.run(
            "axe.run(document).then(({violations, passes}) => ["
            " violations.map((one) => [one.id, one.nodes.map((node) => node.html)]),"
            " passes.map((one) => one.id)])"
        )
        assert found[0] == []
        assert {"color-contrast", "region", "svg-img-alt"} <= set(found[1]), "it has looked"


def test_a_keyboard_reaches_everything(tmp_path: Path) -> None:
    with monitor(Series(*two_snapshots())) as port, shown(tmp_path, port) as page:
        page.look_like(width=360, height=740)  # tables have to be scrolled there
        page.run("document.getElementById('notice').hidden = false")
        page.wait_for("document.querySelectorAll('.scroll[tabindex]').length >= 2")
        name = "(e) => e.id || e.getAttribute('href') || e.firstElementChild.id"
        wanted = page.run(
            "[...document.querySelectorAll('a[href], button, input, [tabindex=\"0\"]')]"
            f".filter((e) => e.checkVisibility()).map({name})"
        )
        reached = []
        for _ in wanted:
            page.press("Tab")
            here, outline = page.run(
                f"[({name})(document.activeElement),"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
            assert outline == "solid", f"{here} does not show that it has the focus"
            reached.append(here)
        assert reached == wanted
        for each in ("pause", "retry"):
            assert each in reached


def test_without_scripts_it_says_where_the_figures_are(tmp_path: Path) -> None:
    with monitor(answering(snapshot())) as port, browser(tmp_path) as windows:
        page = windows.open(port.url("").rstrip("/"))
        page.command("Emulation.setScriptExecutionDisabled", value=True)
        page.command("Page.reload")
        page.arrive("document.querySelector('noscript')?.innerText.includes('/status.json')")
        assert "JavaScript, which is off" in page.run(
            "document.querySelector('noscript').innerText"
        )
