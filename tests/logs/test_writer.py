"""The log never holds a server: a pipe that nobody reads, a full disk, forks, and every kind of
end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.logs.served import piped
from tests.support.client import get, read_to_end
from tests.support.command import Command, run_python
from tests.support.processes import ROOT, free_port
from tests.support.waiting import DEADLINE_S, wait_until

PIPE_BYTES = 4096
QUEUE_COUNT = 10_000  # lines that wait for an output that takes nothing, in each process
NUMBER = re.compile(r"/n(\d+)\b")
LOSS = re.compile(r"WARNING: +(\d+) log lines were lost")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes and /dev/full as in Linux")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """As small as a pipe can be."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def ask(address: tuple[str, int], count: int, first: int = 0) -> None:
    """So many requests, for /n0 and so on; each is answered."""
    group = 500
    with socket.create_connection(address, DEADLINE_S) as client:
        for start in range(first, first + count, group):
            numbers = range(start, min(start + group, first + count))
            client.sendall(b"".join(get(f"/n{number}") for number in numbers))
            answers = b""
            while answers.count(b"HTTP/1.1 200 ") < len(numbers):
                piece = client.recv(65536)
                assert piece, "the connection ended"
                answers += piece


def lost_at(address: tuple[str, int]) -> int:
    """Lines that the process which answers has lost."""
    with socket.create_connection(address, DEADLINE_S) as client:
        client.sendall(get("/lost", "Connection: close"))
        return int(read_to_end(client).split()[-1])


def read_until(reader: int, pattern: re.Pattern[str]) -> str:
    """What comes from a pipe up to a line that matches."""
    text = ""
    while not pattern.search(text):
        text += os.read(reader, 65536).decode()
    return text


def test_a_pipe_that_nobody_reads_holds_no_request_and_loses_the_newest_lines(
    pipe: tuple[int, int], tmp_path: Path
) -> None:
    reader, writer = pipe
    with piped(writer, tmp_path / "err") as server:
        address = server.address()
        count = QUEUE_COUNT + 2_000
        ask(address, count)
        wait_until(lambda: lost_at(address) > 0, "lines are lost")
        text = read_until(reader, LOSS)
        seen = [int(number) for number in NUMBER.findall(text)]
        # the oldest are whole and in order; what came later was taken while there was room
        assert seen[:QUEUE_COUNT] == list(range(QUEUE_COUNT))
        assert seen == sorted(set(seen))
        assert QUEUE_COUNT <= len(seen) < count
        (lost,) = map(int, LOSS.findall(text))
        asked = text.count("/lost")
        assert lost >= count - len(seen)
        assert lost == lost_at(address)
        assert asked < QUEUE_COUNT
        ask(address, 1, first=count)
        assert f"/n{count} HTTP/1.1" in read_until(reader, re.compile(rf"/n{count}\b"))
        assert server.end() < 5
        assert "Traceback" not in server.errors


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--loops", "2")], ids=str)
def test_a_pipe_that_nobody_reads_does_not_hold_the_end(
    options: tuple[str, ...], pipe: tuple[int, int], tmp_path: Path
) -> None:
    _, writer = pipe
    with piped(writer, tmp_path / "err", *options) as server:
        address = server.address()
        ask(address, 500)
        assert server.end() < 5
        errors = server.errors
        assert "Traceback" not in errors
        assert re.search(r"Finished (server process|supervisor)", errors), errors


def test_a_full_disk_is_no_traceback(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with piped(full, tmp_path / "err") as server:
            address = server.address()
            ask(address, 100)
            wait_until(lambda: lost_at(address) >= 100, "lines are counted")
            assert server.end() < 5
            assert "Traceback" not in server.errors
            assert "Finished server process" in server.errors
    finally:
        os.close(full)


FIND_ROOM_AGAIN = """
import resource, sys, logging
from asgi_poller import logs
from asgi_poller.config import Config
logs.configure_logging(Config("a:b"))
error = logging.getLogger(logs.ERROR_LOGGER)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with logs.background_writing():
    error.info("before")
    logs.flush_log()
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    for number in range(10):
        error.info("line %d", number)
        logs.flush_log()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    error.info("after")
    error.info("at the end")
"""


def test_a_disk_that_has_room_again(tmp_path: Path) -> None:
    path = tmp_path / "err"
    with path.open("wb") as file:
        command = [sys.executable, "-c", FIND_ROOM_AGAIN]
        subprocess.run(command, stderr=file, check=True, cwd=ROOT, timeout=DEADLINE_S)
    lines = path.read_text().splitlines()
    assert lines[:2] == ["INFO:     before", "INFO:     line 0"]
    assert "INFO:     line 1".startswith(lines[2])  # as far as there was room
    assert "INFO:     after" in lines[3:]
    assert [line for line in lines if "lost" in line] == [
        "WARNING:  9 log lines were lost: they could not be written."
    ]
    assert "INFO:     at the end" in lines[3:]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_last_lines_of_a_start_that_fails(workers: str) -> None:
    options = ["--port", "0", "--workers", workers]
    done = run_python("-m", "asgi_poller", "tests.logs.apps:failing", *options)
    assert done.returncode == 3
    assert "the database does not answer" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("asgi-poller: error: ")


END = """
import logging, os, sys, threading
from asgi_poller import logs
from asgi_poller.config import Config
from asgi_poller.serve.runner import end_process_now
from asgi_poller.serve.server import _leave
logs.configure_logging(Config("a:b"))
error = logging.getLogger(logs.ERROR_LOGGER)
with logs.background_writing():
    for number in range(3000):
        error.info("line %d", number)
    {end}
"""


@pytest.mark.parametrize(
    "end", ["raise SystemError", "end_process_now(0)", "sys.exit(1)", "_leave(2)", "pass"]
)
def test_the_last_lines_of_a_process(end: str) -> None:
    done = run_python("-c", END.format(end=end))
    lines = [line for line in done.stderr.splitlines() if line.startswith("INFO")]
    assert lines == [f"INFO:     line {number}" for number in range(3000)]


FORK = """
import logging, os, threading
from asgi_poller import logs
from asgi_poller.config import Config
logs.configure_logging(Config("a:b"))
error = logging.getLogger(logs.ERROR_LOGGER)
with logs.background_writing():
    for number in range(200):
        error.info("parent %d", number)
    child = os.fork()
    error.info("%s after", "parent" if child else "child")
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
assert not [each for each in threading.enumerate() if each.name == "LogWriter"]
"""


def test_a_fork_writes_its_own_lines_and_no_others() -> None:
    done = run_python("-c", FORK, check=True)
    lines = done.stderr.splitlines()
    ours = [line for line in lines if "parent" in line]
    assert ours == [*(f"INFO:     parent {n}" for n in range(200)), "INFO:     parent after"]
    assert lines.count("INFO:     child after") == 1


FORK_WHILE_COUNTING = """
import logging, os, signal, threading
from asgi_poller import logs
from asgi_poller.config import Config
from asgi_poller.logs import stream
logs.configure_logging(Config("a:b"))
output = logging.getLogger("asgi_poller").handlers[0]._output.stream
counts, is_over = threading.Event(), threading.Event()
def count():  # is in the middle of lose_one(), as a thread without a GIL can be at any fork
    with output._counting, stream._total_lock:
        counts.set()
        is_over.wait()
thread = threading.Thread(target=count)
thread.start()
counts.wait()
child = os.fork()
if not child:
    signal.alarm(5)
    output.lose_one()
    os._exit(logs.dropped_lines())
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
is_over.set()
thread.join()
print(code)
"""


def test_a_fork_counts_what_it_loses_though_a_thread_of_its_parent_counts_at_the_time() -> None:
    assert run_python("-c", FORK_WHILE_COUNTING, check=True).stdout == "1\n"


@pytest.mark.parametrize("options", [("--workers", "2"), ("--workers", "2", "--preload")], ids=str)
def test_workers_that_are_killed_and_started_again_log(
    options: tuple[str, ...], pipe: tuple[int, int], tmp_path: Path
) -> None:
    reader, writer = pipe
    with piped(writer, tmp_path / "err", *options) as server:
        address = server.address()
        ready = r"Worker \d+ \[(\d+)\] is ready"
        wait_until(lambda: len(re.findall(ready, server.errors)) == 2, "both serve")
        for pid in re.findall(ready, server.errors):
            os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: len(re.findall(ready, server.errors)) == 4, "both serve again")
        ask(address, 20)
        text = read_until(reader, re.compile(r"/n19\b.*\n"))
        assert [int(number) for number in NUMBER.findall(text)] == list(range(20))
        assert server.end() < 10
        assert "has started threads" not in server.errors


def test_what_the_application_prints_is_in_order_with_its_lines() -> None:
    program = (
        "import logging\nfrom asgi_poller import logs\nfrom asgi_poller.config import Config\n"
        "logs.configure_logging(Config('a:b'))\n"
        "access = logging.getLogger(logs.ACCESS_LOGGER)\n"
        "with logs.background_writing():\n"
        "    print('printed')\n"
        "    access.info(logs.ACCESS_HTTP, 'a', 'GET', '/', '1.1', 200)\n"
        "    logs.flush_log()\n"
        "    print('and again')\n"
    )
    done = run_python("-c", program, check=True)
    assert done.stdout.splitlines() == [
        "printed",
        'INFO:     a - "GET / HTTP/1.1" 200 OK',
        "and again",
    ]


def test_a_line_is_there_when_its_response_is(tmp_path: Path) -> None:
    """Nobody waits for a line: it comes by itself, within moments."""
    command = Command("--port", "0", app="tests.logs.apps:app")
    try:
        with socket.create_connection(command.address, DEADLINE_S) as client:
            client.sendall(get("/fail", "Connection: close"))
            assert read_to_end(client).startswith(b"HTTP/1.1 500 ")
        assert command.says("RuntimeError: told to fail", within_s=5)
    finally:
        command.close()


STUCK = """
import logging, os, sys, threading
from asgi_poller import logs
from asgi_poller.config import Config
logs.configure_logging(Config("a:b"))
access = logging.getLogger(logs.ACCESS_LOGGER)
begun, go = threading.Event(), threading.Event()
class Stuck(logs.AccessFormatter):
    def format(self, record):
        begun.set()
        go.wait()  # as a write that another process's line has made block
        return super().format(record)
access.handlers[0].setFormatter(Stuck())
with logs.background_writing():
    access.info(logs.ACCESS_HTTP, "a", "GET", "/", "1.1", 200)
    begun.wait()
    for number in range(12_000):
        long = number in (500, 5_000)
        access.info(logs.ACCESS_HTTP, "a", "GET", f"/n{number}" + "x" * 60_000 * long, "1.1", 200)
    print(logs.dropped_lines(), file=sys.stderr)
    go.set()
"""


def test_what_waits_for_a_thread_that_is_stuck_has_a_bound() -> None:
    done = run_python("-c", STUCK, check=True)
    seen = [int(number) for number in re.findall(r"/n(\d+)", done.stdout)]
    assert seen == [number for number in range(QUEUE_COUNT + 1) if number != 5_000]
    assert done.stderr == f"{12_000 - len(seen)}\n"
    assert LOSS.findall(done.stdout) == [str(12_000 - len(seen))]


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--reload",)], ids=str)
def test_both_streams_may_be_a_pipe_that_took_nothing_from_the_start(
    options: tuple[str, ...], pipe: tuple[int, int], tmp_path: Path
) -> None:
    _, writer = pipe
    os.write(writer, b"x" * PIPE_BYTES)
    address = "127.0.0.1", free_port()
    command = [sys.executable, "-m", "asgi_poller", "tests.logs.apps:app", *options]
    process = subprocess.Popen(
        [*command, "--port", str(address[1])], stdout=writer, stderr=writer, cwd=ROOT
    )
    try:
        wait_until(lambda: answers(address), "it serves")
        for _ in range(50):  # a traceback each
            with socket.create_connection(address, DEADLINE_S) as client:
                client.sendall(get("/fail", "Connection: close"))
                assert read_to_end(client).startswith(b"HTTP/1.1 500 ")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
        # a second for each generation of processes, at most
        assert time.monotonic() - began < 8
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def answers(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, DEADLINE_S) as client:
            client.sendall(get("/", "Connection: close"))
            return read_to_end(client).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


ALTERNATING = """
import logging
from asgi_poller import logs
from asgi_poller.config import Config
logs.configure_logging(Config("a:b"))
error, access = map(logging.getLogger, (logs.ERROR_LOGGER, logs.ACCESS_LOGGER))
with logs.background_writing():
    for number in range(0, 2000, 2):
        error.info("/n%d", number)
        access.info(logs.ACCESS_HTTP, "a", "GET", f"/n{number + 1}", "1.1", 200)
"""


def test_lines_of_both_streams_are_in_order_where_both_are_one() -> None:
    text = subprocess.check_output(
        [sys.executable, "-c", ALTERNATING],
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        timeout=DEADLINE_S,
        text=True,
    )
    assert [int(number) for number in NUMBER.findall(text)] == list(range(2000))
