"""gunicorn's access log with its own format."""

from __future__ import annotations

import signal
import sys

import httpx
import pytest

from tests.support.gunicorn import gunicorn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is not for Windows")

ON = ("--access-logfile", "-")


def test_the_default_format_for_http() -> None:
    with gunicorn(*ON) as server:
        body = server.get("/a%20b?c=d", headers={"Referer": "there", "User-Agent": 'x"y'}).content
        line = server.wait_for("GET /a").string
        assert line.startswith("127.0.0.1 - - [")
        assert line.endswith(f'"GET /a%20b?c=d HTTP/1.1" 200 {len(body)} "there" "x\\"y"')


def test_headers_both_ways_user_and_duration() -> None:
    layout = "A %(u)s %({x-asked}i)s %({x-made-by}o)s %(m)s %(U)s %(q)s %(D)s"
    with gunicorn(*ON, "--access-logformat", layout) as server:
        server.get("/slow?q", headers={"X-Asked": "me"}, auth=("someone", "secret"))
        words = server.wait_for("^A ").string.split()
        assert words[:-1] == ["A", "someone", "me", "a", "test", "GET", "/slow", "q"]
        assert int(words[-1]) >= 1_000_000  # microseconds: the application sleeps for a second


def test_a_failure_is_logged_once_as_500() -> None:
    with gunicorn(*ON) as server:
        assert server.get("/fail").status_code == 500
        server.get("/after")
        server.wait_for("GET /after")
        assert len(server.said('"GET /fail HTTP/1.1" 500')) == 1


def test_a_channel_has_a_line_at_each_end() -> None:
    layout = (
        "B %(r)s %(s)s %(b)s %({websocket.closed_by}e)s"
        " %({websocket.messages_in}e)s %({websocket.messages_out}e)s"
    )
    with gunicorn(*ON, "--access-logformat", layout) as server:
        with server.channel() as channel:
            channel.send("hello")
            channel.recv()
            assert server.wait_for("^B GET").string == "B GET /ws HTTP/1.1 101 - - - -"
            channel.close(1001)
        line = server.wait_for("^B WEBSOCKET").string.split()
        assert line[:5] == ["B", "WEBSOCKET", "/ws", "HTTP/1.1", "1001"]
        assert int(line[5]) >= len("hello")
        assert line[6:] == ["peer", "1", "1"]


def test_without_the_option_there_is_none() -> None:
    with gunicorn() as server:
        server.get("/quiet")
        server.signal(signal.SIGTERM)
        server.wait()
        assert not server.said("/quiet")


def test_a_request_that_was_given_up_has_no_line() -> None:
    with gunicorn(*ON) as server:
        with pytest.raises(httpx.TimeoutException):
            httpx.get(f"http://{server.address}/endless", timeout=0.5)
        server.get("/after")
        server.wait_for("GET /after")
        assert not server.said("GET /endless")
