"""HTTP/2 with prior knowledge in every form of the server: whoever reads its first bytes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.client import LAST_GET, read_to_end
from tests.support.forms import FORMS, GUNICORN, served
from tests.support.http2 import Http2Client, http2_client
from tests.support.server import serving

APP = "tests.attacks.echo:app"
V1 = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n"
DIRECT = pytest.mark.parametrize("direct", [False, True], ids=["loops read", "pollers read"])


async def about(scope: Any, receive: Any, send: Any) -> None:
    """Which version of HTTP it is, and who asks."""
    text = f"{scope['http_version']} {scope['client'][0]}"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": text.encode()})


class _InPieces:
    """Sends so many bytes at a time."""

    def __init__(self, socket: Any, size: int) -> None:
        self._socket = socket
        self._size = size
        self.recv = socket.recv

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), self._size):
            self._socket.sendall(data[at : at + self._size])


@DIRECT
@pytest.mark.parametrize("size", [1, 3, 24, 40])
def test_a_preface_in_pieces(direct: bool, size: int) -> None:
    with (
        serving(about, lifespan="off", direct_handshake=direct) as site,
        site.connect() as socket,
    ):
        client = Http2Client(_InPieces(socket, size))  # type: ignore[arg-type]
        assert client.response(client.request())[2] == b"2 127.0.0.1"


@DIRECT
@pytest.mark.parametrize("begun", [b"P", b"PRI", b"PRI * HTTP/2.0\r\n"])
def test_what_only_begins_like_one_is_http1(direct: bool, begun: bytes) -> None:
    with (
        serving(about, lifespan="off", direct_handshake=direct) as site,
        site.connect() as socket,
    ):
        socket.sendall(begun)
        socket.sendall(LAST_GET[1:] if begun == b"P" else b"X" + LAST_GET)
        assert read_to_end(socket).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))


@DIRECT
def test_behind_a_proxy_header(direct: bool) -> None:
    with (
        serving(about, lifespan="off", direct_handshake=direct, proxy_protocol=True) as site,
        site.connect() as socket,
    ):
        socket.sendall(V1)
        client = Http2Client(socket)
        assert client.response(client.request())[2] == b"2 192.0.2.7"


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
