"""A Host that is not ours (DNS rebinding, poisoned links), and an Origin that is not ours
(cross-site WebSocket hijacking).
"""

from __future__ import annotations

import pytest

from tests.attacks.site import handshake, read_head, serving

DIRECT = pytest.mark.parametrize("direct_handshake", [False, True], ids=["core", "poller"])
HOSTS = ("example.com", "*.example.org:8000")


def get(host: bytes, end: bytes = b"connection: close\r\n\r\n") -> bytes:
    return b"GET / HTTP/1.1\r\nhost: %b\r\n%b" % (host, end)


@DIRECT
def test_requests_for_a_foreign_host_are_not_served(direct_handshake: bool) -> None:
    with serving(allow_hosts=HOSTS, direct_handshake=direct_handshake) as site:
        for host in (b"example.com", b"EXAMPLE.com:81", b"a.example.org:8000"):
            assert site.ask(get(host)).startswith(b"HTTP/1.1 200 "), host
        served = len(site.record.requests)
        for host in (
            b"evil.com",
            b"example.com.evil.com",
            b"xexample.com",
            b"example.org:8000",
            b"a.example.org",
            b"127.0.0.1",
            b"",
        ):
            assert site.ask(get(host)).startswith(b"HTTP/1.1 400 "), host
        assert site.ask(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert len(site.record.requests) == served


@DIRECT
def test_the_second_request_of_a_connection_is_looked_at_too(direct_handshake: bool) -> None:
    with serving(allow_hosts=HOSTS, direct_handshake=direct_handshake) as site:
        answer = site.ask(get(b"example.com", b"\r\n") + get(b"evil.com"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1 400 ") == 1
        assert len(site.record.requests) == 1


@DIRECT
def test_neither_is_a_websocket_for_one(direct_handshake: bool) -> None:
    with serving(allow_hosts=HOSTS, direct_handshake=direct_handshake) as site:
        assert site.ask(handshake(host=b"evil.com")).startswith(b"HTTP/1.1 400 ")
        with site.connect() as client:
            client.sendall(handshake(host=b"example.com"))
            assert read_head(client).startswith(b"HTTP/1.1 101 ")


def from_page(origin: bytes, host: bytes = b"chat.example.com") -> bytes:
    """What a browser sends for a page of `origin`, with the user's cookies."""
    fields = b"origin: %b\r\ncookie: session=secret\r\nsec-fetch-site: cross-site\r\n" % origin
    return handshake("/", fields, host)


@DIRECT
def test_pages_of_other_origins_cannot_open_websockets(direct_handshake: bool) -> None:
    origins = ("https://example.com", "https://*.example.com", "same")
    with serving(ws_allow_origins=origins, direct_handshake=direct_handshake) as site:
        for origin in (b"https://evil.com", b"https://example.com.evil.com", b"null", b""):
            answer = site.ask(from_page(origin))
            assert answer.startswith(b"HTTP/1.1 403 "), origin
        two = b"https://example.com\r\norigin: https://evil.com"
        assert site.ask(from_page(two)).startswith(b"HTTP/1.1 403 ")
        for octets in (
            from_page(b"https://example.com"),
            from_page(b"https://app.example.com"),
            from_page(b"http://test:8000", host=b"test:8000"),
            handshake(),  # no browser: no Origin
        ):
            with site.connect() as client:
                client.sendall(octets)
                assert read_head(client).startswith(b"HTTP/1.1 101 "), octets


@DIRECT
def test_requests_are_not_asked_for_their_origin(direct_handshake: bool) -> None:
    with serving(ws_allow_origins=("same",), direct_handshake=direct_handshake) as site:
        octets = get(b"a", b"origin: https://evil.com\r\nconnection: close\r\n\r\n")
        assert site.ask(octets).startswith(b"HTTP/1.1 200 ")
