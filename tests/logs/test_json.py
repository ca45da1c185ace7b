"""`--log-format json`: every line of a running server is an object with the documented fields."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from asgi_poller import logs
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.logs.access_fields import FIELDS, RECORD_FIELDS, Access
from tests.logs.served import Logged, logged
from tests.support.client import get, handshake, post
from tests.support.frames import close as close_frame
from tests.support.frames import text as text_frame

LAST = "Connection: close"
ALWAYS = {"time", "level", "logger", "message", "pid"}


def test_every_line_is_an_object(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json") as site:
        site.ask(get("/fail", LAST))
        site.ask(get("/", LAST))
        site.wait_for_lines(2)
        site.server.end()
        lines = [json.loads(line) for line in site.server.errors.splitlines()]
        access = [json.loads(line) for line in site.access_lines]
    assert len(lines) >= 5
    for line in (*lines, *access):
        assert line.keys() >= ALWAYS
        assert line.keys() <= {*RECORD_FIELDS, *FIELDS}
        assert line["pid"] == site.server.process.pid
        made = datetime.datetime.fromisoformat(line["time"])
        assert made.tzinfo == datetime.UTC
        assert len(line["time"]) == len("2026-11-28T12:34:56.789Z")
    (failed,) = [line for line in lines if "exception" in line]
    assert failed["level"] == "ERROR"
    assert failed["logger"] == "asgi_poller.error"
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert failed["exception"].endswith("RuntimeError: told to fail")
    assert [line["status"] for line in access] == [500, 200]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b'/"quoted"?a="b"', "/%22quoted%22", 'a="b"'),
        (b"/a%0d%0aGET%20/b", "/a%0D%0AGET%20/b", ""),
        (b"/%ff", "/%EF%BF%BD", ""),
        (b"/?%ff\\", "/", "%ff\\"),
    ],
)
def test_what_clients_may_send_is_valid_json(
    target: bytes, path: str, query: str, tmp_path: Path
) -> None:
    with logged(tmp_path, "--log-format", "json") as site:
        request = (
            b'GET %b HTTP/1.1\r\nHost: a\r\nUser-Agent: "\xff\x80\\\r\nConnection: close\r\n\r\n'
        )
        answer = site.ask(request % target)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        (line,) = site.wait_for_objects(1)
    assert (line["path"], line["query"]) == (path, query)
    assert line["user_agent"] == '"\\xff\\x80\\'


def test_fields_of_requests(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json") as site:
        site.ask(post(b"12345", "/slow?x=1", LAST, "User-Agent: me"))
        site.ask(get("/half", LAST))
        site.ask(get("/slow", LAST, method="HEAD"))
        client = site.connect()
        client.sendall(get("/wait"))
        client.close()
        lines = {line["message"].split('"')[1]: line for line in site.wait_for_objects(4)}
    slow = lines["POST /slow?x=1 HTTP/1.1"]
    assert slow["client"].startswith("127.0.0.1:")
    assert {name: slow[name] for name in ("method", "path", "query", "http_version")} == {
        "method": "POST",
        "path": "/slow",
        "query": "x=1",
        "http_version": "1.1",
    }
    assert (slow["status"], slow["complete"], slow["user_agent"]) == (404, True, "me")
    assert (slow["request_bytes"], slow["response_bytes"]) == (5, 10)
    assert 0.04 <= slow["duration_s"] < 30
    assert "close_code" not in slow
    half = lines["GET /half HTTP/1.1"]
    assert (half["status"], half["complete"], half["response_bytes"]) == (200, False, 4)
    assert lines["HEAD /slow HTTP/1.1"]["response_bytes"] == 0
    gone = lines["GET /wait HTTP/1.1"]
    assert gone["complete"] is False
    assert "status" not in gone


def test_fields_of_websockets(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json") as site:
        with site.websocket("User-Agent: me", path="/ws?a=b") as client:
            site.echo(client, "hello")
            site.echo(client, "hi")
            client.sendall(close_frame(4000))
            client.frame()
        opened, closed = site.wait_for_objects(2)
    assert (opened["method"], opened["status"]) == ("WebSocket", 101)
    expected = {
        "method": "WebSocket",
        "path": "/ws",
        "query": "a=b",
        "close_code": 4000,
        "closed_by": "peer",
        "received_messages": 2,
        "received_bytes": len(text_frame("hello") + text_frame("hi") + close_frame(4000)),
        "sent_messages": 2,
        "user_agent": "me",
    }
    assert {name: closed[name] for name in expected} == expected
    assert closed["duration_s"] >= 0
    assert "status" not in closed


def test_a_denied_websocket(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json") as site:
        with site.connect() as client:
            client.sendall(handshake(path="/no"))
            assert client.response().status == 403
        (line,) = site.wait_for_objects(1)
    assert (line["method"], line["path"], line["status"]) == ("WebSocket", "/no", 403)


def test_workers_write_json_too(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json", "--workers", "2") as site:
        for _ in range(20):
            site.ask(get("/", LAST))
        lines = site.wait_for_objects(20)
        site.server.end()
        assert all(json.loads(line) for line in site.server.errors.splitlines())
    assert site.server.process.pid not in {line["pid"] for line in lines}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_format": "xml"}, "--log-format: must be one of text, json"),
        ({"log_format": "json", "log_config": {"version": 1}}, "combined with --log-config"),
        ({"access_log_format": "x", "log_config": {"version": 1}}, "combined with --log-config"),
        ({"access_log_format": "x", "log_format": "json"}, "which has all fields"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config("a:b", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"log_format": "json", "log_config": None},
        {"log_format": "json", "use_colors": True},
        {"access_log_format": "x", "access_log": False},
    ],
    ids=str,
)
def test_options_without_effect_are_noticed(options: dict[str, Any]) -> None:
    (notice,) = Config("a:b", **options).notices
    assert "does nothing" in notice


def test_the_formatter_in_a_configuration_of_the_user_gets_all_fields(tmp_path: Path) -> None:
    config = tmp_path / "log.json"
    file = {"class": "logging.FileHandler", "filename": str(tmp_path / "out"), "formatter": "f"}
    loggers = {
        "asgi_poller.access": {"handlers": ["file"], "level": "INFO", "propagate": False},
        "asgi_poller": {"handlers": ["stderr"], "level": "INFO"},
    }
    given = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"f": {"()": "asgi_poller.logs.JsonFormatter"}},
        "handlers": {"file": file, "stderr": {"class": "logging.StreamHandler"}},
        "loggers": loggers,
    }
    config.write_text(json.dumps(given))
    with logged(tmp_path, "--log-config", str(config)) as site:
        site = Logged(site.server, tmp_path / "out")
        site.ask(get("/slow", LAST))
        (line,) = site.wait_for_objects(1)
    assert line["response_bytes"] == 10


def test_the_table_of_fields_is_complete() -> None:
    assert list(FIELDS) == list(Access._fields)
    assert logs.JsonFormatter.is_measured
