"""Requests are read the same, whole or in pieces, and wrong ones are refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_poller.errors import HttpFault
from asgi_poller.protocols.http1.parser import END, HeadLimits, RequestHead, RequestParser
from tests.protocols.http1.smuggling import BROKEN, CHUNKED, GET, POST, UNSUPPORTED
from tests.support.cuts import cuts

NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def parsed(
    pieces: Iterable[bytes], limits: HeadLimits | None = None
) -> tuple[list[Any], int | None]:
    """What came of `pieces`: heads, whole bodies (joined) and END; and the status of the fault."""
    parser = RequestParser(limits or HeadLimits())
    found: list[Any] = []
    try:
        for piece in pieces:
            _collect(found, parser.receive(piece))
    except HttpFault as fault:
        _collect(found, parser.events)
        return found, fault.status
    return found, None


def _collect(found: list[Any], events: Sequence[Any]) -> None:
    for event in events:
        if isinstance(event, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += event
        else:
            found.append(event)


def shown(found: list[Any]) -> list[Any]:
    """Heads as tuples, so that they compare."""
    return [
        (event.method, event.target, event.http_version, tuple(event.headers), event.keep_alive)
        if isinstance(event, RequestHead)
        else event
        for event in found
    ]


def head(target: bytes = b"/", method: str = "GET", fields: bytes = b"") -> Any:
    """Of a request to the host a, with these fields, as they are given out, in one text."""
    pairs = [(b"host", b"a")]
    for line in fields.split(b"; ") if fields else ():
        name, _, value = line.partition(b": ")
        pairs.append((name, value))
    return (method, target, "1.1", tuple(pairs), True)


REQUESTS: dict[str, tuple[bytes, list[Any]]] = {
    "the smallest": (GET + b"\r\n", [head(), END]),
    "after empty lines": (b"\r\n\r\n" + GET + b"\r\n", [head(), END]),
    "a body": (
        POST + b"Content-Length: 5\r\n\r\nhello",
        [head(b"/", "POST", b"content-length: 5"), b"hello", END],
    ),
    "a body of nothing": (
        POST + b"Content-Length: 0\r\n\r\n",
        [head(b"/", "POST", b"content-length: 0"), END],
    ),
    "a body of a GET": (
        GET + b"content-length: 3\r\n\r\nabc",
        [head(b"/", "GET", b"content-length: 3"), b"abc", END],
    ),
    "chunks": (
        CHUNKED + b"5\r\nhello\r\n1;name=value\r\n \r\nA\r\n0123456789\r\n0\r\n\r\n",
        [head(b"/", "POST", b"transfer-encoding: chunked"), b"hello 0123456789", END],
    ),
    "trailers are dropped": (
        CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n",
        [head(b"/", "POST", b"transfer-encoding: chunked"), b"hello", END],
    ),
    "names in lower case, values without blanks around them": (
        GET + b"X-One: \t a b \t \r\nCOOKIE:c\r\nEmpty:  \r\n\r\n",
        [head(b"/", "GET", b"x-one: a b; cookie: c; empty: "), END],
    ),
    "bytes of any meaning in a value": (
        GET + b"X: \xff\xe9\t\x80\r\n\r\n",
        [head(b"/", "GET", b"x: \xff\xe9\t\x80"), END],
    ),
    "absolute form": (
        b"GET http://b:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
        [("GET", b"http://b:1/x?y", "1.1", ((b"host", b"b:1"),), True), END],
    ),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", [head(b"*", "OPTIONS"), END]),
    "an upgrade that nobody here knows": (
        GET + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        [head(b"/", "GET", b"upgrade: h2c; connection: upgrade"), END],
    ),
    "an upgrade to nothing, and a request behind it": (
        GET + b"Upgrade:\r\nConnection: upgrade\r\n\r\n" + GET + b"\r\n",
        [head(b"/", "GET", b"upgrade: ; connection: upgrade"), END, head(b"/", "GET"), END],
    ),
    "two upgrades, the last to nothing": (
        GET + b"Upgrade: websocket\r\nUpgrade:\r\nConnection: a, upgrade\r\n\r\n",
        [head(b"/", "GET", b"upgrade: websocket; upgrade: ; connection: a, upgrade"), END],
    ),
    "such an upgrade with a body": (
        POST + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
        [
            head(b"/", "POST", b"upgrade: h2c; connection: Upgrade; content-length: 3"),
            b"abc",
            END,
        ],
    ),
    "such an upgrade with chunks": (
        POST + b"Upgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n",
        [
            head(b"/", "POST", b"upgrade: h2c; connection: Upgrade; transfer-encoding: chunked"),
            b"abc",
            END,
        ],
    ),
    "Upgrade without Connection is no upgrade": (
        GET + b"Upgrade: h2c\r\n\r\n",
        [head(b"/", "GET", b"upgrade: h2c"), END],
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_the_same_however_it_is_cut(name: str) -> None:
    data, expected = REQUESTS[name]
    for pieces in cuts(data):
        found, fault = parsed(pieces)
        assert (shown(found), fault) == (expected, None), pieces


@pytest.mark.parametrize("name", REQUESTS)
def test_what_follows_a_request_is_the_next_one(name: str) -> None:
    data, expected = REQUESTS[name]
    for pieces in cuts(data + NEXT + NEXT):
        found, fault = parsed(pieces)
        assert (shown(found), fault) == (expected + [head(b"/next"), END] * 2, None), pieces


@pytest.mark.parametrize(
    ("data", "keep_alive"),
    [
        (GET + b"Connection: close\r\n\r\n", False),
        (GET + b"Connection: keep-alive, close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (GET + b"Connection: keep-alive\r\n\r\n", True),
    ],
)
def test_who_keeps_the_connection(data: bytes, keep_alive: bool) -> None:
    for pieces in cuts(data + NEXT):
        found, fault = parsed(pieces)
        assert fault is None
        assert found[0].keep_alive is keep_alive
        heads = [event for event in found if isinstance(event, RequestHead)]
        assert len(heads) == (2 if keep_alive else 1), pieces  # the rest is never looked at


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_however_it_is_cut(name: str) -> None:
    for pieces in cuts(BROKEN[name]):
        found, fault = parsed(pieces)
        assert fault == 400, pieces
        assert END not in found, pieces  # nobody may take it for a complete request


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_told_apart(name: str) -> None:
    data, status = UNSUPPORTED[name]
    for pieces in cuts(data):
        found, fault = parsed(pieces)
        assert (found, fault) == ([], status), pieces


def test_requests_before_a_broken_one_are_given() -> None:
    found, fault = parsed([NEXT + NEXT + b"what?"])
    assert (shown(found), fault) == ([head(b"/next"), END] * 2, 400)


LIMITS = HeadLimits(line_bytes=64, field_count=4, field_bytes=80, head_bytes=256)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 64), 414),
        (b"GET /%b" % (b"x" * 64), 414),  # no need to wait for the rest
        (GET + b"A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n", 431),
        (GET + b"A: %b\r\n\r\n" % (b"x" * 80), 431),
        (GET + b"A: %b" % (b"x" * 300), 431),
        (GET + b"".join(b"A: %b\r\n" % (b"x" * 78) for _ in range(3)) + b"\r\n", 431),
        (b"\r\n" * 150, 431),
    ],
)
def test_heads_are_bounded(data: bytes, status: int) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))], [data[:20], data[20:]]):
        assert parsed(pieces, LIMITS)[1] == status, pieces


@pytest.mark.parametrize("data", [CHUNKED + b"1;", CHUNKED + b"1\r\na\r\n0\r\nX: "])
def test_chunk_extensions_and_trailers_are_bounded(data: bytes) -> None:
    for size in (1, 50, 300):
        parser = RequestParser(LIMITS)
        parser.receive(data)
        for _ in range(LIMITS.head_bytes // size - 1):
            parser.receive(b"x" * size)
        with pytest.raises(HttpFault, match="431"):
            parser.receive(b"x" * 2 * size + b"x")


def test_a_head_within_all_limits_is_not_refused() -> None:
    data = b"GET /%b HTTP/1.1\r\nHost: a\r\nA: %b\r\nB: 2\r\n\r\n" % (b"x" * 63, b"x" * 79)
    for pieces in cuts(data):
        assert parsed(pieces, LIMITS)[1] is None, pieces


def test_limits_hold_for_a_head_that_began_in_the_read_before() -> None:
    """The read that completes it is small: that must not hide how large it is."""
    late = GET + b"A: %b\r\n\r\n" % (b"x" * 90)
    for at in range(1, len(late)):
        assert parsed([NEXT + late[:at], late[at:]], LIMITS)[1] == 431, at


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET / HTTP/1.0\r\nX-A: b", b"xxxxx HTTP/1.1\r\n\r\n"],  # where a version would stand
        [NEXT + b"GE", b"T / HTTP/1.0\r\nX-A: b HTTP/1.1\r\n\r\n"],
        [NEXT + b"GET / HTTP/1.0\r\nX-A: b HTTP/1.1\r\n\r\n"],
        [b"\r\nGET / HTTP/1.0\r\n\r\n"],
    ],
)
def test_the_version_is_that_of_the_request_line(pieces: list[bytes]) -> None:
    found, status = parsed(pieces)
    assert status is None
    heads = [event for event in found if isinstance(event, RequestHead)]
    assert heads[-1].http_version == "1.0"
    assert all(event.http_version == "1.1" for event in heads[:-1])


def test_limits_are_for_each_request_alone() -> None:
    request = GET + b"A: %b\r\n\r\n" % (b"x" * 70)
    found, fault = parsed([request * 50], LIMITS)
    assert fault is None
    assert len(found) == 100
    for pieces in cuts(request * 3):
        assert parsed(pieces, LIMITS)[1] is None


def test_a_body_is_not_bounded_by_the_limits_of_a_head() -> None:
    body = b"x" * 1000
    data = POST + b"Content-Length: 1000\r\n\r\n" + body
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        found, fault = parsed([*pieces, NEXT], LIMITS)
        assert fault is None
        assert found[1] == body
    tiny = CHUNKED + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n"
    found, fault = parsed([tiny[at : at + 1] for at in range(len(tiny))], LIMITS)
    assert (found[1], fault) == (b"x" * 500, None)
    upgrade = POST + b"Upgrade: x\r\nConnection: Upgrade\r\nContent-Length: 1000\r\n\r\n" + body
    found, fault = parsed([upgrade], LIMITS)
    assert (found[1], fault) == (body, None)


def test_whether_a_head_is_under_way() -> None:
    parser = RequestParser(HeadLimits())
    assert not parser.is_mid_head
    parser.receive(GET)
    assert parser.is_mid_head
    parser.receive(b"Content-Length: 2\r\n\r\n")
    assert not parser.is_mid_head
    parser.receive(b"ab")
    assert not parser.is_mid_head
    parser.receive(GET + b"\r\n" + GET)  # the second has begun in the same read
    assert parser.is_mid_head
    parser.receive(b"\r\n")
    assert not parser.is_mid_head


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", True),
        (POST + b"Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (GET + b"Expect: 100-continue\r\n\r\n", False),  # there is no body to wait with
        (b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", False),
        (POST + b"Expect: something\r\nContent-Length: 2\r\n\r\n", False),
    ],
)
def test_who_waits_for_100_continue(data: bytes, expected: bool) -> None:
    found, fault = parsed([data])
    assert fault is None
    assert found[0].expects_continue is expected


def test_an_upgrade_leaves_the_bytes_behind_it_to_the_caller() -> None:
    data = GET + b"Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"
    for pieces in cuts(data):
        parser = RequestParser(HeadLimits())
        events: list[Any] = []
        for piece in pieces[:-1]:
            events += parser.receive(piece)
            assert parser.leftover is None
        events += parser.receive(pieces[-1] + b"frames")
        assert parser.leftover == b"frames"
        assert events[0].upgrade == b"websocket"


VALID_HOSTS = [
    b"a",
    b"",
    b"a.example:8000",
    b"127.0.0.1:80",
    b"[::1]:80",
    b"[fe80::1%25eth0]",
    b"a_b-c~d",
    b"xn--bcher-kva.example",
]


@pytest.mark.parametrize("host", VALID_HOSTS)
def test_hosts_that_are_hosts(host: bytes) -> None:
    found, fault = parsed([b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host])
    assert fault is None
    assert found[0].header(b"host") == host


@settings(max_examples=200)
@given(
    value=st.sampled_from(
        [b"h2c", b"websocket", b"", b"a, b", b"WebSocket ", b"\xff", b"x/1", b",", b"\t"]
    ),
    connection=st.lists(
        st.sampled_from(
            [
                b"upgrade",
                b"Upgrade ",
                b"close",
                b"keep-alive",
                b"upgrade;x",
                b"",
                b" , ",
                b"upgraded",
            ]
        ),
        max_size=4,
    ),
    version=st.sampled_from([b"1.1", b"1.0"]),
    twice=st.booleans(),
)
def test_we_and_the_parser_agree_on_what_an_upgrade_is(
    value: bytes, connection: list[bytes], version: bytes, twice: bool
) -> None:
    """If we did not, bytes would be waiting that nobody ever comes for."""
    upgrade = b"Upgrade: %b\r\n" % value
    fields = upgrade * (1 + twice) + b"Connection: %b\r\n" % b",".join(connection)
    data = b"GET / HTTP/%b\r\nHost: a\r\n%b\r\nrest" % (version, fields)
    parser = RequestParser(HeadLimits())
    try:
        events = parser.receive(data)
    except HttpFault:
        events = parser.events
    heads = [event for event in events if isinstance(event, RequestHead)]
    assert len(heads) == 1
    assert (parser.leftover is not None) is bool(heads[0].upgrade)
