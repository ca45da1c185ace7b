"""Responses are written as the application's headers say, and their bodies end as HTTP has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.errors import ApplicationFault
from asgi_poller.protocols.http1 import response
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import (
    Framing,
    ResponseEncoder,
    encode_head,
    phrase,
    simple_response,
    status_line,
)

Fields = Iterable[tuple[Any, Any]]


def request(
    method: str = "GET", version: str = "1.1", keep_alive: bool | None = None
) -> RequestHead:
    head = RequestHead(method, b"/", version, [])
    head.keep_alive = version == "1.1" if keep_alive is None else keep_alive
    return head


def defaults(given: Mapping[bytes, bytes]) -> bytes:
    return b"".join(b"%b: ours\r\n" % name for name in (b"date", b"server") if name not in given)


def encoded(
    headers: Fields,
    *,
    to: RequestHead | None = None,
    status: int = 200,
    body_bytes: int | None = 5,
) -> tuple[list[bytes], Framing]:
    """The head's lines, without the defaults, and the framing."""
    head, framing = encode_head(
        to or request(), status, headers, default_headers=defaults, body_bytes=body_bytes
    )
    assert head.endswith(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    assert lines[0] == status_line(status)[:-2]
    return [line for line in lines[1:] if not line.endswith(b": ours")], framing


def test_chunks_are_never_sent_to_1_0() -> None:
    """RFC 9112, 6.1: even if the application asks for them."""
    to = request(version="1.0", keep_alive=True)
    given = [(b"Transfer-Encoding", b"Chunked")]
    lines, framing = encoded(given, to=to, body_bytes=None)
    assert lines == [b"connection: close"]
    assert not framing.is_chunked
    lines, framing = encoded(given, to=to)
    assert lines == [b"content-length: 5", b"connection: keep-alive"]


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length", b"CONTENT-LENGTH"])
@pytest.mark.parametrize("body_bytes", [5, None])
def test_a_length_that_the_application_gives(name: bytes, body_bytes: int | None) -> None:
    lines, framing = encoded([(name, b"5")], body_bytes=body_bytes)
    assert lines == [b"content-length: 5"]
    assert framing.expected_bytes in (5, None)
    assert framing.keep_alive
    assert not framing.is_chunked


@pytest.mark.parametrize("body_bytes", [4, 6])
def test_a_length_that_is_wrong_is_not_taken_for_right(body_bytes: int) -> None:
    assert encoded([(b"content-length", b"5")], body_bytes=body_bytes)[1].expected_bytes == 5


def test_what_the_application_gives_replaces_the_defaults() -> None:
    head, _ = encode_head(
        request(), 200, [(b"Date", b"mine")], default_headers=defaults, body_bytes=0
    )
    assert b"date: mine\r\n" in head
    assert b"date: ours" not in head
    assert b"server: ours\r\n" in head


BAD_HEADERS: dict[str, Any] = {
    "CR LF in a value": [(b"x", b"a\r\nset-cookie: b")],
    "LF in a value": [(b"x", b"a\nb")],
    "CR in a value": [(b"x", b"a\rb")],
    "NUL in a value": [(b"x", b"a\0b")],
    "CR LF in a name": [(b"x\r\ny", b"a")],
    "a blank in a name": [(b"x y", b"a")],
    "a colon in a name": [(b"x:", b"a")],
    "no name": [(b"", b"a")],
    "a name that is not ASCII": [("é".encode(), b"a")],
    "str": [("x", "a")],
    "str for a name": [("x", b"a")],
    "str for a value": [(b"x", "a")],
    "str for a length": [(b"content-length", "5")],
    "a number for a length": [(b"content-length", 5)],
    "a number for a value": [(b"x", 5)],
    "None for a value": [(b"x", None)],
    "bytearray for a value": [(b"x", bytearray(b"a"))],
    "a dict": {b"x": b"a"},
    "triples": [(b"x", b"a", b"b")],
    "a length below nothing": [(b"content-length", b"-1")],
    "a length of words": [(b"content-length", b"five")],
    "a length with CR LF": [(b"content-length", b"5\r\nx: y")],
    "a length of nothing": [(b"content-length", b"")],
    "two lengths": [(b"content-length", b"5"), (b"Content-Length", b"6")],
    "the same length twice": [(b"content-length", b"5"), (b"content-length", b"5")],
    "a length and chunks": [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
    "chunked twice": [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    "another coding": [(b"transfer-encoding", b"gzip")],
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers_are_refused(name: str) -> None:
    for _ in range(2):  # nothing is remembered as good
        with pytest.raises(ApplicationFault):
            encoded(BAD_HEADERS[name])


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, 999, -1, "200", None, 200.5])
def test_what_is_no_status(status: Any) -> None:
    with pytest.raises(ApplicationFault, match="status"):
        status_line(status)


def test_statuses_and_their_phrases() -> None:
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(404) == b"HTTP/1.1 404 Not Found\r\n"
    assert status_line(299) == b"HTTP/1.1 299 \r\n"
    assert phrase(299) == b""


def test_headers_may_be_lists() -> None:
    given: Any = [[b"Content-Length", b"5"], [b"x", b"5"]]
    assert encoded(given)[0] == [b"content-length: 5", b"x: 5"]


@pytest.mark.parametrize(
    ("given", "words"), [([("x", b"5")], "not str"), ([(b"x", 5)], "b'x' is not bytes: 5")]
)
def test_a_wrong_header_is_named(given: Any, words: str) -> None:
    with pytest.raises(ApplicationFault, match=words):
        encoded(given)


def test_headers_may_come_from_a_generator() -> None:
    given = ((name, b"5") for name in (b"content-length", b"x"))
    assert encoded(given)[0] == [b"content-length: 5", b"x: 5"]


names = st.binary(max_size=8) | st.sampled_from([b"date", b"Content-Length", b"connection", b"x"])


@given(st.lists(st.tuples(names, st.binary(max_size=12)), max_size=6))
def test_no_headers_split_a_response(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        head, _ = encode_head(request(), 200, headers, default_headers=defaults, body_bytes=0)
    except ApplicationFault:
        return
    assert head.count(b"\r\n\r\n") == 1
    lines = head[:-4].split(b"\r\n")
    assert all(b"\r" not in line and b"\n" not in line and b"\0" not in line for line in lines)
    names_sent = [line.partition(b": ")[0].lower() for line in lines[1:]]
    for name, _ in headers:
        assert name.lower() in names_sent


def test_answers_of_our_own() -> None:
    assert simple_response(404, "not here", [(b"x", b"y")]) == (
        b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n"
        b"content-type: text/plain; charset=utf-8\r\ncontent-length: 8\r\nx: y\r\n\r\nnot here"
    )
    assert simple_response(404, "not here", head_only=True).endswith(b"content-length: 8\r\n\r\n")


HEADS_APART: list[dict[str, Any]] = [
    {},
    {"status": 404},
    {"status": 204},
    {"headers": [(b"x-a", b"c")]},
    {"headers": [(b"x-a", b"b"), (b"x-a", b"b")]},
    {"headers": [[b"x-a", b"b"]]},  # pairs may be lists (ASGI)
    {"headers": [(b"Date", b"mine")]},
    {"body": b"longer"},
    {"more_body": True},
    {"request": request("HEAD")},
    {"request": request(keep_alive=False)},
    {"request": request(version="1.0")},
    {"defaults": lambda given: b"date: later\r\n"},
    {"defaults": lambda given: defaults(given) if not given else b"other: lines\r\n"},
]


def test_a_head_that_is_kept_is_given_for_the_same_things_only() -> None:
    for _ in range(2):  # what one response leaves must not show in another
        for change in HEADS_APART:
            things: dict[str, Any] = {
                "request": request(),
                "status": 200,
                "headers": [(b"x-a", b"b")],
                "body": b"short",
                "more_body": False,
                "defaults": defaults,
                **change,
            }
            to, status, headers = things["request"], things["status"], things["headers"]
            body, more_body = things["body"], things["more_body"]
            head, framing = encode_head(
                to,
                status,
                headers,
                default_headers=things["defaults"],
                body_bytes=None if more_body else len(body),
            )
            encoder = ResponseEncoder(things["defaults"])
            found = encoder.head(to, status, headers, body=body, more_body=more_body)
            assert found.startswith(head)
            assert encoder.keep_alive == framing.keep_alive


def test_heads_that_are_kept_are_bounded() -> None:
    encoder = ResponseEncoder(defaults)
    sizes = set()
    for number in range(1500):
        fields = [(b"x-number", b"%d" % number), (b"x-large", b"x" * (number % 2 * 2000))]
        encoder.head(request(), 200, fields, body=b"", more_body=False)
        sizes.add(len(response._HEADS))
        assert all(len(head) <= 1024 for head, _ in response._HEADS.values())
    assert max(sizes) <= 512


def test_an_encoder_refuses_headers_that_are_no_pairs_of_bytes() -> None:
    encoder = ResponseEncoder(defaults)
    for headers in (None, 5, [(b"x-a", bytearray(b"b"))], [b"x-a"]):
        with pytest.raises(ApplicationFault):
            encoder.head(request(), 200, headers, body=b"", more_body=False)  # type: ignore[arg-type]  # what an application may do
