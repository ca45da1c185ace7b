"""The benchmarks measure, record and draw what they say, on small runs with servers from here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asgi_poller.storm import probe
from asgi_poller.storm.stats import CAUSES
from benchmarks import environments, http_load, machine, runner, scenarios, tables
from benchmarks.__main__ import main
from benchmarks.curves import drawings
from benchmarks.holding import Holding, hold
from benchmarks.measures import json_message
from benchmarks.peers import COMMON_PACKAGES, OURS, PEERS, ROOT, Peer, chosen
from benchmarks.runner import Run, Runner, condensed, save
from benchmarks.servers import Server, ServerFailed, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the load needs Linux's epoll")

OWN_COMMAND = (
    "{bin}/python -m asgi_poller {app} --port {port} --workers {workers} --log-level warning"
)


def peer(name: str, command: str = OWN_COMMAND) -> Peer:
    """A server from the environment that the tests run in."""
    return Peer(name, "here", ("nothing",), ("click",), command, {"PYTHONPATH": str(ROOT)})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Environments are not made: this one will do. The load's pinning is undone."""
    monkeypatch.setattr(environments, "prepare", lambda peer, say: {"click": "8"})
    monkeypatch.setattr(environments, "bin_folder", lambda peer: Path(sys.executable).parent)
    monkeypatch.setattr(machine, "pin_load", frozenset)
    before = set(probe.process_tree((os.getpid(),)))
    yield
    assert set(probe.process_tree((os.getpid(),))) <= before


def small(peers: tuple[Peer, ...], names: tuple[str, ...], **fields: Any) -> Run:
    """A run of fractions of a second."""
    values: dict[str, Any] = {"rounds": 1, "seconds": 0.2, "warmup_s": 0.1, "scale": 0.01}
    return Run(peers=peers, scenarios=scenarios.chosen(names, quick=False), **(values | fields))


# -- what is compared ------------------------------------------------------------------------------


def test_the_lists_are_sound() -> None:
    """Names are unique, every scenario has columns, and ours is among the peers."""
    assert len({one.name for one in PEERS}) == len(PEERS)
    assert len({one.name for one in scenarios.SCENARIOS}) == len(scenarios.SCENARIOS)
    assert all(one.columns for one in scenarios.SCENARIOS)
    assert OURS in {one.name for one in PEERS}
    # Peers that share an environment want the same packages in it.
    wanted: dict[str, tuple[str, ...]] = {}
    for one in PEERS:
        assert wanted.setdefault(one.environment, one.packages) == one.packages


def test_names_are_patterns() -> None:
    """One name is one peer; a pattern is many; nothing is an error."""
    assert [one.name for one in chosen(("uvicorn",))] == ["uvicorn"]
    assert len(chosen(("uvicorn*",))) == 3
    assert chosen(()) == PEERS
    with pytest.raises(KeyError):
        chosen(("nginx",))
    with pytest.raises(KeyError):
        scenarios.chosen(("nothing-*",), quick=True)
    assert len(scenarios.chosen((), quick=True)) < len(scenarios.chosen((), quick=False))


@pytest.mark.parametrize("octets", [64, 576, 5000])
def test_the_json_message(octets: int) -> None:
    """Of exactly the size that the table says."""
    assert len(json_message(octets)) == octets


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_a_run_and_its_tables(tmp_path: Path) -> None:
    """Two peers, two rounds, several measures: medians, spread, versions, tables, charts."""
    names = ("echo-32-binary-1", "echo-deflate-1", "http", "opens")
    said: list[str] = []
    peers = (peer(OURS), peer("other"))
    found = Runner(small(peers, names, rounds=2), said.append).carry_out()
    save(found, tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["complete"]
    assert found["machine"]["cores"] >= 1
    assert found["peers"]["other"]["versions"] == {"click": "8"}
    for name, scenario in found["scenarios"].items():
        assert scenario["problems"] == {}, name
        for one in scenario["peers"].values():
            assert len(one["rounds"]) == 2
            first = next(iter(scenario["columns"]))
            assert one["min"][first] <= one["median"][first] <= one["max"][first]
            assert one["median"].get("failed", 0) == 0
    assert found["scenarios"]["echo-32-binary-1"]["peers"][OURS]["median"]["cpu_us"] > 0
    text = tables.markdown(found)
    assert text.count("| **asgi-poller** |") == len(found["scenarios"])
    for _, drawn in tables.charts(found):
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
    # Interleaved: the second round begins with the other peer.
    order = [line.split()[2:4] for line in said if "  http " in line]
    assert [name for _, name in order] == [OURS, "other", "other", OURS]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "name",
    ["echo-beside-opens", "burst", "spread", "framework-*", "fan-out", "idle-*", "opens-*"],
)
def test_the_other_measures(name: str) -> None:
    """Each gives the metrics that its columns show."""
    found = Runner(small((peer(OURS),), (name,)), lambda line: None).carry_out()
    for scenario in found["scenarios"].values():
        assert scenario["problems"] == {}
        assert scenario["columns"].keys() <= scenario["peers"][OURS]["median"].keys()


@pytest.mark.usefixtures("here")
def test_a_peer_that_does_not_install_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the others go on."""

    def prepare(peer: Peer, say: object) -> dict[str, str]:
        if peer.name == "absent":
            raise environments.NotInstalled("no wheel for this machine")
        return {}

    monkeypatch.setattr(environments, "prepare", prepare)
    said: list[str] = []
    run = small((peer("absent"), peer(OURS)), ("http",))
    found = Runner(run, said.append).carry_out()
    assert found["skipped"] == {"absent": "no wheel for this machine"}
    assert found["scenarios"]["http"]["peers"].keys() == {OURS}
    assert "absent is missing: no wheel for this machine." in tables.markdown(found)
    assert any("skipped" in line for line in said)


@pytest.mark.usefixtures("here")
def test_a_server_that_fails_is_a_row() -> None:
    """Its last words are recorded; the run goes on."""
    broken = peer("broken", "{bin}/python -c raise(SystemExit('no-such-option'))")
    found = Runner(small((broken, peer(OURS)), ("http",)), lambda line: None).carry_out()
    problem = found["scenarios"]["http"]["problems"]["broken"]
    assert problem == "exit code 1: no-such-option"
    assert f"| broken | {problem} |" in tables.markdown(found)
    assert OURS in found["scenarios"]["http"]["peers"]


@pytest.mark.usefixtures("here")
def test_a_measure_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of figures is not lost to one that could not be taken."""
    monkeypatch.setattr(http_load, "read_wrk", lambda text: 1 / 0)
    monkeypatch.setattr(http_load, "own", lambda *words, **more: 1 / 0)
    run = small((peer(OURS),), ("http", "opens"))
    found = Runner(run, lambda line: None).carry_out()
    problems = found["scenarios"]["http"]["problems"]
    assert problems == {OURS: "ZeroDivisionError: division by zero"}
    assert OURS in found["scenarios"]["opens"]["peers"]


@pytest.mark.usefixtures("here")
def test_an_interrupted_run_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the run, not the result."""

    def interrupt(text: str) -> http_load.Load:
        raise KeyboardInterrupt

    monkeypatch.setattr(http_load, "read_wrk", interrupt)
    monkeypatch.setattr(http_load, "own", lambda *words, **more: interrupt(""))
    run = small((peer(OURS),), ("echo-32-binary-1", "http"))
    found = Runner(run, lambda line: None).carry_out()
    assert not found["complete"]
    assert OURS in found["scenarios"]["echo-32-binary-1"]["peers"]


@pytest.mark.usefixtures("here")
def test_a_run_ends_in_time() -> None:
    """After its time no measure begins, and the result says that it is not whole."""
    said: list[str] = []
    found = Runner(small((peer(OURS),), ("http",), budget_s=-1.0), said.append).carry_out()
    assert not found["complete"]
    assert found["scenarios"]["http"]["peers"] == {}
    assert len(said) == 1
    assert "time ended" in tables.markdown(found)


# -- servers ---------------------------------------------------------------------------------------

STUBBORN = """
import signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    while True:
        server.accept()[0].send(b"HTTP/1.1 200 OK")
"""


def test_a_server_is_ended_with_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it ignores the request to end."""
    monkeypatch.setattr("benchmarks.servers.STOP_LIMIT_S", 0.2)
    port = free_port()
    words = [sys.executable, "-c", STUBBORN, str(port)]
    with Server(words, port=port, environ={}) as server:
        pids = server.pids()
        assert len(pids) == 2
        assert server.alive()
        assert server.cpu_s() > 0
    assert not server.alive()
    assert all(not (probe.PROC / str(pid)).exists() or _zombie(pid) for pid in pids)


def _zombie(pid: int) -> bool:
    return "State:\tZ" in (probe.PROC / str(pid) / "status").read_text()


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after a while, with what it said."""
    monkeypatch.setattr("benchmarks.servers.READY_LIMIT_S", 0.3)
    words = [sys.executable, "-uc", "print('loading'); import time; time.sleep(60)"]
    server = Server(words, port=free_port(), environ={})
    with pytest.raises(ServerFailed, match="no answer within 0 s: loading"), server:
        pass


# -- environments ----------------------------------------------------------------------------------


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip runs when there is nothing, not when there is, and again when the packages differ."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    ran: list[list[str]] = []

    def run(words: list[str]) -> str:
        ran.append(words)
        (tmp_path / "here").mkdir(exist_ok=True)
        return '[{"name": "Click", "version": "8.1"}]'

    monkeypatch.setattr(environments, "_run", run)
    assert environments.prepare(peer("one"), print) == {"click": "8.1"}
    assert ran[1][-2:] == ["nothing", *COMMON_PACKAGES]
    made = len(ran)
    assert environments.prepare(peer("one"), print) == {"click": "8.1"}
    assert len(ran) == made
    other = Peer("one", "here", ("something",), (), "")
    environments.prepare(other, print)
    assert len(ran) == 2 * made


def test_an_environment_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is pip's last line, and nothing is recorded as installed."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    done = subprocess.CompletedProcess([], 1, "", "looking\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: done)
    with pytest.raises(environments.NotInstalled, match="ERROR: No matching distribution"):
        environments.prepare(peer("one"), print)
    assert not (tmp_path / "here" / environments.DONE).exists()


# -- HTTP load -------------------------------------------------------------------------------------

WRK = """Running 2s test @ http://127.0.0.1:1/
  Latency Distribution
     50%    1.24ms
     75%    1.50ms
     90%    2.00ms
     99%    5.10s
  95310 requests in 2.05s, 11.00MB read
  Socket errors: connect 0, read 3, write 0, timeout 1
  Non-2xx or 3xx responses: 7
"""


def test_what_wrk_says() -> None:
    """Requests, time, errors and percentiles, each unit understood."""
    load = http_load.read_wrk(WRK)
    assert load == http_load.Load(95310, 2.05, 11, p50_ms=1.24, p99_ms=5100.0)
    with pytest.raises(RuntimeError, match="unable to connect"):
        http_load.read_wrk("unable to connect to 127.0.0.1:1 Connection refused")


def test_the_own_client_counts_what_the_server_served() -> None:
    """Every answer that came is one request, cut as it may be."""
    served = 0

    def serve(sock: socket.socket) -> None:
        nonlocal served
        try:
            while sock.recv(65536):
                served += 1
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
                sock.sendall(b"llo")
        except ConnectionError:
            pass  # the client is done, with an answer under way
        finally:
            sock.close()

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        for _ in range(http_load.CONNECTIONS + 1):
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    load = http_load.own(listener.getsockname()[1], "/", seconds=0.3)
    thread.join(10)
    listener.close()
    assert load.errors == 0
    # One request measured the length of an answer; those under way at the end are not counted.
    assert 0 < load.requests <= served - 1
    assert served - 1 - load.requests <= http_load.CONNECTIONS


# -- tables ----------------------------------------------------------------------------------------


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
        {"holding": {"connections": 9, "workers": 1}, "held": {}, "storm": storm()},
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


def test_later_results_win() -> None:
    """Scenario by scenario; one that measured nothing replaces nothing."""
    first, second = result(), result()
    second["scenarios"]["echo"]["title"] = "Echo, again"
    third = result()
    third["scenarios"]["echo"]["peers"] = {}
    whole = tables.merged([first, second, third])
    assert whole["scenarios"]["echo"]["title"] == "Echo, again"


# -- the command and the headline runs -------------------------------------------------------------


def test_the_command_names_what_there_is() -> None:
    """`--list` runs nothing; a wrong name is one line."""
    listed = CliRunner().invoke(main, ["--list"])
    assert listed.exit_code == 0
    assert "echo-32-binary-1" in listed.output
    assert "granian" in listed.output
    wrong = CliRunner().invoke(main, ["--only", "nothing"])
    assert wrong.exit_code == 2
    assert "nothing is named 'nothing'; see --list" in wrong.output


@pytest.mark.usefixtures("here")
def test_a_small_hold() -> None:
    """Opened, one message from each, one to each: every channel has had both."""
    holding = Holding(
        connections=50,
        workers=1,
        processes=2,
        burst=25,
        interval_s=0.01,
        timeout_s=10.0,
        limit_s=4.0,
        spare_octets=1,
        server_args="--pollers 2",
    )
    found = hold(peer(OURS), holding, say=lambda line: None, teller=lambda outcome: None)
    assert found["storm"]["opened"] == 50
    assert found["held"]["all_had_both"]
    assert found["held"]["channels_by_messages"] == {"2": 50}
    assert not found["held"]["stopped_for_memory"]
    assert not found["storm"]["interrupted"]


def test_curves_are_drawn() -> None:
    """From rows as they are measured, the first without idle connections."""
    found = {
        "pollers": [{"pollers": 1, "burst_per_s": 10.0, "steady_per_s": 9.0}],
        "connections": [{"idle": 0, "echo_per_s": 5.0}, {"idle": 9, "octets_each": 7000.0}],
    }
    for name, drawn in drawings(found):
        assert ElementTree.fromstring(drawn).tag.endswith("svg"), name
    assert runner.RESULTS.name == "results"
