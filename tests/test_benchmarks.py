"""The benchmarks measure, record and draw what they say, on small runs with servers from here."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from asgi_poller.storm import probe
from benchmarks import environments, goals, http_load, machine, measures, runner, scenarios, tables
from benchmarks.__main__ import asked_run, main
from benchmarks.holding import Holding, hold
from benchmarks.measures import json_message
from benchmarks.peers import OURS, PEERS, ROOT, WEBSOCKETS, Peer, chosen
from benchmarks.runner import Run, Runner, save
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
    monkeypatch.setattr(environments, "prepare", lambda *words: {"click": "8"})
    monkeypatch.setattr(environments, "bin_folder", lambda *words: Path(sys.executable).parent)
    nowhere: frozenset[int] = frozenset()
    monkeypatch.setattr(machine, "cores", lambda: machine.Cores(nowhere, nowhere))
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
    assert {one.name for one in chosen(goals.PEERS)} == set(goals.PEERS)
    assert {one.name for one in scenarios.chosen(goals.SCENARIOS, quick=False)} == set(
        goals.SCENARIOS
    )
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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "name",
    [
        "echo-beside-opens",
        "burst",
        "spread",
        pytest.param("framework-*", marks=pytest.mark.tools),  # wrk, or what stands in for it
        "fan-out*",
        "computing-echo",
        "idle-*",
        "opens-*",
    ],
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

    def prepare(peer: Peer, *more: object) -> dict[str, str]:
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
def test_what_a_peer_cannot_do_is_a_row() -> None:
    """It is not started for that, and a peer for some scenarios takes part in no other."""
    no_server = "{bin}/python -c raise(SystemExit('started'))"
    without = replace(peer("without", no_server), cannot={WEBSOCKETS: "has no WebSockets"})
    elsewhere = replace(peer("elsewhere", no_server), only=("burst*",))
    found = Runner(small((without, elsewhere), ("opens",)), lambda line: None).carry_out()
    assert found["scenarios"]["opens"]["problems"] == {"without": "has no WebSockets"}
    assert "| without | has no WebSockets |" in tables.table(found["scenarios"]["opens"])


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
def test_messages_that_do_not_come_back_are_no_figure() -> None:
    """An application that breaks at the first message measures nothing."""
    broken = replace(
        scenarios.chosen(("computing-echo",), quick=False)[0],
        measure=measures.echo("/", octets=32, in_flight=1, connections=2, text=True),
    )
    run = replace(small((peer(OURS),), ("http",)), scenarios=(broken,))
    found = Runner(run, lambda line: None).carry_out()["scenarios"]["computing-echo"]
    assert found["peers"] == {}
    said = "RuntimeError: no message came back, 2 connections failed"
    assert found["problems"] == {OURS: said}


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
def test_some_scenarios_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others in every round."""
    server = SimpleNamespace(alive=lambda: True, cpu_s=lambda: 1.0, port=1)
    monkeypatch.setattr(runner, "serving", lambda *words, **more: nullcontext(server))
    load = http_load.Load(requests=1, seconds=1.0, errors=0)
    monkeypatch.setattr(http_load, "run", lambda *words, **more: load)
    run = small((peer(OURS),), ("http", "http-8"), rounds=2, once=("http",))
    found = Runner(run, lambda line: None).carry_out()["scenarios"]
    assert [len(one["peers"][OURS]["rounds"]) for one in found.values()] == [1, 2]


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
    monkeypatch.setattr("benchmarks.servers.STOP_LIMIT_S", 1.0)
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
    try:
        return "State:\tZ" in (probe.PROC / str(pid) / "status").read_text()
    except OSError:
        return True  # reaped between the two looks


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after a while, with what it said."""
    monkeypatch.setattr("benchmarks.servers.READY_LIMIT_S", 0.3)
    words = [sys.executable, "-uc", "print('loading'); import time; time.sleep(60)"]
    server = Server(words, port=free_port(), environ={})
    with pytest.raises(ServerFailed, match="no answer within 0 s: loading"), server:
        pass


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
    absent = CliRunner().invoke(main, ["--python", "/no/python"])
    assert absent.exit_code == 2
    assert "there is no program '/no/python': give --python the path of one" in absent.output


def test_a_run_for_the_goals() -> None:
    """Has its scenarios, both builds and the nearest peers, and ends within 20 minutes."""
    words = ["--goals", "--python", sys.executable, "--rounds", "2"]
    run = asked_run(main.make_context("benchmarks", words).params)
    assert {one.name for one in run.scenarios} == set(goals.SCENARIOS)
    assert {one.name for one in run.peers} == set(goals.PEERS)
    assert run.rounds == 2
    assert set(run.once) < set(goals.SCENARIOS)
    assert run.budget_s < 20 * 60


@pytest.mark.long
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
