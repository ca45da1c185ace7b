"""PROXY headers: believed from proxies of ours, closed from anybody else; and the real HAProxy."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.attacks.proxies import haproxy
from tests.attacks.site import under_attack
from tests.support.client import LAST_GET, read_to_end, send_all
from tests.support.tls import client_context, write_pair
from tests.support.waiting import wait_until

DIRECT = pytest.mark.parametrize("direct_handshake", [False, True], ids=["core", "poller"])
PROXY, STRANGER = "127.0.0.1", "127.0.0.2"
V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
    + bytes([192, 0, 2, 7, 192, 0, 2, 1])
    + (5000).to_bytes(2, "big")
    + (80).to_bytes(2, "big")
)
ASK = b"GET /client HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


@DIRECT
@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_proxy_of_ours_speaks_for_its_client(header: bytes, direct_handshake: bool) -> None:
    with under_attack(proxy_protocol=True, direct_handshake=direct_handshake) as site:
        assert site.ask(header + ASK, PROXY).endswith(b"\r\n\r\n192.0.2.7 http")
        with site.connect(PROXY) as client:  # byte by byte
            for byte in header + ASK:
                client.sendall(bytes([byte]))
            assert read_to_end(client).endswith(b"\r\n\r\n192.0.2.7 http")
        requests = site.ask(header + ASK.replace(b"connection: close\r\n", b"") + ASK, PROXY)
        assert requests.count(b"192.0.2.7 http") == 2


@DIRECT
@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_stranger_with_a_header(header: bytes, direct_handshake: bool) -> None:
    with under_attack(proxy_protocol=True, direct_handshake=direct_handshake) as site:
        assert site.ask(header + ASK, STRANGER) == b""
        assert site.ask(header, STRANGER) == b""
        assert site.record.requests == []
        assert site.ask(ASK, STRANGER).endswith(b"\r\n\r\n127.0.0.2 http")
        with site.connect(STRANGER) as client:  # what begins like a header is not one yet
            for byte in LAST_GET.replace(b"GET", b"POST"):
                client.sendall(bytes([byte]))
            assert read_to_end(client).startswith(b"HTTP/1.1 200 ")


@DIRECT
@pytest.mark.parametrize(
    "data",
    [
        ASK,
        b"PROXY TCP4 192.0.2.7 192.0.2.1 5000\r\n" + ASK,
        b"PROXY TCP4 1.2.3.4.5 192.0.2.1 5000 80\r\n" + ASK,
        b"PROXY " + b"a" * 200 + ASK,
        V2[:12] + b"\x31" + V2[13:] + ASK,
        V2[:14] + b"\xff\xff" + V2[16:] + ASK,
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_a_malformed_or_missing_header_is_closed_without_a_word(
    data: bytes, direct_handshake: bool
) -> None:
    with under_attack(proxy_protocol=True, direct_handshake=direct_handshake) as site:
        assert site.ask(data, PROXY) == b""
        assert site.record.requests == []


@DIRECT
def test_headers_that_never_end_have_a_deadline(direct_handshake: bool) -> None:
    with under_attack(
        proxy_protocol=True,
        direct_handshake=direct_handshake,
        timeout_first_octet=0.6,
        timeout_request_header=0.3,
    ) as site:
        for beginning in (b"", V1[:10], V2[:20], V1 + ASK[:10]):
            assert site.ask(beginning, PROXY).startswith((b"", b"HTTP/1.1 408 "))


@DIRECT
def test_clients_behind_a_proxy_have_their_share_each(direct_handshake: bool) -> None:
    with under_attack(
        proxy_protocol=True, limit_connections_per_ip=2, direct_handshake=direct_handshake
    ) as site:
        other = V1.replace(b"192.0.2.7", b"192.0.2.8")
        greedy = [site.connect(PROXY) for _ in range(2)]
        for client in greedy:
            client.sendall(V1 + ASK.replace(b"connection: close\r\n", b""))
            assert client.recv(1000)
        assert site.ask(V1 + ASK, PROXY).startswith(b"HTTP/1.1 429 ")
        assert site.ask(other + ASK, PROXY).startswith(b"HTTP/1.1 200 ")
        for client in greedy:
            client.close()
        wait_until(
            lambda: site.ask(V1 + ASK, PROXY).startswith(b"HTTP/1.1 200 "), "its share is free"
        )


@DIRECT
def test_before_tls(tmp_path: Path, direct_handshake: bool) -> None:
    authority = trustme.CA()
    files = write_pair(tmp_path, "server", authority.issue_cert("localhost"))
    with under_attack(
        proxy_protocol=True,
        direct_handshake=direct_handshake,
        ssl_certfile=files.certificate,
        ssl_keyfile=files.key,
    ) as site:
        for source, header, expected in (
            (PROXY, V1, b"192.0.2.7 https"),
            (PROXY, V2, b"192.0.2.7 https"),
            (STRANGER, b"", b"127.0.0.2 https"),
        ):
            with site.connect(source) as raw:
                raw.sendall(header)
                context = client_context(authority)
                with context.wrap_socket(raw, server_hostname="localhost") as client:
                    client.sendall(ASK)
                    assert read_to_end(client).endswith(expected)
        with site.connect(STRANGER) as raw:
            send_all(raw, V1)
            with pytest.raises((OSError, ssl.SSLError)):
                client_context(authority).wrap_socket(raw, server_hostname="localhost")


@pytest.mark.tools
@DIRECT
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_through_a_real_haproxy(option: str, tmp_path: Path, direct_handshake: bool) -> None:
    with (
        under_attack(proxy_protocol=True, direct_handshake=direct_handshake) as site,
        haproxy(tmp_path, f"server s 127.0.0.1:{site.port} {option}") as front,
    ):
        assert front.ask(ASK, STRANGER).endswith(b"\r\n\r\n127.0.0.2 http")
        assert front.ask(V1 + ASK, STRANGER).startswith(b"HTTP/1.1 400 ")
