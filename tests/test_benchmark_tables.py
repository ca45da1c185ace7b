"""Results become tables and charts, and what they say is what was measured."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from asgi_poller.storm.stats import CAUSES
from benchmarks import machine, runner, tables
from benchmarks.charts import standing_alone
from benchmarks.curves import drawings
from benchmarks.goals import goals_table
from benchmarks.peers import OURS
from benchmarks.runner import condensed


def result() -> dict[str, Any]:
    """A small result made up."""
    scenario = {
        "title": "Echo",
        "columns": {"per_s": "messages/s"},
        "less_is_better": False,
        "peers": {
            "slow": condensed([{"per_s": 500.0}]),
            OURS: condensed([{"per_s": 900.0}, {"per_s": 1100.0}, {"per_s": 1000.0}]),
        },
        "problems": {},
    }
    return {
        "machine": machine.describe(),
        "made_at": "2026-01-02T03:04:05+00:00",
        "seconds": 1.0,
        "rounds": 3,
        "complete": True,
        "peers": {OURS: {"versions": {"uvloop": "1"}, "command": ""}},
        "skipped": {},
        "scenarios": {"echo": scenario},
    }


def test_a_table() -> None:
    """The best first, the spread in brackets, the ratio of ours to each."""
    lines = tables.table(result()["scenarios"]["echo"]).splitlines()
    assert lines[2] == "| **asgi-poller** | 1,000 (900 to 1,100) | 1.00 |"
    assert lines[3] == "| slow | 500 | 2.00 |"


def test_who_did_not_compress_is_not_compared() -> None:
    """A peer that sends plain messages did less work than the table is about."""
    scenario = result()["scenarios"]["echo"]
    scenario["columns"] |= {"cpu_us": "server µs each", "deflated": "compressed"}
    scenario["peers"] = {
        OURS: condensed([{"per_s": 10.0, "cpu_us": 2.0, "deflated": 5}]),
        "plain": condensed([{"per_s": 20.0, "cpu_us": 1.0, "deflated": 0}]),
        "slow": condensed([{"per_s": 5.0, "cpu_us": 6.0, "deflated": 5}]),
    }
    assert tables.table(scenario).splitlines()[2:] == [
        "| plain, not compressed | 20 | 1 | 0 |  |  |",
        "| **asgi-poller** | 10 | 2 | 5 | 1.00 | 1.00 |",
        "| slow | 5 | 6 | 5 | 2.00 | 3.00 |",
    ]


def test_marked_places_are_filled(tmp_path: Path) -> None:
    """The command replaces what is between the marks, and only that; twice is once."""
    page, data = tmp_path / "page.md", tmp_path / "result.json"
    data.write_text(json.dumps(result()))
    page.write_text("a\n<!-- benchmarks:begin echo -->\nold\n<!-- benchmarks:end -->\nz\n")
    words = [str(data), "--into", str(page), "--charts", str(tmp_path / "charts")]
    for _ in range(2):
        assert CliRunner().invoke(tables.main, words).exit_code == 0
    text = page.read_text()
    assert text.startswith("a\n<!-- benchmarks:begin echo -->\n| | messages/s |")
    assert text.endswith("| slow | 500 | 2.00 |\n<!-- benchmarks:end -->\nz\n")
    assert "old" not in text
    assert "1,000" in (tmp_path / "charts" / "echo.svg").read_text()


def test_headline_tables(tmp_path: Path) -> None:
    """The fewest failures first; holds by size; curves as they are; what is missing is said."""
    open_ms = {"p50": 10.0, "p99": 20.0}

    def storm(**failed: int) -> dict[str, Any]:
        causes = {**dict.fromkeys(CAUSES, 0), **failed, "total": sum(failed.values())}
        server = {"listen_overflows": 3}
        return {
            "failed": causes,
            "attempted": 100,
            "opened": 100 - causes["total"],
            "open_per_s": 5.0,
            "open_ms": open_ms,
            "server": server,
            "seconds": 2.0,
        }

    documents: list[dict[str, Any]] = [
        {"peer": "bad", "workers": 2, "storm": storm(timeout=7, reset=1)},
        {"peer": OURS, "workers": 2, "storm": storm()},
        {
            "holding": {"connections": 9, "workers": 1, "limit_s": 120.0},
            "held": {"message_to_each_s": 7.0, "all_had_both": True},
            "storm": storm(),
        },
        {"pollers": [{"pollers": 1, "burst_per_s": 1234.5}], "connections": [{"idle": 0}]},
    ]
    paths = []
    for number, document in enumerate(documents):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(document))
    words = [str(path) for path in paths]
    printed = CliRunner().invoke(tables.main, words).output
    lines = printed.splitlines()
    assert lines[2] == f"| {OURS} | 2 | 0 of 100 | none | 5 | 10 / 20 | 3 |"
    assert "| 100 | 1 | 0 | 2.0 |  | 0 | over 32 | 7.0 |" in lines
    assert lines[3] == "| bad | 2 | 8 of 100 | 1 reset, 7 timeout | 5 | 10 / 20 | 3 |"
    assert "| 1 |  | 1,234.5 |" in printed
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmarks:begin headline-hold -->\n<!-- benchmarks:end -->\n")
    assert CliRunner().invoke(tables.main, [*words, "--into", str(page)]).exit_code == 0
    assert "| 100 | 1 | 0 | 2.0 |" in page.read_text()
    page.write_text("<!-- benchmarks:begin echo -->\n<!-- benchmarks:end -->\n")
    missing = CliRunner().invoke(tables.main, [*words, "--into", str(page)])
    assert missing.exit_code == 1
    assert "no result given has 'echo'" in missing.output


def test_goals() -> None:
    """Beside the best peer of each figure, and beside the one that users come from."""
    scenario = result()["scenarios"]["echo"]
    scenario["peers"] = {
        OURS: condensed([{"per_s": 10.0, "cpu_us": 2.0}]),
        "frugal": condensed([{"per_s": 4.0, "cpu_us": 3.0}]),
        "uvicorn": condensed([{"per_s": 5.0, "cpu_us": 6.0}]),
    }
    memory = {"title": "Memory", "columns": {"octets": "octets"}, "less_is_better": True}
    memory["peers"] = {OURS: condensed([{"octets": 5.0}]), "uvicorn": condensed([{"octets": 15.0}])}
    table = goals_table({"echo-32-binary-1": scenario, "idle-memory": memory})
    assert table.splitlines()[2:] == [
        "| Echo | 1.7 | 2.00 (uvicorn) | 1.50 (frugal) | 2.00 | 3.00 |",
        "| Memory | 3 | 3.00 |  | 3.00 |  |",
    ]


def test_later_results_win() -> None:
    """Scenario by scenario; one that measured nothing replaces nothing."""
    first, second = result(), result()
    second["scenarios"]["echo"]["title"] = "Echo, again"
    third = result()
    third["scenarios"]["echo"]["peers"] = {}
    whole = tables.merged([first, second, third])
    assert whole["scenarios"]["echo"]["title"] == "Echo, again"


CURVES = ("echo_per_s", "idle_cpu_percent", "octets_each")  # over idle channels


def test_curves_are_drawn() -> None:
    """From rows as they are measured, the first without idle connections."""
    found = {
        "pollers": [
            {"pollers": 1, "burst_per_s": 10.0, "steady_per_s": 9.0},
            {"pollers": 2, "burst_per_s": 11.0, "steady_per_s": 9.5},
        ],
        "connections": [
            {"idle": 0, "echo_per_s": 5.0},
            *({"idle": idle, **dict.fromkeys(CURVES, 7.0)} for idle in (9, 99)),
        ],
    }
    for name, drawn in drawings(found):
        assert ElementTree.fromstring(drawn).tag.endswith("svg"), name
        alone = ElementTree.fromstring(standing_alone(drawn))
        assert alone[0].tag.endswith("style"), name
    assert runner.RESULTS.name == "results"
