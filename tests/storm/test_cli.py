"""The command as a person uses it: one line for mistakes, JSON and HTML that hold the figures,
Ctrl-C that reports.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import signal
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asgi_poller.storm import cli, limits
from asgi_poller.storm.plan import StormError
from asgi_poller.storm.stats import CAUSES
from asgi_poller.storm.summary import SCHEMA, TIMELINE_COLUMNS
from tests.storm import servers
from tests.storm.runs import check_balance, command, finished
from tests.support.client import read_head
from tests.support.waiting import DEADLINE_S


def url(port: int, path: str = "/x") -> str:
    """What is typed for a local port."""
    return f"ws://127.0.0.1:{port}{path}"


def test_json_on_stdout_is_all_there_is() -> None:
    """`--json -` can be piped; progress and the table go to stderr."""
    with servers.behaving(servers.opening(servers.silent)) as port:
        process = command(url(port), "-c", "30", "--json", "-", "-H", "Authorization: secret")
        code, found, err = finished(process)
    assert code == 0
    assert found is not None
    check_balance(found)
    assert found["schema"] == SCHEMA
    assert found["attempted"] == found["opened"] == 30
    assert set(found["failed"]) == {"total", *CAUSES}
    assert found["timeline_columns"] == list(TIMELINE_COLUMNS)
    assert all(len(row) == len(TIMELINE_COLUMNS) for row in found["timeline"])
    assert found["open_ms"]["p50"] <= found["open_ms"]["p99"] <= found["open_ms"]["max"]
    assert sum(bar[2] for bar in found["open_ms"]["histogram"]) == 30
    assert found["plan"]["headers"] == ["Authorization"]
    assert "secret" not in json.dumps(found)
    assert "opened per second" in err


class Page(HTMLParser):
    """What is on a page: tags, links to elsewhere, and the embedded document."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_one_page_with_the_data(tmp_path: Path) -> None:
    """The HTML parses, refers to nothing outside, has the plots, and its text cannot be broken out
    of.
    """
    path = tmp_path / "report.html"
    with servers.behaving(servers.opening(servers.echoing)) as port:
        target = url(port, "/x?</script><b>&y")
        words = ("--mode", "echo", "-c", "5", "--duration", "400ms", "--warmup", "100ms")
        code, _, err = finished(command(target, *words, "--report", str(path), "-q"))
    assert (code, err) == (0, "")
    page = Page()
    page.feed(path.read_text())
    assert page.links == []
    drawn, told = page.tags.count("svg"), page.text.count("too little was measured to draw it")
    assert drawn + told == 7  # in so short a run there are no rates
    assert drawn >= 4
    assert "b" not in page.tags
    assert page.tags.count("rect") > 5
    for title in ("Time to open", "Round trip", "Server's accept queue", "Listen overflows"):
        assert title in page.text
    embedded = re.search(
        r'<script type="application/json" id="run">(.*?)</script>', path.read_text()
    )
    assert embedded is not None
    found = json.loads(embedded[1])
    check_balance(found)
    assert found["messages"]["measured"] > 0


def test_failures_are_the_exit_code_and_are_listed() -> None:
    """A script sees at once that something failed; a person sees what."""
    with servers.behaving(servers.answering(b"HTTP/1.1 503 Busy\r\n\r\n")) as port:
        code, _, err = finished(command(url(port), "-c", "12"))
    assert code == cli.EXIT_FAILURES
    assert re.search(r"failed +12 \(100.00 %\)", err)
    assert re.search(r"HTTP 503 +12", err)


@pytest.mark.parametrize("mode", ["open", "hold"])
def test_interrupt_still_reports(mode: str, tmp_path: Path) -> None:
    """Ctrl-C: what is under way is counted as interrupted, and everything asked for is written."""
    report = tmp_path / "report.html"
    # one signal: a second one ends the command at once, without a report
    numbers = itertools.count(1)

    def behave(sock: socket.socket) -> None:
        if mode == "hold":
            sock.sendall(servers.accept_head(read_head(sock)))
        if next(numbers) == 10:
            process.send_signal(signal.SIGINT)
        servers.silent(sock)

    with servers.behaving(behave) as port:
        words = ("--mode", mode, "-c", "10", "--duration", "1h", "--timeout", "1h", "-p", "2")
        process = command(url(port), *words, "--json", "-", "--report", str(report))
        code, found, _ = finished(process)
    assert code == cli.EXIT_INTERRUPTED
    assert found is not None
    assert found["interrupted"]
    check_balance(found)
    if mode == "open":
        assert found["failed"]["interrupted"] == found["attempted"] == 10
    assert "The run was interrupted" in report.read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["http://x/"], "not a WebSocket address"),
        (["ws://"], "not a WebSocket address"),
        (["ws://127.0.0.1:99999/"], "is not an address"),
        (["ws://nowhere.invalid/"], "does not resolve"),
        (["ws://127.0.0.1:1/a b"], "not a request target"),
        (["ws://127.0.0.1:1/", "--interval", "50 parsecs"], "is not a duration"),
        (["ws://127.0.0.1:1/", "--size", "many"], "is not a size"),
        (["ws://127.0.0.1:1/", "--size", "65MiB"], "more than the 64 MiB"),
        (["ws://127.0.0.1:1/", "-H", "no colon"], "is not a header"),
        (["ws://127.0.0.1:1/", "-H", "a: b\r\nc: d"], "is not a header"),
        (["ws://127.0.0.1:1/", "--message", "@/does/not/exist"], "No such file"),
        (["ws://127.0.0.1:1/", "--json", "/does/not/exist"], "cannot write"),
        (["ws://127.0.0.1:1/", "--source", "::1"], "not an address of the family"),
        (["ws://127.0.0.1:1/", "--mode", "fan-out", "-p", "2"], "leave it at 1"),
        (["ws://127.0.0.1:1/", "-c", "0"], "0 is not in the range"),
        (["ws://127.0.0.1:1/", "--in-flight", "2000"], "2000 is not in the range"),
        (["ws://127.0.0.1:1/", "--mode", "hold", "-c", "9999999", "-p", "1"], "need"),
    ],
)
def test_mistakes_are_one_line(words: list[str], problem: str) -> None:
    """No traceback for the user's mistake, and exit code 2."""
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == cli.EXIT_USAGE
    assert problem in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()[-1]) > 0


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that is missing is named."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(cli.main, ["ws://127.0.0.1:1/"])
    assert result.exit_code == cli.EXIT_USAGE
    assert result.stderr == (
        "asgi-poller-storm: rich is missing: pip install 'asgi-poller[storm]'\n"
    )


def test_descriptor_limit_throttles_and_is_said() -> None:
    """With few descriptors the attempts wait their turn; all of them succeed."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits.RESERVED_COUNT + 8,) * 2)

    with servers.behaving(servers.opening(servers.silent)) as port:
        process = command(url(port), "-c", "100", "-p", "1", "--json", "-", preexec_fn=few)
        code, found, err = finished(process)
    assert code == 0
    assert found is not None
    assert found["opened"] == 100
    assert found["throttled_processes"] == 1
    assert "descriptor limit: each of 1 processes has at most 8 sockets at once" in " ".join(
        err.split()
    )


def test_soft_limit_is_raised() -> None:
    """The hard limit is what counts."""

    def low() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits.RESERVED_COUNT, hard))

    with servers.behaving(servers.opening(servers.silent)) as port:
        words = ("-c", "100", "--mode", "hold", "--duration", "100ms", "--json", "-")
        code, found, _ = finished(command(url(port), *words, preexec_fn=low))
    assert code == 0
    assert found is not None
    assert found["throttled_processes"] == 0


def test_processes_follow_from_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold gets as many processes as it needs, unless too few were asked for."""
    monkeypatch.setattr(limits, "raise_descriptor_limit", lambda: 100)
    assert limits.processes_for(mode="hold", connections=1000, asked=None) == 10
    assert limits.processes_for(mode="hold", connections=1000, asked=12) == 12
    assert limits.processes_for(mode="open", connections=1000, asked=1) == 1
    with pytest.raises(StormError):
        limits.processes_for(mode="echo", connections=1000, asked=9)


def test_message_from_a_file(tmp_path: Path) -> None:
    """`--message @FILE` is what is sent; a text message must be UTF-8."""
    path = tmp_path / "message"
    received: list[Any] = []

    def behave(sock: socket.socket) -> None:
        received.append(servers.read_frame(sock))

    path.write_bytes("grüße".encode())
    with servers.behaving(servers.opening(behave)) as port:
        words = ("--mode", "hold", "--touch", "-c", "1", "--duration", "200ms", "-q")
        finished(command(url(port), *words, "--message", f"@{path}"))
    assert received == [(0x81, "grüße".encode())]
    path.write_bytes(b"\xff")
    result = CliRunner().invoke(cli.main, ["ws://127.0.0.1:1/", "--message", f"@{path}"])
    assert "not UTF-8; say --binary" in result.stderr


def test_help_shows_each_example_as_a_command() -> None:
    out, _ = command("--help").communicate(timeout=DEADLINE_S)
    lines = [line.strip() for line in out.splitlines()]
    examples = [line for line in lines if line.startswith("asgi-poller-storm ")]
    assert len(examples) == 2
    assert all(line.count("asgi-poller-storm ws://") == 1 for line in examples)
