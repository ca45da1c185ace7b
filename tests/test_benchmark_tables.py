"""Results become tables and charts, and what they say is what was measured."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asgi_poller.storm.stats import CAUSES
from benchmarks import goals, headline_tables, machine, runner, tables
from benchmarks.charts import standing_alone
from benchmarks.curves import drawings
from benchmarks.goals import goals_table
from benchmarks.peers import COMPILED, LOOPS, OURS, ROOT, WORKERS
from benchmarks.runner import condensed
from benchmarks.summary import nearest, summary_table


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


def scenario_of(title: str, peers: dict[str, dict[str, float]]) -> dict[str, Any]:
    """A scenario with one round of each peer."""
    return {
        "title": title,
        "columns": {"per_s": "messages/s", "cpu_us": "server µs each"},
        "less_is_better": True,
        "peers": {name: condensed([metrics]) for name, metrics in peers.items()},
        "problems": {},
    }


def test_goals(tmp_path: Path) -> None:
    """Met, missed and not measured; beside a peer, the best peer, ourselves before, and a limit."""
    json_peers = {COMPILED: {"cpu_us": 50.0}, "peregrine": {"cpu_us": 60.0}}
    before = {OURS: {"cpu_us": 15.0}, "asgi-poller, commit fb6fc35": {"cpu_us": 14.85}}
    burst = {COMPILED: {"failed": 0, "p99_ms": 100.0}, "quick": {"failed": 7, "p99_ms": 50.0}}
    busy = burst | {COMPILED: {"failed": 2, "p99_ms": 100.0}}
    loops = {LOOPS: {"per_s": 96.0, "mib": 50.0}, WORKERS: {"per_s": 100.0, "mib": 110.0}}
    scenarios = {
        "framework-json": scenario_of("JSON", json_peers | {"uvicorn": {"cpu_us": 60.0}}),
        "http": scenario_of("GET", before | {"peregrine": {"cpu_us": 10.0}}),
        "burst": scenario_of("Burst", burst | {"slow": {"failed": 0, "p99_ms": 150.0}}),
        "burst-busy": scenario_of("Busy", busy),
        "computing-echo": scenario_of("Loops", loops),
    }
    assert goals_table(scenarios).splitlines()[2:] == [
        f"| JSON | {COMPILED} | peregrine | 1.00 | 1.20 (60 : 50 µs) | met |",
        f"| JSON | {COMPILED} | uvicorn | 1.50 | 1.20 (60 : 50 µs) | **missed** |",
        f"| JSON | {COMPILED} | granian | 1.30 |  | not measured |",
        f"| GET | {OURS} | peregrine | 0.85 | 0.67 (10 : 15 µs) | **missed** |",
        f"| GET | {OURS} | h2corn | 1.10 |  | not measured |",
        f"| GET | {OURS} | uvicorn | 2.10 |  | not measured |",
        f"| GET | {OURS} | {OURS}, commit fb6fc35 | 0.98 | 0.99 (14.85 : 15 µs) | met |",
        f"| Burst | {COMPILED} |  | 0 failed at most | 0 | met |",
        f"| Busy | {COMPILED} |  | 0 failed at most | 2 | **missed** |",
        f"| Burst | {COMPILED} | slow, p99 | 2.00 | 1.50 (150 : 100 ms) | **missed** |",
        f"| Busy | {COMPILED} | the best peer, p99 | 2.00 | all lost some | met |",
        f"| Loops | {LOOPS} | {WORKERS}, rate | 0.95 | 0.96 (100 : 96 /s) | met |",
        f"| Loops | {LOOPS} | {WORKERS}, memory | 2.00 | 2.20 (110 : 50 MiB) | met |",
    ]
    data = tmp_path / "result.json"
    data.write_text(json.dumps({"scenarios": scenarios}))
    checked = CliRunner().invoke(goals.main, [str(data)])
    assert checked.exit_code == 1
    assert "**missed**" in checked.output
    data.write_text(json.dumps({"scenarios": {"computing-echo": scenarios["computing-echo"]}}))
    assert CliRunner().invoke(goals.main, [str(data)]).exit_code == 0


def test_the_summary() -> None:
    """Both builds and the peers that come nearest, one of each product; each has every row."""
    everybody = ("a", "a, slower", "b", "c", "d", "e", "only-http")
    http = {name: {"cpu_us": 10.0 + place} for place, name in enumerate(everybody)}
    echo = {name: one for name, one in http.items() if name != "only-http"}
    builds = {OURS: {"cpu_us": 8.0}, COMPILED: {"cpu_us": 5.0}}
    memory = {OURS: {"octets": 5000.0}, "a": {"octets": 7500.5}}
    scenarios = {
        "http": scenario_of("GET", builds | http),
        "echo-32-binary-1": scenario_of("Echo", builds | echo),
        "idle-memory": scenario_of("Memory", memory),
    }
    assert nearest(scenarios) == ["a", "b", "c", "d"]
    assert summary_table(scenarios).splitlines() == [
        "| | **asgi-poller, compiled** | **asgi-poller** | a | b | c | d |",
        "|---|---|---|---|---|---|---|",
        "| WebSocket echo, 32 bytes, µs | 5 | 8 | 10 (2.00) | 12 (2.40) | 13 (2.60) | 14 (2.80) |",
        "| HTTP GET, µs | 5 | 8 | 10 (2.00) | 12 (2.40) | 13 (2.60) | 14 (2.80) |",
        "| Memory of an idle WebSocket, bytes |  | 5,000 | 7,500 |  |  |  |",
    ]


def test_the_compiled_build_is_what_the_others_are_compared_with() -> None:
    scenario = result()["scenarios"]["echo"]
    scenario["peers"][COMPILED] = condensed([{"per_s": 2000.0}])
    assert tables.table(scenario).splitlines()[2:] == [
        "| **asgi-poller, compiled** | 2,000 | 1.00 |",
        "| **asgi-poller** | 1,000 (900 to 1,100) | 2.00 |",
        "| slow | 500 | 4.00 |",
    ]


def test_later_results_win() -> None:
    """Scenario by scenario; one that measured nothing replaces nothing."""
    first, second = result(), result()
    second["scenarios"]["echo"]["title"] = "Echo, again"
    third = result()
    third["scenarios"]["echo"]["peers"] = {}
    whole = tables.merged([first, second, third])
    assert whole["scenarios"]["echo"]["title"] == "Echo, again"


def test_peers_of_an_earlier_run_keep_their_ratios() -> None:
    """Where a later run lacks them, with their date and beside our figures of their own run."""
    first, second = result(), result()
    second["made_at"] = "2026-02-03T00:00:00+00:00"
    second["scenarios"]["echo"]["peers"] = {
        OURS: condensed([{"per_s": 4000.0}]),
        "new": condensed([{"per_s": 2000.0}]),
    }
    whole = tables.merged([first, second, second])
    assert tables.table(whole["scenarios"]["echo"]).splitlines()[2:] == [
        "| **asgi-poller** | 4,000 | 1.00 |",
        "| new | 2,000 | 2.00 |",
        "| slow, on 2026-01-02 | 500 | 2.00 |",
    ]


def test_each_interpreter_has_its_own_tables() -> None:
    """A place says which one it is about; without a word it is the one of most results."""
    runs = [result(), result(), result()]
    runs[2]["interpreter"] = "3.99t"
    runs[2]["scenarios"]["echo"]["peers"] = {OURS: condensed([{"per_s": 7.0}])}
    found = tables.by_interpreter(runs)
    places = "".join(
        f"<!-- benchmarks:begin {name} -->\n<!-- benchmarks:end -->\n"
        for name in ("ec*@3.99t", "echo")
    )
    lines = tables.filled(places, found, {}).splitlines()
    assert lines[1:6] == [
        "### Echo",
        "",
        "| | messages/s | ours : theirs |",
        "|---|---|---|",
        "| **asgi-poller** | 7 | 1.00 |",
    ]
    assert "| slow | 500 | 2.00 |" in lines[6:]


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_a_page_shows_the_results_that_are_kept(page: str) -> None:
    """Its tables are those of benchmarks/results: `python -m benchmarks.tables --into PAGE`."""
    documents = tables.documents_of(tables.kept_results())
    runs = tables.by_interpreter([one for one in documents if "scenarios" in one])
    headlines = headline_tables.tables([one for one in documents if "scenarios" not in one])
    text = (ROOT / page).read_text(encoding="utf-8")
    assert tables.filled(text, runs, headlines) == text


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
