"""A Host that is not ours (DNS rebinding, poisoned links), and an Origin that is not ours
(cross-site WebSocket hijacking).
"""

from __future__ import annotations

import pytest

from tests.attacks.site import under_attack
from tests.support.client import get, handshake, read_head

DIRECT = pytest.mark.parametrize("direct_handshake", [False, True], ids=["core", "poller"])
HOSTS = ("example.com", "*.example.org:8000")


def last(host: str) -> bytes:
    """The last request of a connection."""
    return get("/", "Connection: close", host=host)


@DIRECT
def test_requests_for_a_foreign_host_are_not_served(direct_handshake: bool) -> None:
    with under_attack(allow_hosts=HOSTS, direct_handshake=direct_handshake) as site:
        for host in ("example.com", "EXAMPLE.com:81", "a.example.org:8000"):
            assert site.ask(last(host)).startswith(b"HTTP/1.1 200 "), host
        served = len(site.record.requests)
        for host in (
            "evil.com",
            "example.com.evil.com",
            "xexample.com",
            "example.org:8000",
            "a.example.org",
            "127.0.0.1",
            "",
        ):
            assert site.ask(last(host)).startswith(b"HTTP/1.1 400 "), host
        assert site.ask(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert len(site.record.requests) == served


@DIRECT
def test_the_second_request_of_a_connection_is_looked_at_too(direct_handshake: bool) -> None:
    with under_attack(allow_hosts=HOSTS, direct_handshake=direct_handshake) as site:
        answer = site.ask(get(host="example.com") + last("evil.com"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1 400 ") == 1
        assert len(site.record.requests) == 1


@DIRECT
def test_neither_is_a_websocket_for_one(direct_handshake: bool) -> None:
    with under_attack(allow_hosts=HOSTS, direct_handshake=direct_handshake) as site:
        assert site.ask(handshake(host="evil.com")).startswith(b"HTTP/1.1 400 ")
        with site.connect() as client:
            client.sendall(handshake(host="example.com"))
            assert read_head(client).startswith(b"HTTP/1.1 101 ")


def from_page(*origins: str, host: str = "chat.example.com") -> bytes:
    """What a browser sends for a page of `origins`, with the user's cookies."""
    headers = [f"Origin: {origin}" for origin in origins]
    return handshake(*headers, "Cookie: session=secret", "Sec-Fetch-Site: cross-site", host=host)


@DIRECT
def test_pages_of_other_origins_cannot_open_websockets(direct_handshake: bool) -> None:
    origins = ("https://example.com", "https://*.example.com", "same")
    with under_attack(ws_allow_origins=origins, direct_handshake=direct_handshake) as site:
        for origin in ("https://evil.com", "https://example.com.evil.com", "null", ""):
            answer = site.ask(from_page(origin))
            assert answer.startswith(b"HTTP/1.1 403 "), origin
        two = from_page("https://example.com", "https://evil.com")
        assert site.ask(two).startswith(b"HTTP/1.1 403 ")
        for data in (
            from_page("https://example.com"),
            from_page("https://app.example.com"),
            from_page("http://test:8000", host="test:8000"),
            handshake(),  # no browser: no Origin
        ):
            with site.connect() as client:
                client.sendall(data)
                assert read_head(client).startswith(b"HTTP/1.1 101 "), data


@DIRECT
def test_requests_are_not_asked_for_their_origin(direct_handshake: bool) -> None:
    with under_attack(ws_allow_origins=("same",), direct_handshake=direct_handshake) as site:
        data = get("/", "Origin: https://evil.com", "Connection: close")
        assert site.ask(data).startswith(b"HTTP/1.1 200 ")
