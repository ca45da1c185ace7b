"""`--request-id` and trace context, in FastAPI: a proxy's id, a made one, and who is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_poller.asgi.request_id import parsed_traceparent
from tests.logs.served import Logged, logged
from tests.support.client import Response, get, handshake
from tests.support.forms import FORMS, served
from tests.support.server import serving

APP = "tests.logs.fastapi_app:app"
MADE = re.compile(r"[0-9a-f]{32}")
STRANGER = "127.0.0.2"  # a peer that is no proxy
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Logged]:
    with logged(tmp_path, "--request-id", "--log-format", "json", app=APP) as it:
        yield it


def ask(site: Logged, request: bytes, source: str | None = None) -> Response:
    with site.connect(source) as client:
        client.sendall(request)
        return client.response()


def ids_in(response: Response) -> list[str]:
    return [value for name, value in response.headers if name == "x-request-id"]


def test_a_proxy_s_id_is_taken(site: Logged) -> None:
    response = ask(site, get("/", "X-Request-ID: from/the+proxy=1"))
    assert ids_in(response) == ["from/the+proxy=1"]
    seen = json.loads(response.body)
    assert seen["ids"] == ["from/the+proxy=1"]
    assert seen["extension"] == {"id": "from/the+proxy=1"}
    (line,) = site.wait_for_objects(1)
    assert line["request_id"] == "from/the+proxy=1"


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ((), None),
        (("X-Request-ID: forged",), STRANGER),
        (("X-Request-ID: " + "x" * 129,), None),
        (("X-Request-ID: with blank",), None),
        (("X-Request-ID: \xff",), None),
        (("X-Request-ID:",), None),
        (("X-Request-ID: a", "X-Request-ID: b"), None),
    ],
    ids=str,
)
def test_any_other_request_gets_one_that_is_made(
    fields: tuple[str, ...], source: str | None, site: Logged
) -> None:
    first, second = (ask(site, get("/", *fields), source) for _ in range(2))
    (made,) = ids_in(first)
    assert MADE.fullmatch(made)
    assert ids_in(second) != [made]
    seen = json.loads(first.body)
    assert (seen["ids"], seen["extension"]) == ([made], {"id": made})
    assert site.wait_for_objects(2)[0]["request_id"] == made


def test_the_longest_id(site: Logged) -> None:
    assert ids_in(ask(site, get("/", "X-Request-ID: " + "x" * 128))) == ["x" * 128]


def test_an_id_that_the_application_sets_is_not_doubled(site: Logged) -> None:
    assert ids_in(ask(site, get("/own"))) == ["mine"]
    assert MADE.fullmatch(ids_in(ask(site, get("/")))[0])


def test_a_failure_can_be_found_by_its_id(site: Logged) -> None:
    response = ask(site, get("/fail", "X-Request-ID: a1"))
    assert (response.status, ids_in(response)) == (500, ["a1"])
    assert site.wait_for_objects(1)[0]["request_id"] == "a1"
    site.server.end()
    (failed,) = [
        line for line in map(json.loads, site.server.errors.splitlines()) if "exception" in line
    ]
    assert failed["request_id"] == "a1"


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing."""


@pytest.mark.parametrize("peers", ["*", "192.0.2.1"])
def test_the_server_s_own_answers_have_it(peers: str) -> None:
    with serving(silent, request_id=True, forwarded_allow_ips=peers, log_config=None) as site:
        answers = [site.ask(get("/", "X-Request-ID: b2")), site.ask(handshake("X-Request-ID: b2"))]
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 500 ")
        (found,) = re.findall(rb"^x-request-id: (.*)\r$", answer, re.MULTILINE)
        assert (found == b"b2") is (peers == "*")


@pytest.mark.parametrize(
    ("path", "status"), [("/ws", 101), ("/own", 101), ("/deny", 401), ("/close", 403)]
)
def test_websockets(path: str, status: int, site: Logged) -> None:
    with site.connect() as client:
        client.sendall(handshake("X-Request-ID: c3", f"Traceparent: {TRACEPARENT}", path=path))
        response = client.response(has_body=status != 101)
        assert response.status == status
        assert ids_in(response) == ["mine" if path == "/own" else "c3"]
        if path == "/ws":
            seen = json.loads(client.frame()[1])
            assert (seen["ids"], seen["extension"]) == (["c3"], {"id": "c3"})
            assert seen["traceparent"] == TRACEPARENT
    lines = site.wait_for_objects(2 if status == 101 else 1)
    assert {line["request_id"] for line in lines} == {"c3"}
    assert {line["trace_id"] for line in lines} == {TRACE_ID}


def test_trace_context_passes_through_and_is_logged(site: Logged) -> None:
    state = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    response = ask(site, get("/", f"Traceparent: {TRACEPARENT}", f"Tracestate: {state}"))
    seen = json.loads(response.body)
    assert (seen["traceparent"], seen["tracestate"]) == (TRACEPARENT, state)
    (line,) = site.wait_for_objects(1)
    assert (line["trace_id"], line["span_id"]) == (TRACE_ID, SPAN_ID)


def test_without_the_option_nothing_is_touched(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json", app=APP) as site:
        response = ask(site, get("/", "X-Request-ID: d4"), STRANGER)
        assert ids_in(response) == []
        seen = json.loads(response.body)
        assert (seen["ids"], seen["extension"]) == (["d4"], None)
        (line,) = site.wait_for_objects(1)
        assert "request_id" not in line


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_server(form: str) -> None:
    with served(form, APP, request_id=True) as site:
        with site.connect() as client:
            client.sendall(get("/", "X-Request-ID: f6"))
            assert ids_in(client.response()) == ["f6"]


def test_proxies_that_are_not_believed_give_no_ids() -> None:
    with serving(silent, request_id=True, proxy_headers=False, log_config=None) as site:
        assert b"x-request-id: e5\r\n" not in site.ask(get("/", "X-Request-ID: e5"))


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (TRACEPARENT, (TRACE_ID, SPAN_ID)),
        (f"01-{TRACE_ID}-{SPAN_ID}-01-more", (TRACE_ID, SPAN_ID)),
        (f"00-{TRACE_ID}-{SPAN_ID}-01-more", None),
        (f"ff-{TRACE_ID}-{SPAN_ID}-01", None),
        (f"00-{'0' * 32}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{SPAN_ID}", None),
        ("", None),
    ],
)
def test_trace_context_that_is_valid(value: str, parsed: tuple[str, str] | None) -> None:
    assert parsed_traceparent(value.encode()) == parsed
