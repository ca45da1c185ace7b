"""HTTP/2 with prior knowledge in every form of the server: whoever reads its first bytes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.client import LAST_GET, read_to_end
from tests.support.forms import FORMS, GUNICORN, served
from tests.support.http2 import Http2Client, http2_client
from tests.support.server import serving
from tests.support.tls import client_context, write_pair
from tests.support.waiting import DEADLINE_S

APP = "tests.attacks.echo:app"
V1 = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 7, 192, 0, 2, 8, 18, 103, 0, 80))
PROXIED = pytest.mark.parametrize("header", [V1, V2], ids=["PROXY v1", "PROXY v2"])
DIRECT = pytest.mark.parametrize("direct", [False, True], ids=["loops read", "pollers read"])


async def about(scope: Any, receive: Any, send: Any) -> None:
    """Which version of HTTP it is, and who asks."""
    text = f"{scope['http_version']} {scope['client'][0]}"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": text.encode()})


async def about_scheme(scope: Any, receive: Any, send: Any) -> None:
    """The same for one who has no address."""
    text = f"{scope['http_version']} {scope['scheme']} {scope['client']}"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": text.encode()})


class _InPieces:
    """Sends so many bytes at a time."""

    def __init__(self, peer: Any, size: int) -> None:
        self._peer = peer
        self._size = size
        self.recv = peer.recv

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), self._size):
            self._peer.sendall(data[at : at + self._size])


@DIRECT
@pytest.mark.parametrize("size", [1, 3, 24, 40])
def test_a_preface_in_pieces(direct: bool, size: int) -> None:
    with (
        serving(about, lifespan="off", direct_handshake=direct) as site,
        site.connect() as peer,
    ):
        client = Http2Client(_InPieces(peer, size))  # type: ignore[arg-type]  # the part it uses
        assert client.response(client.request())[2] == b"2 127.0.0.1"


@DIRECT
@pytest.mark.parametrize("begun", [b"P", b"PRI", b"PRI * HTTP/2.0\r\n"])
def test_what_only_begins_like_one_is_http1(direct: bool, begun: bytes) -> None:
    with (
        serving(about, lifespan="off", direct_handshake=direct) as site,
        site.connect() as peer,
    ):
        peer.sendall(begun)
        peer.sendall(LAST_GET[1:] if begun == b"P" else b"X" + LAST_GET)
        assert read_to_end(peer).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))


@DIRECT
@PROXIED
def test_behind_a_proxy_header(direct: bool, header: bytes) -> None:
    with (
        serving(about, lifespan="off", direct_handshake=direct, proxy_protocol=True) as site,
        site.connect() as peer,
    ):
        peer.sendall(header)
        client = Http2Client(peer)
        assert client.response(client.request())[2] == b"2 192.0.2.7"


@DIRECT
@PROXIED
def test_tls_behind_a_proxy_header(direct: bool, header: bytes, tmp_path: Path) -> None:
    """A proxy that looks at nothing: ALPN is between the client and us."""
    authority = trustme.CA()
    files = write_pair(tmp_path, "server", authority.issue_cert("127.0.0.1"))
    options = {"direct_handshake": direct, "proxy_protocol": True, "ssl_certfile": files.both}
    with serving(about, lifespan="off", **options) as site, site.connect() as peer:
        peer.sendall(header)
        context = client_context(authority, ("h2", "http/1.1"))
        with context.wrap_socket(peer, server_hostname="127.0.0.1") as secure:
            assert secure.selected_alpn_protocol() == "h2"
            client = Http2Client(secure)
            assert client.response(client.request())[2] == b"2 192.0.2.7"


@DIRECT
def test_on_a_unix_socket(direct: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with (
        serving(about_scheme, lifespan="off", direct_handshake=direct, uds=path),
        socket.socket(socket.AF_UNIX) as peer,
    ):
        peer.settimeout(DEADLINE_S)
        peer.connect(path)
        client = Http2Client(peer)  # type: ignore[arg-type]  # no port
        assert client.response(client.request())[2] == b"2 http None"


@DIRECT
def test_where_it_is_not_spoken_the_answer_is_http1(direct: bool) -> None:
    with serving(about, lifespan="off", direct_handshake=direct, http="1") as site:
        assert site.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize("form", FORMS)
@DIRECT
def test_every_form_serves_it(form: str, direct: bool) -> None:
    options: dict[str, Any] = {"direct_handshake" if direct else "no_direct_handshake": True}
    if form == GUNICORN:
        options = {"direct_handshake": direct, "http": "auto"}
    with served(form, APP, lifespan="off", **options) as site, http2_client(site.port) as client:
        streams = [client.request("/client") for _ in range(10)]
        for stream in streams:
            assert client.response(stream)[2] == b"127.0.0.1 http"
        large = client.request("/", "POST", body=b"x" * 10_000)
        assert client.response(large)[2] == b"10000"


@DIRECT
def test_where_nothing_else_is_spoken_http1_is_told_so(direct: bool) -> None:
    with serving(about, lifespan="off", direct_handshake=direct, http="2") as site:
        answer = site.ask(LAST_GET)
        assert answer.startswith(b"HTTP/1.1 505 ")
        assert answer.endswith(b"only HTTP/2 is spoken here")
        with http2_client(site.port) as client:
            assert client.response(client.request())[2] == b"2 127.0.0.1"
