"""What docs/topics.md says of very many WebSockets: it is what the script reckons, and that is
right.
"""

from __future__ import annotations

import shutil

import pytest

from benchmarks import growth, upstream
from benchmarks.growth import Figures, Plan
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "topics.md"
FIGURES = Figures(
    delivery_us=10.0,
    idle_us=1.0,
    open_us=100.0,
    websocket_bytes=5_000,
    subscription_bytes=500,
    kernel_bytes=3_000,
    redis={False: (10.0, 1.0), True: (40.0, 2.0)},
    asked_us=50.0,
)
PLAN = Plan(websockets=1_000_000, machines=10, topics=100, each=2, rate=0.5, payload_bytes=906)


def test_the_page_has_what_the_script_reckons() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- growth:begin ") == 3
    made = growth.tables(growth.STANDARD, Figures.read())
    assert growth.filled(text, made) == text, (
        "run python -m benchmarks.growth --into docs/topics.md"
    )


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("WebSockets", "100,000"),
        ("deliveries a second", "100,000"),  # each gets 2 topics' message every 2 s
        ("cores that deliver", "1.0"),
        ("cores for pings, every 20 s", "0.1"),
        ("cores, 60% busy", "2"),
        ("memory", "0.9 GB"),  # 5,000 + 3,000 + 2 * 500 each
        ("network out", "0.80 Gbit/s"),  # 1,000 bytes on the wire each
        ("all come back at once", "10 core-seconds, 11 s"),  # 0.9 of two cores are free
        ("one machine of M fails: more on each", "11,111 WebSockets"),
        ("Redis: publications a second", "50"),
        ("Redis: messages out a second", "500"),
        ("Redis: subscriptions", "1,000"),
        ("Redis: its core, without history", "0.1%"),  # 50 * (10 + 10) µs
        ("Redis: its core, with history", "0.3%"),  # 50 * (40 + 20) µs
        ("Redis: the clients of one machine come back", "10 core-seconds"),
        ("Redis: all clients come back", "100 core-seconds"),
    ],
)
def test_arithmetic(what: str, value: str) -> None:
    rows = [*growth.of_machine(PLAN, FIGURES), *growth.of_redis(PLAN, FIGURES)]
    assert [row.value for row in rows if row.what == what] == [value]


def test_a_topic_with_few_subscribers_is_not_on_every_machine() -> None:
    assert Plan(websockets=2, machines=2, topics=1).listening == pytest.approx(1.5)
    assert Plan(websockets=1, machines=20, topics=1).listening == pytest.approx(1.0)


def test_redis_is_full_at() -> None:
    row = growth.ends(FIGURES, 130, [10]).splitlines()[-1]
    # 0.6 of a core: 600,000 µs a second, by 20 µs and by 60 µs; 10,000 · 10 · 250 bytes
    assert row == "| 10 | 30,000 | 10,000 | 200 Mbit/s |"


def test_the_line_through_what_was_measured() -> None:
    rows = [
        {"way": "w", "pipelined": 1, "listeners": count, "cpu_us": 3.0 + 0.5 * count}
        for count in (0, 1, 20)
    ]
    assert growth.line_of(rows, "w") == pytest.approx((3.0, 0.5))


@pytest.mark.tools
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on the path")
@pytest.mark.parametrize("way", upstream.WAYS)
def test_a_redis_is_measured(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "LISTENERS", (0, 2))
    count = 2 * 16 * upstream.CONNECTIONS
    with upstream.served() as port:
        rows = list(upstream.measured(port, way, count))
        kept = upstream.Redis(port).command("DBSIZE")
        assert upstream.asked(port, 200, 3) > 0
    assert [(row["pipelined"], row["listeners"]) for row in rows] == [
        (1, 0),
        (1, 2),
        (16, 0),
        (16, 2),
    ]
    assert all(row["cpu_us"] > 0 for row in rows)
    assert (int(kept) > upstream.TOPICS) == (way == "with history")
