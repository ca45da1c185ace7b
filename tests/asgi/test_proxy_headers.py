"""Proxy headers count only from trusted peers, and give the client's real address."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_poller.asgi.proxy_headers import UNKNOWN, ProxyHeaders, TrustedHosts, parse_forwarded
from asgi_poller.errors import ConfigError

PROXY: tuple[str, int | None] = ("127.0.0.1", 40000)
DEFAULT = "127.0.0.1,::1"
Client = tuple[str, int | None] | None


def apply(
    trusted: str,
    *headers: tuple[str, str],
    client: Client = PROXY,
    scheme: str = "http",
    rfc7239: bool = True,
) -> tuple[Client, str]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return ProxyHeaders(TrustedHosts(trusted), rfc7239=rfc7239).apply(raw, client, scheme)


def forwarded_for(trusted: str, value: str) -> Client:
    return apply(trusted, ("X-Forwarded-For", value))[0]


@pytest.mark.parametrize(
    ("trusted", "host", "expected"),
    [
        (DEFAULT, "127.0.0.1", True),
        (DEFAULT, "127.0.0.2", False),
        (DEFAULT, "::1", True),
        (DEFAULT, "0:0:0:0:0:0:0:1", True),
        (DEFAULT, "::ffff:127.0.0.1", True),
        (DEFAULT, None, False),
        (DEFAULT, "", False),
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "::ffff:10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8 , 2001:db8::/32", "2001:db8:1::7", True),
        ("2001:db8::/32", "2001:db9::7", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("0.0.0.0/0", "8.8.8.8", True),
        ("0.0.0.0/0", "::1", False),
        ("*", "anything", True),
        ("*", None, True),
        ("127.0.0.1,*", "8.8.8.8", True),
        ("unix", None, True),
        ("unix", "127.0.0.1", False),
        ("/run/proxy.sock", "/run/proxy.sock", True),
        ("testclient", "testclient", True),
        ("testclient", "testclient2", False),
        ("", "127.0.0.1", False),
        ("", None, False),
        ("127.0.0.1", "127.0.0.1" + "0" * 300, False),
    ],
)
def test_who_is_trusted(trusted: str, host: str | None, expected: bool) -> None:
    hosts = TrustedHosts(trusted)
    assert (host in hosts) is expected
    assert (host in hosts) is expected  # from memory


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("10.0.0.1/8", r"host bits set; write 10\.0\.0\.0/8"),
        ("127.0.0", "no address"),
        ("127.0.0.300", "no address"),
        ("10.0.0.0/33", "no address"),
        ("2001:db8::1::2", "no address"),
        ("2001:db8::/129", "no address"),
        ("010.0.0.1", "no address"),
    ],
)
def test_an_entry_that_is_nearly_an_address_is_one_clear_line(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrustedHosts(f"127.0.0.1,{entry}")
    assert str(caught.value).startswith("--forwarded-allow-ips: ")
    assert "\n" not in str(caught.value)


def test_what_is_remembered_is_bounded_and_stays_right() -> None:
    hosts = TrustedHosts("10.0.0.0/8")
    for number in range(10_000):
        assert f"11.0.{number // 256}.{number % 256}" not in hosts
    assert "10.1.2.3" in hosts
    assert len(hosts._remembered) <= 4096


@pytest.mark.parametrize(
    "header",
    [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=203.0.113.9;proto=https"),
    ],
)
@pytest.mark.parametrize("client", [("203.0.113.1", 1), None])
def test_an_untrusted_peer_is_not_listened_to(header: tuple[str, str], client: Client) -> None:
    assert apply(DEFAULT, header, client=client) == (client, "http")


def test_without_a_header_nothing_changes() -> None:
    assert apply(DEFAULT, ("Host", "a"), ("X-Real-IP", "1.2.3.4")) == (PROXY, "http")


@pytest.mark.parametrize(
    ("trusted", "value", "expected"),
    [
        (DEFAULT, "203.0.113.9", ("203.0.113.9", 0)),
        (DEFAULT, "203.0.113.9:5123", ("203.0.113.9", 5123)),
        (DEFAULT, "2001:db8::9", ("2001:db8::9", 0)),
        (DEFAULT, "[2001:db8::9]", ("2001:db8::9", 0)),
        (DEFAULT, "[2001:db8::9]:5123", ("2001:db8::9", 5123)),
        (DEFAULT, "203.0.113.9:99999", ("203.0.113.9", 0)),
        # the client's own claim stands left of what the proxy saw
        (DEFAULT, "6.6.6.6, 203.0.113.9", ("203.0.113.9", 0)),
        (DEFAULT, "127.0.0.1, 203.0.113.9", ("203.0.113.9", 0)),
        ("127.0.0.1,10.0.0.0/8", "6.6.6.6, 203.0.113.9, 10.1.1.1, 10.2.2.2:80", ("203.0.113.9", 0)),
        ("127.0.0.1,10.0.0.0/8", "10.1.1.1,10.2.2.2", ("10.1.1.1", 0)),
        ("*", "6.6.6.6, 203.0.113.9", ("6.6.6.6", 0)),
        (DEFAULT, "testclient", ("testclient", 0)),
        (DEFAULT, "unknown", ("unknown", 0)),
        # empty elements are none
        (DEFAULT, "", PROXY),
        (DEFAULT, " , ,", PROXY),
        ("*", ",", PROXY),
        (DEFAULT, "203.0.113.9,", ("203.0.113.9", 0)),
        # the proxy's own address is never what garbage leaves behind
        (DEFAULT, "203.0.113.9, <script>", UNKNOWN),
        (DEFAULT, 'a" "GET /admin', UNKNOWN),
        (DEFAULT, "\x1b[2J", UNKNOWN),
        (DEFAULT, "[2001:db8::9", UNKNOWN),
        (DEFAULT, "[2001:db8::9]x", UNKNOWN),
        (DEFAULT, "[]", UNKNOWN),
        (DEFAULT, "x" * 254, UNKNOWN),
    ],
)
def test_x_forwarded_for(trusted: str, value: str, expected: Client) -> None:
    assert forwarded_for(trusted, value) == expected


def test_several_x_forwarded_for_lines_are_one_list() -> None:
    lines = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.9, 127.0.0.1")]
    assert apply(DEFAULT, *lines) == (("203.0.113.9", 0), "http")


@pytest.mark.parametrize(
    ("said", "scheme", "expected"),
    [
        ("https", "http", "https"),
        ("https", "ws", "wss"),
        ("wss", "ws", "wss"),
        ("wss", "http", "https"),
        ("ws", "http", "http"),
        ("http", "https", "http"),
        ("http", "wss", "ws"),
        (" HTTPS ", "http", "https"),
        ("https, http", "http", "http"),
        ("gopher", "wss", "wss"),
        ("", "https", "https"),
    ],
)
def test_x_forwarded_proto(said: str, scheme: str, expected: str) -> None:
    assert apply(DEFAULT, ("X-Forwarded-Proto", said), scheme=scheme) == (PROXY, expected)


def test_the_last_x_forwarded_proto_is_the_proxys() -> None:
    lines = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")]
    assert apply(DEFAULT, *lines, scheme="https") == (PROXY, "http")


def test_peers_of_a_unix_socket_by_name() -> None:
    header = ("X-Forwarded-For", "203.0.113.9")
    assert apply("unix", header, client=None) == (("203.0.113.9", 0), "http")
    assert apply("127.0.0.1", header, client=None) == (None, "http")


@pytest.mark.parametrize(
    ("trusted", "value", "expected"),
    [
        (DEFAULT, "for=203.0.113.9", (("203.0.113.9", 0), "http")),
        (DEFAULT, 'For="203.0.113.9:4711"', (("203.0.113.9", 4711), "http")),
        (DEFAULT, 'for="[2001:db8::9]:4711"', (("2001:db8::9", 4711), "http")),
        (DEFAULT, 'for="[2001:db8::9]"', (("2001:db8::9", 0), "http")),
        (DEFAULT, "for=[2001:db8::9]:4711", (("2001:db8::9", 4711), "http")),
        (DEFAULT, "for=203.0.113.9;proto=https;by=10.0.0.1", (("203.0.113.9", 0), "https")),
        (DEFAULT, "for=203.0.113.9 ; PROTO=HTTPS", (("203.0.113.9", 0), "https")),
        (DEFAULT, "for=_SEVKISEK", (("_SEVKISEK", 0), "http")),
        (DEFAULT, 'for="_SEVKISEK:_port"', (("_SEVKISEK", 0), "http")),
        (DEFAULT, "for=unknown", (UNKNOWN, "http")),
        (DEFAULT, r'for="203.0.113\.9"', (("203.0.113.9", 0), "http")),
        # the client's claim stands on the left, with its own proto
        (DEFAULT, "for=6.6.6.6;proto=https, for=203.0.113.9", (("203.0.113.9", 0), "http")),
        (
            "127.0.0.1,10.0.0.0/8",
            "for=203.0.113.9;proto=https, for=10.0.0.7;proto=http",
            (("203.0.113.9", 0), "https"),
        ),
        (
            "127.0.0.1,10.0.0.0/8",
            "for=10.0.0.8;proto=https, for=10.0.0.7",
            (("10.0.0.8", 0), "https"),
        ),
        ("*", "for=6.6.6.6;proto=https, for=203.0.113.9", (("6.6.6.6", 0), "https")),
        # our proxy does not say for whom: nothing left of it is ours
        (DEFAULT, "for=6.6.6.6, proto=https", (PROXY, "https")),
        (DEFAULT, "proto=https;host=a", (PROXY, "https")),
        (DEFAULT, ", ;,", (PROXY, "http")),
        (DEFAULT, "", (PROXY, "http")),
        # malformed: nothing is believed, and the proxy's address is not given out either
        (DEFAULT, "203.0.113.9", (UNKNOWN, "http")),
        (DEFAULT, "for=", (UNKNOWN, "http")),
        (DEFAULT, "for = 203.0.113.9", (UNKNOWN, "http")),
        (DEFAULT, "for=1.1.1.1;for=203.0.113.9", (UNKNOWN, "http")),
        (DEFAULT, "for=203.0.113.9 proto=https", (UNKNOWN, "http")),
        (DEFAULT, 'for="203.0.113.9', (UNKNOWN, "http")),
        # an open quote of the client's swallows what the proxy appends
        (DEFAULT, 'for="x, for="[2001:db8::9]:80";proto=https', (UNKNOWN, "http")),
        (DEFAULT, 'for="x\\", for=203.0.113.9', (UNKNOWN, "http")),
    ],
)
def test_forwarded(trusted: str, value: str, expected: tuple[Client, str]) -> None:
    assert apply(trusted, ("Forwarded", value)) == expected


def test_forwarded_maps_to_websocket_schemes() -> None:
    header = ("Forwarded", "for=203.0.113.9;proto=https")
    assert apply(DEFAULT, header, scheme="ws") == (("203.0.113.9", 0), "wss")


@pytest.mark.parametrize(
    ("maintained", "expected"),
    [
        (("X-Forwarded-For", "203.0.113.9"), (("203.0.113.9", 0), "http")),
        (("X-Forwarded-Proto", "https"), (PROXY, "https")),
    ],
)
def test_forwarded_from_the_client_loses_against_the_header_that_the_proxy_maintains(
    maintained: tuple[str, str], expected: tuple[Client, str]
) -> None:
    spoofed = ("Forwarded", "for=6.6.6.6;proto=wss")
    assert apply(DEFAULT, spoofed, maintained) == expected
    assert apply(DEFAULT, maintained, spoofed) == expected


def test_forwarded_can_be_left_unread() -> None:
    header = ("Forwarded", "for=203.0.113.9;proto=https")
    assert apply(DEFAULT, header, rfc7239=False) == (PROXY, "http")


def test_elements_of_forwarded() -> None:
    assert parse_forwarded('For="a\\"b,;c";by=_x,, proto=http ,;') == [
        {"for": 'a"b,;c', "by": "_x"},
        {"proto": "http"},
    ]


ADDRESSES = ["1.2.3.4", "10.0.0.1", "127.0.0.1", "::1", "[::1]", ":80", "unknown", "_x"]
SYNTAX = ["for=", "proto=", "by=", "https", "http", '"', "\\", ";", ",", " ", "=", "é", "\x1b"]
PIECES = st.sampled_from([*ADDRESSES, *SYNTAX])
VALUES = st.lists(PIECES, max_size=12).map("".join) | st.text(
    st.characters(max_codepoint=255), max_size=60
)


@given(
    st.sampled_from(["x-forwarded-for", "x-forwarded-proto", "forwarded"]),
    VALUES,
    st.sampled_from(["*", DEFAULT, "127.0.0.1,10.0.0.0/8,unix"]),
    st.sampled_from(["http", "https", "ws", "wss"]),
)
@example("forwarded", 'for="' + "\\" * 50, DEFAULT, "http")
def test_any_header_gives_an_address_and_a_scheme(
    name: str, value: str, trusted: str, scheme: str
) -> None:
    client, resulting = apply(trusted, (name, value), scheme=scheme)
    assert client is not None
    host, port = client
    assert host
    assert host.isascii()
    assert host.isprintable()
    assert " " not in host
    assert port is not None
    assert 0 <= port <= 65535
    assert resulting in ({"ws", "wss"} if scheme.startswith("ws") else {"http", "https"})


@given(VALUES)
def test_a_trusted_proxy_that_appends_the_peer_cannot_be_talked_out_of_it(claim: str) -> None:
    """Whatever the client sends in X-Forwarded-For, the address that its proxy saw comes out."""
    assert forwarded_for(DEFAULT, f"{claim}, 203.0.113.9:77") == ("203.0.113.9", 77)


@given(VALUES)
def test_the_same_with_forwarded_gives_that_address_or_unknown(claim: str) -> None:
    client, scheme = apply(DEFAULT, ("Forwarded", f"{claim}, for=203.0.113.9"))
    assert client in (("203.0.113.9", 0), UNKNOWN)
    assert scheme == "http"


HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.sampled_from(["127.0.0.1", "10.0.0.1", "10.2.3.4:80", "[::1]:8080", "name", "unknown"]),
)


@given(
    st.lists(HOSTS, min_size=1, max_size=4),
    st.sampled_from(["*", DEFAULT, "127.0.0.1,10.0.0.0/8", "name,127.0.0.1"]),
    st.sampled_from(["127.0.0.1", "10.0.0.9", "203.0.113.1"]),
    st.sampled_from([None, "http", "https", "wss", "gopher"]),
    st.sampled_from([("http", "http"), ("websocket", "ws")]),
)
def test_uvicorn_says_the_same(
    chain: list[str], trusted: str, peer: str, proto: str | None, kind: tuple[str, str]
) -> None:
    middleware = pytest.importorskip("uvicorn.middleware.proxy_headers")
    if kind[0] == "http" and proto == "wss":
        proto = "https"  # uvicorn would give an HTTP scope the scheme wss
    headers = [("X-Forwarded-For", ", ".join(chain))]
    headers += [("X-Forwarded-Proto", proto)] if proto else []
    scope: dict[str, Any] = {"type": kind[0], "client": (peer, 5), "scheme": kind[1]}
    scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in headers]
    seen: list[Any] = []

    async def application(scope: dict[str, Any], receive: object, send: object) -> None:
        seen.append((scope["client"], scope["scheme"]))

    asyncio.run(middleware.ProxyHeadersMiddleware(application, trusted)(scope, None, None))
    assert apply(trusted, *headers, client=(peer, 5), scheme=kind[1]) == seen[0]
