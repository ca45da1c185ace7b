"""Lists of allowed Hosts and Origins: what matches, and what only looks as if it did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.errors import ConfigError
from asgi_poller.protocols.host_origin import HostMatcher, OriginMatcher

HOSTS = ["example.com", "*.example.org", "exact.test:8000", "*.ports.test:8443", "[2001:db8::1]"]


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "EXAMPLE.com",
        "example.com.",
        "example.com:80",
        "example.com:65535",
        "www.example.org",
        "a.b.example.org:8000",
        "A_b.example.org",
        "exact.test:8000",
        "x.ports.test:8443",
        "[2001:db8::1]",
        "[2001:DB8::1]:443",
    ],
)
def test_hosts_of_ours(host: str) -> None:
    assert HostMatcher(HOSTS).allows(host.encode())


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.org",
        "evil.com",
        "example.com.evil.com",
        "notexample.com",
        "notexample.org",
        ".example.org",
        "..example.org",
        "www..example.org",
        "evil.com/.example.org",
        "evil.com?.example.org",
        "evil.com#.example.org",
        "evil.com@.example.org",
        "user@example.com",
        "evil.com:80.example.org",
        "evil\x00.example.org",
        "evil .example.org",
        " example.com",
        "example.com ",
        "example.com\t",
        "example.com\n",
        "example.com:",
        "example.com:80:80",
        "example.com:http",
        "example.com:123456",
        "example.com:\u0665",
        "exact.test",
        "exact.test:8001",
        "x.ports.test",
        "x.ports.test:443",
        "ports.test:8443",
        "2001:db8::1",
        "[2001:db8::2]",
        "[2001:db8::1",
        "[]",
        "example.com,evil.com",
        "\xe9.example.org",
    ],
)
def test_hosts_that_are_not_ours(host: str) -> None:
    assert not HostMatcher(HOSTS).allows(host.encode())


def test_a_request_without_host_is_for_nobody() -> None:
    assert not HostMatcher(HOSTS).allows(None)
    assert not HostMatcher([]).allows(b"example.com")


def test_any_host() -> None:
    matcher = HostMatcher(["example.com", "*"])
    assert matcher.allows(b"\xff\x00")
    assert matcher.allows(None)


def test_names_in_other_scripts_are_compared_as_browsers_send_them() -> None:
    assert HostMatcher(["*.Bücher.example"]).allows(b"www.xn--bcher-kva.example")
    assert OriginMatcher(["https://bücher.example"]).allows(b"https://xn--bcher-kva.example")


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "*.",
        "*example.com",
        "a.*.com",
        "http://example.com",
        "example.com/",
        "*.[::1]",
        "::1",
        "a b",
        ".example.com",
        "example.com:x",
        "a..b",
        "ü" * 80,
    ],
)
def test_a_bad_host_pattern_is_one_clear_line(pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HostMatcher([pattern])
    assert str(caught.value).startswith("--allow-hosts: ")
    assert "\n" not in str(caught.value)


ORIGINS = [
    "https://example.com",
    "https://*.example.org",
    "http://exact.test:8000",
    "https://*.ports.test:8443",
    "http://localhost:*",
    "http://*.dev.test:*",
    "http://[::1]:3000",
    "chrome-extension://abcdefghijklmnop",
]


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.com",
        "HTTPS://Example.COM",
        "https://example.com:443",
        "https://www.example.org",
        "https://a.b.example.org",
        "https://a.example.org:443",
        "http://exact.test:8000",
        "https://x.ports.test:8443",
        "http://localhost",
        "http://localhost:3000",
        "http://a.dev.test:1",
        "http://a.dev.test",
        "http://[::1]:3000",
        "chrome-extension://abcdefghijklmnop",
    ],
)
def test_origins_of_ours(origin: str) -> None:
    assert OriginMatcher(ORIGINS).allows(origin.encode())


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "NULL",
        "http://example.com",
        "ws://example.com",
        "https://example.com:8443",
        "https://example.org",
        "https://evil.com",
        "https://example.com.evil.com",
        "https://evilexample.org",
        "https://.example.org",
        "https://evil.com/.example.org",
        "https://evil.com#.example.org",
        "https://evil.com?.example.org",
        "https://evil.com\\.example.org",
        "https://user@example.com",
        "https://example.com@evil.com",
        "https://evil.com:1@x.example.org",
        "http://x.example.org",
        "https://x.example.org:8443",
        "https://ports.test:8443",
        "https://x.ports.test",
        "http://exact.test",
        "http://exact.test:80000",
        "https://localhost",
        "http://localhost.evil.com",
        "http://localhost:3000.evil.com",
        "http://[::1]",
        "http://[::2]:3000",
        "example.com",
        "//example.com",
        "https:example.com",
        "https:///example.com",
        "https://example.com/",
        "https://example.com https://evil.com",
        "https://evil.com, https://example.com",
        "https://example.com\n",
        " https://example.com",
        "https://example.com:",
        "https://\u0435xample.com",
    ],
)
def test_origins_that_are_not_ours(origin: str) -> None:
    assert not OriginMatcher(ORIGINS).allows(origin.encode())


def test_clients_without_origin_are_let_in_unless_told_otherwise() -> None:
    assert OriginMatcher(ORIGINS).allows(None)
    assert not OriginMatcher(ORIGINS, missing=False).allows(None)


def test_null_is_allowed_only_by_name() -> None:
    assert not OriginMatcher(["https://example.com", "same"]).allows(b"null", b"null")
    assert OriginMatcher(["null"]).allows(b"null")
    assert not OriginMatcher(["null"]).allows(b"https://example.com")


def test_any_origin() -> None:
    matcher = OriginMatcher(["*"], missing=False)
    assert matcher.allows(b"null")
    assert matcher.allows(b"\xff")
    assert matcher.allows(None)


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        ("https://example.com", "example.com", True),
        ("https://Example.com", "example.COM:443", True),
        ("http://example.com", "example.com:80", True),
        ("http://example.com:8000", "example.com:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://example.com:8000", "example.com", False),
        ("https://example.com", "example.com:8000", False),
        ("https://evil.com", "example.com", False),
        ("https://example.com", "www.example.com", False),
        ("https://example.com", "", False),
        ("https://example.com", "example.com/", False),
        ("https://example.com", None, False),
    ],
)
def test_pages_from_the_same_host(origin: str, host: str | None, expected: bool) -> None:
    matcher = OriginMatcher(["same"])
    assert matcher.allows(origin.encode(), None if host is None else host.encode()) is expected
    both = OriginMatcher(["same", "https://other.test"])
    assert both.allows(b"https://other.test", b"example.com")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("example.com", "no scheme; write https://example.com"),
        ("", "no scheme"),
        ("https://example.com/", "has a path; .* https://example.com$"),
        ("https://example.com/chat", "has a path"),
        ("https://", "no origin"),
        ("https://*", "no origin"),
        ("https://*example.com", "no origin"),
        ("https://a.*.com", "no origin"),
        ("https://user@example.com", "no origin"),
        ("https://example.com:x", "no origin"),
        ("*://example.com", "no scheme"),
        ("https://*.[::1]", "no origin"),
        ("https://" + "ü" * 80 + ".com", "no host name"),
    ],
)
def test_a_bad_origin_pattern_is_one_clear_line(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        OriginMatcher([pattern])
    assert str(caught.value).startswith("--ws-allow-origins: ")
    assert "\n" not in str(caught.value)


OCTETS = st.binary(max_size=60) | st.lists(
    st.sampled_from(
        [
            b"https://",
            b"http://",
            b"*",
            b".",
            b"example",
            b"com",
            b":",
            b"443",
            b"[",
            b"]",
            b"/",
            b"@",
            b"\\",
            b"null",
            b" ",
            b"\n",
            b"%2e",
            b"#",
        ]
    ),
    max_size=10,
).map(b"".join)


@given(OCTETS)
def test_any_octets_are_judged(data: bytes) -> None:
    """Never an exception; and what passes really ends with a name of ours, with nothing after
    it.
    """
    if HostMatcher(["*.example.org", "example.com"]).allows(data):
        name = data.decode("ascii").lower().partition(":")[0].removesuffix(".")
        assert name == "example.com" or name.endswith(".example.org")
    if OriginMatcher(["https://*.example.org", "same"]).allows(data, b"example.com"):
        scheme, _, rest = data.decode("ascii").lower().partition("://")
        host = rest.removesuffix(":443").removesuffix(":80")
        assert host == "example.com" or (scheme == "https" and host.endswith(".example.org"))
