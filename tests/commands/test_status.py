"""`asgi-poller status` beside a running server: how it is found, what is shown, what is said where
nothing can be."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asgi_poller.commands import status_source
from asgi_poller.commands.status_source import Asker, Place, find
from asgi_poller.errors import StatusError
from asgi_poller.monitor.advertisement import Advertised
from tests.monitor.sources import answering, monitor, snapshot
from tests.support.command import APP, Command, Process, run_python, running, started
from tests.support.processes import ROOT, free_port, is_alive
from tests.support.waiting import DEADLINE_S, wait_until

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="found by abstract unix sockets")


def status(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """One run of it, to its end."""
    ours = {name: value for name, value in os.environ.items() if "ASGI_POLLER" not in name}
    return run_python("-m", "asgi_poller", "status", *arguments, env={**ours, **environ})


def port_of(command: Command) -> str:
    return command.wait_for(r"Metrics and health on http://[^:]+:(\d+)")[1]


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that it failed with."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("asgi-poller: error: ")
    return line.removeprefix("asgi-poller: error: ")


@ON_LINUX
def test_by_pid_file_process_and_port(tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"
    with running("--metrics", "0", "--pid", str(pid_file)) as command:
        port = port_of(command)
        targets = (str(pid_file), str(command.pid), port, f":{port}", f"localhost:{port}",
                   f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/status.json")  # fmt: skip
        for target in targets:
            done = status(target, "--json")
            assert json.loads(done.stdout)["pid"] == command.pid, done
        shown = status(str(pid_file)).stdout
    for part in ("● serving", f"supervisor {command.pid}", "Connections per loop", "Workers"):
        assert part in shown
    assert "\x1b" not in shown, "colours are for terminals"
    for pid in command.started_workers:
        assert f" {pid} " in shown


@ON_LINUX
def test_a_server_of_one_process_shows_itself(tmp_path: Path) -> None:
    with running("--metrics", "0", workers=1) as command:
        shown = status(str(command.pid)).stdout
    assert f"server {command.pid}" in shown
    assert "1 connection" not in shown


@ON_LINUX
def test_without_metrics_it_says_how_to_turn_them_on(tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"
    with running("--pid", str(pid_file), workers=1) as command:
        line = error_of(status(str(pid_file)))
        assert line.startswith(f"process {command.pid} does not say where its status is")
        assert "--metrics PORT" in line
        assert "not the port of --metrics" in error_of(status(str(command.address[1])))
        command.signal(signal.SIGKILL)
        command.wait()
        assert "does not run" in error_of(status(str(pid_file)))


def test_what_is_no_server() -> None:
    assert "Connection refused" in error_of(status(str(free_port())))
    assert "no pid file" in error_of(status("no/such/file"))
    assert "Port out of range" in error_of(status("http://localhost:99999"))
    assert "must be http://" in error_of(status("ftp://localhost:99"))
    done = status("--no-such-option")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_port_that_says_something_else_is_not_believed(tmp_path: Path) -> None:
    with started("--metrics", "0", app="tests.supervisor.app:app") as command:
        command.wait_ready()
        place = Place("http", *command.address)
    with monitor(answering(snapshot())) as port:
        place = Place("http", "127.0.0.1", port.port, "/metrics")
        with pytest.raises(StatusError, match="not the port of --metrics"):
            Asker(place, None).ask()


def test_the_token() -> None:
    with monitor(answering(snapshot()), metrics_token="s3cret") as port:
        target = f":{port.port}"
        assert "it wants a token: give --token or ASGI" in error_of(status(target))
        assert "this token is wrong" in error_of(status(target, "--token", "x"))
        assert "this token is wrong" in error_of(status(target, ASGI_POLLER_METRICS_TOKEN="x"))
        assert "supervisor 999" in status(target, ASGI_POLLER_METRICS_TOKEN="s3cret").stdout
        assert json.loads(status(target, "--json", "--token", "s3cret").stdout)["pid"] == 999
    with monitor(answering(snapshot()), metrics="0.0.0.0:0") as port:
        assert "--metrics-token" in error_of(status(f":{port.port}"))


def test_what_a_terminal_would_obey_is_not_passed_on() -> None:
    evil = "\x1b]0;owned\x07[red]"
    with monitor(answering(snapshot(version=evil, refused={evil: 1}, state=evil))) as port:
        done = status(f":{port.port}")
    assert "\x1b" not in done.stdout
    assert done.stdout.count("?]0;owned?[red]") == 3


def test_everything_is_shown() -> None:
    with monitor(answering(snapshot())) as port:
        lines = [line.split() for line in status(f":{port.port}").stdout.splitlines()]
    text = [" ".join(line).replace("━", "").strip() for line in lines]
    for part in ("Connections 6", "Messages received - 1,200", "503 6", "no loop took it 4",
                 "1000 21 0 0", "unix:/run/app.sock - -", "http://127.0.0.1:8000 5 4,096",
                 "Workers (replaced: 1 crashed)", "1 1001 serving 12 s 67 MB 3 0 30 s",
                 "1 0 3 50.0 %"):  # fmt: skip
        assert any(part in line for line in text), (part, text)
    assert any(line.endswith("started worker 1 (1001)") for line in text)


def test_without_rich_there_is_json() -> None:
    script = "import sys; sys.modules['rich'] = None; from asgi_poller.cli import main; main()"
    with monitor(answering(snapshot())) as port:
        plain = run_python("-c", script, "status", f":{port.port}")
        assert "pip install 'asgi-poller[status]', or use --json" in error_of(plain)
        done = run_python("-c", script, "status", f":{port.port}", "--json")
        assert json.loads(done.stdout)["pid"] == 999


@pytest.mark.parametrize(("options", "end"), [(("--json",), "}"), ((), r"worker 1 \(1001\)")])
def test_it_is_watched_until_it_is_interrupted(options: tuple[str, ...], end: str) -> None:
    with monitor(answering(snapshot())) as port:
        target = f":{port.port}"
        command = [sys.executable, "-m", "asgi_poller", "status", target, "--watch", *options]
        watching = Process(command, both_streams=True)
        try:
            assert watching.says(rf"{end}\s*$", count=3)
            watching.signal(signal.SIGINT)
            assert watching.wait() == 0
            assert "Traceback" not in watching.text
            assert "Aborted" not in watching.text
        finally:
            watching.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_it_is_drawn_in_place_and_leaves_it_as_it_was() -> None:
    import termios  # not on Windows

    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (60, 140))
    with monitor(answering(snapshot())) as port, open(master, "rb", buffering=0) as screen:
        command = [sys.executable, "-m", "asgi_poller", "status", f":{port.port}", "--watch"]
        environ = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        watching = subprocess.Popen(command, stdout=slave, stderr=slave, env=environ, cwd=ROOT)
        os.close(slave)
        try:
            seen = b""
            while seen.count(b"supervisor 999") < 3:
                seen += screen.read(65536)
            watching.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                while piece := screen.read(65536):
                    seen += piece
            assert watching.wait(DEADLINE_S) == 0
        finally:
            watching.kill()
            watching.wait(DEADLINE_S)
    assert b"\x1b[?1049h" in seen, "a screen of its own"
    assert seen.rstrip().endswith((b"\x1b[?1049l", b"\x1b[?25h")), "and the one before again"
    assert b"\x1b[32m" in seen, "with colours"


@ON_LINUX
def test_after_an_upgrade_the_new_one_is_found(tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"
    with running("--metrics", "0", "--pid", str(pid_file)) as command:
        port = port_of(command)
        command.signal(signal.SIGUSR2)
        wait_until(lambda: int(pid_file.read_text() or 0) not in (0, command.pid), "it is there")
        new = int(pid_file.read_text())
        try:
            wait_until(lambda: status(str(pid_file), "--json").returncode == 0, "it is found")
            command.wait(has_heir=True)
            for target in (str(pid_file), str(new), port):
                assert json.loads(status(target, "--json").stdout)["pid"] == new
        finally:
            os.kill(new, signal.SIGTERM)
            wait_until(lambda: not is_alive(new), "it has ended")


def test_who_is_watched_may_come_back() -> None:
    with monitor(answering(snapshot())) as port:
        target, number = f":{port.port}", port.port
        command = [sys.executable, "-m", "asgi_poller", "status", target, "--watch"]
        watching = Process(command, both_streams=True)
        watching.wait_for("supervisor 999")
    try:
        watching.wait_for("These figures are old: no answer")
        with monitor(answering(snapshot(pid=1234)), metrics=str(number)):
            watching.wait_for("supervisor 1234")
    finally:
        watching.close()


# Which one is meant

MINE, ALSO_MINE = (Advertised(pid, "127.0.0.1", 9000 + pid, os.geteuid()) for pid in (7, 8))
OTHERS = Advertised(9, "[::1]", 9009, os.geteuid() + 1)


@pytest.mark.parametrize(
    ("running_now", "target", "place"),
    [
        ([MINE, OTHERS], None, Place("http", "127.0.0.1", 9007)),
        ([MINE, OTHERS], "9", Place("http", "::1", 9009)),
        ([MINE, OTHERS], "9009", Place("http", "::1", 9009)),
        ([MINE], "80", Place("http", "127.0.0.1", 80)),
        ([MINE], "[::2]:80", Place("http", "::2", 80)),
        ([MINE], "https://a.example/x/", Place("https", "a.example", 443, "/x/status.json")),
        ([], None, "no asgi-poller of yours .* start the server with --metrics PORT"),
        ([OTHERS], None, r"other users': 9 \(at \[::1\]:9009\)"),
        ([MINE, ALSO_MINE], None, r"name one of 7 \(at 127.0.0.1:9007\), 8 \(at"),
        ([MINE, Advertised(9007, "::1", 1, 0)], "9007", "write :9007 for the port"),
    ],
)
def test_which_server_is_meant(
    monkeypatch: pytest.MonkeyPatch,
    running_now: list[Advertised],
    target: str | None,
    place: Place | str,
) -> None:
    monkeypatch.setattr(status_source, "advertised", lambda: running_now)
    if isinstance(place, Place):
        assert find(target) == place
        return
    with pytest.raises(StatusError, match=place):
        find(target)


# The same with processes, in a network of their own: others may serve on this machine

UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as probe:  # netdevice(7): SIOCSIFFLAGS, IFF_UP
    fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", 1))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def has_namespaces() -> bool:
    programs = shutil.which("unshare"), shutil.which("nsenter")
    if None in programs or os.geteuid() != 0:
        return False
    return (
        subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode
        == 0
    )


@contextmanager
def server(*prefix: str) -> Iterator[Command]:
    command = [*prefix, "-m", "asgi_poller", APP]
    with started("--metrics", "0", program=command) as it:
        it.wait_for("Metrics and health on")
        it.wait_for("running on")
        yield it


@pytest.mark.skipif(not has_namespaces(), reason="needs root, unshare and nsenter")
def test_the_only_one_of_several_and_none() -> None:
    with server("unshare", "--net", sys.executable, "-c", UP) as one:
        there = ["nsenter", "--net", "--target", str(one.pid)]

        def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [*there, sys.executable, "-m", "asgi_poller", "status", *arguments]
            return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

        assert json.loads(ask("--json").stdout)["pid"] == one.pid
        with server(*there, sys.executable) as two:
            line = error_of(ask())
            assert line.startswith("more than one asgi-poller runs: name one of ")
            assert f"{one.pid} (at 127.0.0.1:" in line
            assert json.loads(ask(str(two.pid), "--json").stdout)["pid"] == two.pid
            two.signal(signal.SIGKILL)
            two.wait()
        assert json.loads(ask("--json").stdout)["pid"] == one.pid, "nothing is left of a killed one"
        holder = Process([*there, "sleep", "60"])
        try:
            one.stop()
            there[-1] = str(holder.pid)
            assert "start the server with --metrics PORT" in error_of(ask())
        finally:
            holder.close()


def test_a_number_of_thousands_of_digits_is_refused_in_one_line() -> None:
    done = run_python("-m", "asgi_poller", "status", "1" * 5000)
    assert done.returncode != 0
    assert "is no process, no [HOST:]PORT, and no pid file" in done.stderr
    assert "Traceback" not in done.stderr
