"""Responses whose body is a file: http.response.pathsend and .zerocopysend (ASGI: Extensions), by
the kernel on plain connections, by reading over TLS and HTTP/2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from asgi_poller.loops import sendfile
from tests.support.client import Client, get
from tests.support.http2 import http2_client
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until

START: Message = {"type": "http.response.start", "status": 200}
LARGE_BYTES = 8_000_000  # more than any socket's buffers hold
SMALL = b"The quick brown fox.\n"
# /mixed: four, six more, three from the start, and on from where the ten had ended
MIXED = SMALL[:4] + b"<>" + SMALL[4:10] + SMALL[:3] + SMALL[10:]


LARGE = b"".join(
    b"%07d\n" % number for number in range(LARGE_BYTES // 8)
)  # no part is like another


class Files:
    """An application that sends files as its path says, and the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.errors: list[BaseException] = []
        self.ended = 0
        (folder / "small").write_bytes(SMALL)
        (folder / "empty").write_bytes(b"")
        (folder / "large").write_bytes(LARGE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        kind, _, name = scope["path"].strip("/").partition("/")
        try:
            await getattr(self, kind)(self.folder / name, scope, send)
        except Exception as error:
            self.errors.append(error)
            raise
        finally:
            self.ended += 1

    async def path(self, path: Path, scope: Scope, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.pathsend", "path": str(path)})

    async def answered(self, path: Path, scope: Scope, send: Send) -> None:
        """With a 404 of its own where there is no such file."""
        await send(START)
        try:
            await send({"type": "http.response.pathsend", "path": str(path)})
        except OSError as error:
            await send({"type": "http.response.body", "body": type(error).__name__.encode()})

    async def sized(self, path: Path, scope: Scope, send: Send) -> None:
        """With the length that the query gives."""
        headers = [(b"Content-Length", scope["query_string"])]
        await send({**START, "headers": headers})
        await send({"type": "http.response.pathsend", "path": str(path)})

    async def trailed(self, path: Path, scope: Scope, send: Send) -> None:
        await send({**START, "trailers": True})
        await send({"type": "http.response.pathsend", "path": str(path)})
        await send({"type": "http.response.trailers", "headers": [(b"sum", b"1")]})

    async def bare(self, path: Path, scope: Scope, send: Send) -> None:
        await send({**START, "status": 304})
        await send({"type": "http.response.pathsend", "path": str(path)})

    async def part(self, path: Path, scope: Scope, send: Send) -> None:
        """offset-count of the query, each may be empty."""
        numbers = scope["query_string"].decode().split("-")
        given = {key: int(it) for key, it in zip(("offset", "count"), numbers, strict=True) if it}
        await send(START)
        with path.open("rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file, **given})

    async def mixed(self, path: Path, scope: Scope, send: Send) -> None:
        """Files and bytes, the file's position moving on."""
        await send(START)
        fd = os.open(path, os.O_RDONLY)
        zero = {"type": "http.response.zerocopysend", "file": fd, "more_body": True}
        try:
            await send({**zero, "count": 4})
            await send({"type": "http.response.body", "body": b"<>", "more_body": True})
            await send({**zero, "count": 6})
            await send({**zero, "count": 0})
            await send({**zero, "offset": 0, "count": 3})
            await send({**zero, "more_body": False})
        finally:
            os.close(fd)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(params=["kernel", "read ahead", "reading"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the kernel sends, at once or when a thread has read first, or files are read."""
    if request.param == "reading":
        monkeypatch.setattr(sendfile, "CAN_SENDFILE", False)
    elif request.param == "read ahead":
        monkeypatch.setattr(sendfile, "_NO_WAIT", None)
    return str(request.param)


@pytest.fixture
def site(loop: str, files: Files, way: str) -> Iterator[Site]:
    files.errors.clear()
    files.ended = 0
    with serving(files, loop=loop) as site:
        yield site


def open_files(site: Site) -> int:
    """Descriptors of this process, once a first file has been sent: what loops open for good is
    there then.
    """
    site.ask(get("/path/small", "Connection: close"))
    wait_until(lambda: site.connections() == 0, "the connection has ended")
    return len(os.listdir("/proc/self/fd"))


def held(files: Files) -> list[str]:
    """Files of the folder that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if path.startswith(str(files.folder))]


def test_whole_files_on_one_connection(site: Site) -> None:
    with site.connect() as client:
        for name, body in (("small", SMALL), ("empty", b""), ("large", LARGE)) * 2:
            client.sendall(get(f"/path/{name}"))
            response = client.response()
            assert response.header("content-length") == str(len(body))
            assert response.header("transfer-encoding") is None
            assert response.body == body


def test_pipelined_files(site: Site) -> None:
    with site.connect() as client:
        client.sendall(b"".join(get(f"/path/{name}") for name in ("small", "large", "small")) * 3)
        for _ in range(3):
            bodies = [client.response().body for _ in range(3)]
            assert bodies == [SMALL, LARGE, SMALL]


def test_a_client_of_http_1_0(site: Site) -> None:
    answer = site.ask(get("/path/small", version="1.0"))
    assert f"content-length: {len(SMALL)}\r\n".encode() in answer
    assert answer.endswith(b"\r\n\r\n" + SMALL)
    answer = site.ask(get("/mixed/small", version="1.0"))
    assert answer.endswith(b"\r\n\r\n" + MIXED)  # it ends with the connection


@pytest.mark.parametrize("path", ["/path/large", "/sized/large?8000000", "/part/large?0-"])
def test_head_has_no_body(site: Site, path: str) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(get(path, method="HEAD"))
            response = client.response(has_body=False)
            assert response.header("content-length") == str(LARGE_BYTES)


def test_a_status_without_a_body(site: Site) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(get("/bare/small"))
            assert client.response().status == 304


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("-", SMALL),
        ("4-", SMALL[4:]),
        ("4-5", SMALL[4:9]),
        ("-5", SMALL[:5]),
        ("0-0", b""),
        ("500-", b""),
    ],
)
def test_parts_of_a_file(site: Site, query: str, body: bytes) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(get(f"/part/small?{query}"))
            response = client.response()
            assert (response.header("content-length"), response.body) == (str(len(body)), body)


def test_files_between_pieces(site: Site) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(get("/mixed/small"))
            response = client.response()
            assert response.header("transfer-encoding") == "chunked"
            assert response.body == MIXED


def test_trailers_behind_a_file(site: Site) -> None:
    with site.connect() as client:
        client.sendall(get("/trailed/small", "TE: trailers"))
        assert client.head().header("transfer-encoding") == "chunked"
        assert (client.line(), client.exactly(len(SMALL))) == (b"%x" % len(SMALL), SMALL)
        assert [client.line() for _ in range(4)] == [b"", b"0", b"sum: 1", b""]
        client.sendall(get("/trailed/small"))
        assert client.response().header("content-length") == str(len(SMALL))


@pytest.mark.parametrize(
    ("name", "error"), [("none", "FileNotFoundError"), ("", "IsADirectoryError")]
)
def test_the_application_answers_for_a_file_that_is_not_there(
    site: Site, name: str, error: str
) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(get(f"/answered/{name}"))
            assert client.response().body == error.encode()


def test_what_is_no_file(site: Site, files: Files) -> None:
    fifo = files.folder / "fifo"
    if not fifo.exists():
        os.mkfifo(fifo)
    before = open_files(site)
    for path in ("/path/none", "/path/fifo", "/path/a%00b", "/sized/small?5", "/part/small?0-99"):
        assert site.ask(get(path, "Connection: close")).startswith(b"HTTP/1.1 500 "), path
    wait_until(lambda: open_files(site) <= before, "descriptors are closed")


def test_a_file_that_shrinks_breaks_the_response_off(site: Site, files: Files) -> None:
    path = files.folder / "shrinking"
    path.write_bytes(LARGE)
    with site.connect(receive_buffer=4096) as client:
        client.sendall(get("/path/shrinking") + get("/path/small"))
        assert client.head().header("content-length") == str(LARGE_BYTES)
        os.truncate(path, 100)
        received = drained(client)
    assert len(received) < LARGE_BYTES
    assert b"HTTP/1.1" not in received  # nothing else in its place
    wait_until(lambda: files.ended == 1, "the application has ended")
    assert "has become shorter" in str(files.errors[0])


def test_a_file_that_grows_is_sent_as_it_was(site: Site, files: Files) -> None:
    path = files.folder / "growing"
    path.write_bytes(LARGE)
    with site.connect(receive_buffer=4096) as client:
        client.sendall(get("/path/growing") + get("/path/small"))
        head = client.head()
        with path.open("ab") as file:
            file.write(b"more")
        assert client.exactly(int(head.header("content-length") or 0)) == LARGE
        assert client.response().body == SMALL


def drained(client: Client) -> bytes:
    received = bytearray()
    try:
        while piece := client.recv(65536):
            received += piece
    except ConnectionError:
        pass
    return bytes(received)


def test_peers_that_vanish_leave_no_descriptor(site: Site, files: Files) -> None:
    before = open_files(site)
    files.ended = 0
    for number in range(20):
        client = site.connect(receive_buffer=4096)
        client.sendall(get("/path/large" if number % 2 else "/part/large?5-"))
        assert client.head().status == 200
        if number % 3:
            client.reset()
        else:
            client.close()
    wait_until(lambda: files.ended == 20, "the applications have ended")
    wait_until(lambda: open_files(site) <= before, "descriptors are closed")
    assert files.errors
    assert all(isinstance(error, OSError) for error in files.errors)


def test_many_small_files(site: Site) -> None:
    before = open_files(site)
    with site.connect() as client:
        for _ in range(20):
            client.sendall(get("/path/small") * 50)
            assert [client.response().body for _ in range(50)] == [SMALL] * 50
    assert open_files(site) <= before


def test_a_slow_reader_holds_nobody_up(site: Site) -> None:
    with site.connect(receive_buffer=4096) as slow, site.connect() as quick:
        slow.sendall(get("/path/large"))
        assert slow.head().status == 200
        for _ in range(20):
            quick.sendall(get("/path/small"))
            assert quick.response().body == SMALL
        assert slow.exactly(LARGE_BYTES) == LARGE


def test_a_drain_waits_for_a_file(loop: str, files: Files, way: str) -> None:
    with serving(files, loop=loop, timeout_graceful_shutdown=DEADLINE_S) as site:
        with site.connect(receive_buffer=4096) as client:
            client.sendall(get("/path/large"))
            assert client.head().status == 200
            site.server.should_exit = True
            assert client.exactly(LARGE_BYTES) == LARGE
            assert client.rest() == b""
        site.wait_ended()


def test_a_peer_that_does_not_read_is_cut_off(loop: str, files: Files, way: str) -> None:
    files.ended = 0
    with serving(files, loop=loop, timeout_write=0.5) as site:
        with site.connect(receive_buffer=4096) as client:
            client.sendall(get("/path/large"))
            wait_until(lambda: files.ended == 1, "the application has ended")
            assert len(drained(client)) < LARGE_BYTES


def test_a_cancelled_file_breaks_the_response_off(loop: str, files: Files, way: str) -> None:
    late: list[BaseException | None] = []

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send(START)
        path = str(files.folder / "large")
        sending = asyncio.ensure_future(send({"type": "http.response.pathsend", "path": path}))
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.request"  # which comes when the head is there
        sending.cancel()
        await asyncio.wait([sending])
        try:
            await send({"type": "http.response.body", "body": b"and more"})
            late.append(None)
        except OSError as error:
            late.append(error)

    with serving(impatient, loop=loop) as site:
        with site.connect(receive_buffer=4096) as client:
            client.sendall(get("/", "Content-Length: 2", method="POST") + b"a")
            assert client.head().status == 200
            client.sendall(b"b")
            assert len(drained(client)) < LARGE_BYTES
        wait_until(lambda: bool(late), "the application goes on")
        assert late[0] is not None
        wait_until(lambda: not held(files), "the file is closed")


def test_over_tls(loop: str, files: Files, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(files, loop=loop, ssl_certfile=str(tmp_path / "cert.pem")) as site:
        with context.wrap_socket(site.connect(), server_hostname="localhost") as client:
            client.sendall(get("/path/large", "Connection: close"))
            received = drained_tls(client)
    assert received.endswith(b"\r\n\r\n" + LARGE)


def drained_tls(client: ssl.SSLSocket) -> bytes:
    received = bytearray()
    while piece := client.recv(65536):
        received += piece
    return bytes(received)


def test_over_http_2(loop: str, files: Files) -> None:
    with serving(files, loop=loop) as site, http2_client(site.port) as client:
        large = client.request("/path/large")
        small = client.request("/mixed/small")
        head = client.request("/path/small", "HEAD")
        assert client.response(large)[1]["content-length"] == str(LARGE_BYTES)
        assert client.body(large) == LARGE
        assert client.response(small)[2] == MIXED
        _, fields, body = client.response(head)
        assert (fields["content-length"], body) == (str(len(SMALL)), b"")


def test_a_unix_socket(loop: str, files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with serving(files, loop=loop, uds=path):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(path)
            client.sendall(get("/path/large", "Connection: close"))
            received = bytearray()
            while piece := client.recv(65536):
                received += piece
    assert received.endswith(b"\r\n\r\n" + LARGE)


def test_what_is_in_memory(files: Files) -> None:
    """Where the file system can tell: a file that was just written is, its end is not behind it."""
    with (files.folder / "small").open("rb") as file:
        fd, can_tell = file.fileno(), True
        try:
            os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError:
            can_tell = False
        assert sendfile.is_in_memory(fd, 0, len(SMALL)) is can_tell
        assert not sendfile.is_in_memory(fd, 0, len(SMALL) + 1)


BAD: list[Callable[[Path], Message]] = [
    lambda path: {"type": "http.response.pathsend", "path": 7},
    lambda path: {"type": "http.response.zerocopysend", "file": object()},
    lambda path: {"type": "http.response.zerocopysend", "file": 0, "count": -1},
    lambda path: {"type": "http.response.zerocopysend", "file": 0, "offset": "1"},
]


@pytest.mark.parametrize("message", BAD)
def test_messages_that_are_not_valid(files: Files, message: Any) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send(START)
            await send(message(files.folder))

    with serving(application) as site:
        assert site.ask(get("/", "Connection: close")).startswith(b"HTTP/1.1 500 ")
