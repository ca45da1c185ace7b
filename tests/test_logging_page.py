"""docs/logging.md: its tables are the code's, its lines are the server's, and its configurations
run.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn.config
import yaml
from websockets.sync.client import connect

from asgi_poller.logs.access_fields import FIELDS, FORMAT_FIELDS, RECORD_FIELDS
from asgi_poller.settings.table import BY_SPELLING
from tests.logs.served import Logged, logged
from tests.support.client import get
from tests.support.frames import close as close_frame
from tests.support.processes import ROOT
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S, wait_until

PAGE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
LAST = "Connection: close"
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def block(language: str, containing: str) -> str:
    """The block of code that has the text `containing`."""
    (found,) = [text for text in blocks(language) if containing in text]
    return found


def shape(line: str) -> str:
    """A line without what differs from run to run."""
    return re.sub(r"\d+(\.\d+)*", "0", line)


def tables() -> list[dict[str, str]]:
    """The tables of fields: names and meanings."""
    found = re.findall(r"\| field \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE)
    return [dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", rows, re.MULTILINE)) for rows in found]


def test_the_tables_are_the_code_s() -> None:
    assert tables() == [RECORD_FIELDS, FIELDS, FORMAT_FIELDS]
    for table, fields in zip(tables(), (RECORD_FIELDS, FIELDS, FORMAT_FIELDS), strict=True):
        assert list(table) == list(fields)


def test_the_default_look(tmp_path: Path) -> None:
    with logged(tmp_path) as site:
        site.ask(get("/items?page=2", LAST))
        with site.websocket(path="/chat") as client:
            client.sendall(close_frame(1001))
            client.frame()
        lines = site.wait_for_lines(3)
    assert [shape(line) for line in lines] == [
        shape(line) for line in block("text", "[accepted]").splitlines()
    ]


def test_the_object_has_what_the_page_shows(tmp_path: Path) -> None:
    (shown,) = map(json.loads, blocks("json"))
    with logged(tmp_path, *options_of("--log-format json\n")) as site:
        site.ask(get("/items?page=2", LAST, "User-Agent: curl/8.5.0"))
        (line,) = site.wait_for_objects(1)
    assert list(line) == list(shown)
    assert shape(line["message"]) == shape(shown["message"])
    for name in ("method", "path", "query", "status", "user_agent", "logger", "level"):
        assert line[name] == shown[name]


def options_of(containing: str) -> list[str]:
    """The options of the command on the page that has this text."""
    program, app, *options = shlex.split(block("sh", containing))
    assert (program, app) == ("asgi-poller", "main:app")
    return options


def test_the_template(tmp_path: Path) -> None:
    with logged(tmp_path, *options_of("--access-log-format")) as site:
        site.ask(get("/slow", LAST, "User-Agent: me"))
        (line,) = site.wait_for_lines(1)
    assert re.fullmatch(r'\S+Z 127.0.0.1:\d+ "GET /slow HTTP/1.1" 404 10 \d+\.\dms "me"', line)


def configuration(name: str, folder: Path) -> str:
    """The configuration on the page under this name, as a file."""
    path = folder / name
    text = block("yaml", f"# {name}")
    path.write_text(text.replace("filename: access.log", f"filename: {folder / 'access.log'}"))
    return str(path)


def ask_for_lines(site: Logged) -> list[str]:
    site.ask(get("/a", LAST))
    return site.wait_for_lines(1)


def test_uvicorn_s_configuration_is_uvicorn_s_and_works(tmp_path: Path) -> None:
    path = configuration("uvicorn.yaml", tmp_path)
    assert yaml.safe_load(Path(path).read_text()) == uvicorn.config.LOGGING_CONFIG
    with logged(tmp_path, "--log-config", path) as site:
        (line,) = ask_for_lines(site)
        assert re.fullmatch(r'INFO:     127.0.0.1:\d+ - "GET /a HTTP/1.1" 200 OK', line)
        assert site.server.errors.startswith("INFO:     Started server process")


def test_json_by_a_configuration(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-config", configuration("json.yaml", tmp_path)) as site:
        (line,) = map(json.loads, ask_for_lines(site))
        assert (line["path"], line["complete"]) == ("/a", True)
        assert re.match(r"\S+ \S+ \d+ INFO Started server process", site.server.errors)


def test_a_rotating_file(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-config", configuration("rotating.yaml", tmp_path)) as site:
        site = Logged(site.server, tmp_path / "access.log")
        (line,) = ask_for_lines(site)
    assert line.endswith('"GET /a HTTP/1.1" 200 OK')


def test_commands_of_services_and_containers_are_ours() -> None:
    found = re.search(r"^CMD (\[.*\])$", block("dockerfile", "CMD"), re.MULTILINE)
    assert found is not None
    unit = re.findall(r"^ExecStart=\S*/(asgi-poller .*)$", block("ini", "[Service]"), re.MULTILINE)
    for program, _, *words in (json.loads(found[1]), *map(shlex.split, unit)):
        assert program == "asgi-poller"
        options = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
        assert options
        assert options <= set(BY_SPELLING)


@contextmanager
def module(code: str) -> Iterator[ModuleType]:
    made = ModuleType("main")
    sys.modules["main"] = made
    exec(compile(code, "logging.md", "exec"), made.__dict__)
    try:
        yield made
    finally:
        del sys.modules["main"]


def test_opentelemetry_has_a_span_of_each_kind() -> None:
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    exporters = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    header = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
    with module(block("python", "OpenTelemetryMiddleware")) as main:
        main.provider.add_span_processor(exporters.SimpleSpanProcessor(exporter))
        with serving("main:app", log_config=None, request_id=True) as site:
            answer = site.ask(get("/", LAST, f"Traceparent: {header['traceparent']}"))
            assert answer.endswith(b'{"hello":"world"}')
            url = site.url("/echo", "ws")
            with connect(url, additional_headers=header) as websocket:
                websocket.send("hi")
                assert websocket.recv(timeout=DEADLINE_S) == "hi"
            wait_until(lambda: len(servers(exporter)) == 2, "both spans have ended")
    for span in servers(exporter):
        assert format(span.context.trace_id, "032x") == TRACE_ID
        assert format(span.parent.span_id, "016x") == SPAN_ID
    schemes = [span.attributes.get("http.scheme") for span in servers(exporter)]
    assert schemes == ["http", "ws"]


def servers(exporter: Any) -> list[Any]:
    """The spans of requests and WebSockets, in order; their parts are spans too."""
    return [span for span in exporter.get_finished_spans() if span.kind.name == "SERVER"]
