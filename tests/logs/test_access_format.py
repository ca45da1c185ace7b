"""`--access-log-format`: lines by a template of a running server, and templates that are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asgi_poller.logs.access_fields import FIELDS, FORMAT_FIELDS
from asgi_poller.logs.access_format import parsed_format
from tests.logs.served import logged
from tests.support.client import get, post
from tests.support.command import run_python
from tests.support.frames import close as close_frame

LAST = "Connection: close"


def test_lines_by_a_template(tmp_path: Path) -> None:
    template = (
        '%(time)s|%(level)s|%(client)s|"%(request_line)s"|%(status)-5s|%(duration_ms).1f|'
        "%(request_bytes)d|%(response_bytes)05d|%(close_code)s|%(closed_by)11s|%(user_agent)s|100%%"
    )
    with logged(tmp_path, "--access-log-format", template) as site:
        site.ask(post(b"12345", "/slow?x=1", LAST, 'User-Agent: a "b" \\'))
        with site.websocket(path="/ws") as client:
            client.sendall(close_frame(1000))
            client.frame()
        lines = site.wait_for_lines(3)
    response, opened, closed = (line.split("|") for line in lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", response[0])
    assert response[1] == "INFO"
    assert response[2].startswith("127.0.0.1:")
    assert response[3:5] == ['"POST /slow?x=1 HTTP/1.1"', "404  "]
    assert 40 <= float(response[5]) < 30_000
    assert response[6:] == ["5", "00010", "-", "          -", '"a \\"b\\" \\\\"'[1:-1], "100%"]
    assert opened[3:] == [
        '"WebSocket /ws"',
        "101  ",
        *"--",
        "    -",
        "-",
        "          -",
        "-",
        "100%",
    ]
    assert closed[3:5] == ['"WebSocket /ws"', "-    "]
    assert closed[8:10] == ["1000", "       peer"]


def test_a_line_that_needs_no_end_is_written_at_the_beginning(tmp_path: Path) -> None:
    with logged(tmp_path, "--access-log-format", "%(path)s %(status)d") as site:
        with site.connect() as client:
            client.sendall(get("/half"))
            assert site.wait_for_lines(1) == ["/half 200"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("%(nothing)s", "unknown field 'nothing': the fields are client, close_code"),
        ("%(client)d", "'client' as a number, which it is not: write %(client)s"),
        ("%(status)q", "has %(status)q: it ends in one of sdifeg"),
        ("100%", "has '%': a field is %(name)s, a percent sign %%"),
        ("%h %s", "has '%h'"),
        ("%(client", "has '%('"),
    ],
)
def test_a_wrong_template_is_one_line(template: str, message: str) -> None:
    done = run_python("-m", "asgi_poller", "a:b", "--access-log-format", template)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("asgi-poller: error: --access-log-format: has ")
    assert message in line


def test_every_field_can_be_named() -> None:
    for name in (*FIELDS, *FORMAT_FIELDS):
        assert len(parsed_format(f"%({name})s")) == 1
