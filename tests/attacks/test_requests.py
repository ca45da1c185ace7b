"""Requests that could be read in two ways, and clients that do not read their answers."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from tests.attacks.site import under_attack
from tests.support.client import read_to_end
from tests.support.waiting import DEADLINE_S, wait_until

DIRECT = pytest.mark.parametrize("direct", [False, True], ids=["core", "poller"])


def get(*fields: bytes, target: bytes = b"/") -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (target, b"\r\n".join(fields))


@DIRECT
def test_the_host_of_an_absolute_target_replaces_the_header(direct: bool) -> None:
    """RFC 9112, 3.2.2: what is allowed for one host must not be served as another."""
    with under_attack(allow_hosts=("good.example",), direct_handshake=direct) as site:
        close = b"connection: close"
        evil = get(b"host: good.example", close, target=b"http://evil.example/x")
        assert site.ask(evil).startswith(b"HTTP/1.1 400 ")
        good = get(b"host: evil.example", close, target=b"http://user@good.example:80/x?y#z")
        assert site.ask(good).startswith(b"HTTP/1.1 200 ")
        (request,) = site.record.requests
        assert dict(request["headers"])[b"host"] == b"good.example:80"
        assert [name for name, _ in request["headers"]].count(b"host") == 1
        assert (request["path"], request["query_string"]) == ("/x", b"y")
        broken = get(b"host: good.example", close, target=b"http://good.example@/x")
        assert site.ask(broken).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("fields", "closes"),
    [
        ((b"connection: keep-alive, close",), True),
        ((b"connection: Close , keep-alive",), True),
        ((b"connection: keep-alive", b"connection: close"), True),
        ((b"connection: keep-alive, closed",), False),
        ((b"connection: keep-alive",), False),
    ],
)
def test_close_comes_before_keep_alive(fields: tuple[bytes, ...], closes: bool) -> None:
    with under_attack() as site:
        last = get(b"host: a", b"connection: close")
        answers = site.ask(get(b"host: a", *fields) + last).count(b"HTTP/1.1 200 ")
        assert answers == (1 if closes else 2)


@pytest.mark.parametrize("version", [b"1.2", b"2.0", b"0.9", b"3.0", b"1.10", b"11"])
def test_other_versions_than_1_0_and_1_1_reach_no_application(version: bytes) -> None:
    with under_attack() as site:
        answer = site.ask(b"GET / HTTP/%b\r\nhost: a\r\nconnection: close\r\n\r\n" % version)
        assert answer[:13] in (b"HTTP/1.1 505 ", b"HTTP/1.1 400 ")
        assert site.record.requests == []


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"forwarded_allow_ips": "192.0.2.1"}, False),
        ({"forwarded_allow_ips": "127.0.0.1"}, True),
        ({"forwarded_allow_ips": "192.0.2.1", "underscores_in_headers": True}, True),
    ],
)
def test_names_with_underscores_are_dropped_unless_a_proxy_sends_them(
    options: dict[str, Any], kept: bool
) -> None:
    with under_attack(**options) as site:
        fields = (b"host: a", b"connection: close", b"X_Forwarded_For: 10.0.0.1", b"x-a: b")
        assert site.ask(get(*fields)).startswith(b"HTTP/1.1 200 ")
        names = [name for name, _ in site.record.requests[0]["headers"]]
        assert (b"x_forwarded_for" in names) is kept
        assert b"x-a" in names


def test_cookies_of_single_sign_on_fit_and_what_is_larger_is_refused() -> None:
    with under_attack() as site:
        for size_bytes, status in ((30_000, b"200"), (33_000, b"431")):
            fields = (b"host: a", b"connection: close", b"cookie: " + b"c" * size_bytes)
            assert site.ask(get(*fields))[9:12] == status
        for size_bytes, status in ((16_000, b"200"), (17_000, b"414")):
            asked = get(b"host: a", b"connection: close", target=b"/" + b"x" * size_bytes)
            assert site.ask(asked)[9:12] == status


def test_a_client_that_does_not_read_is_cut_off_with_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "asgi_poller.error")
    with under_attack(timeout_write=0.5) as site, site.connect() as client:
        client.sendall(get(b"host: a", target=b"/large"))
        wait_until(lambda: "--timeout-write" in caplog.text, "it is cut off")
        wait_until(lambda: site.connections() == 0, "nothing is kept for it")
        assert len(read_to_end(client)) < 32 * 1024 * 1024
        assert "127.0.0.1" in caplog.text


def test_one_that_reads_slowly_gets_all_of_it_and_0_is_no_limit() -> None:
    with under_attack(timeout_write=0.0) as site, site.connect() as client:
        client.sendall(get(b"host: a", b"connection: close", target=b"/large"))
        assert len(read_to_end(client)) > 32 * 1024 * 1024


def test_the_ipv6_wildcard_alone_takes_ipv4_too() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this system has no IPv6: {error}")  # containers often have none
    with under_attack(host="::") as site:
        asked = get(b"host: a", b"connection: close", target=b"/client")
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, site.port), DEADLINE_S) as client:
                client.sendall(asked)
                assert read_to_end(client).endswith(host.encode() + b" http")
