"""Frameworks' file responses, which use http.response.pathsend, and real clients of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from tests.logs.served import logged
from tests.support.client import get
from tests.support.server import Site, serving
from tests.support.waiting import run

BODY = b"".join(b"%07d\n" % number for number in range(200_000))
LAST = "Connection: close"


class Recorder:
    """Before an application: the kinds of messages that it sends."""

    def __init__(self, folder: Path) -> None:
        self.kinds: list[str] = []
        path = folder / "file.txt"
        path.write_bytes(BODY)

        async def file(request: Request) -> FileResponse:
            return FileResponse(path)

        async def missing(request: Request) -> FileResponse:
            return FileResponse(folder / "missing")

        self._app = Starlette(
            routes=[
                Route("/file", file),
                Route("/missing", missing),
                Mount("/static", StaticFiles(directory=folder)),
                Mount(
                    "/gzip",
                    app=Starlette(
                        routes=[Route("/file", file)], middleware=[Middleware(GZipMiddleware)]
                    ),
                ),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            self.kinds.append(message["type"])
            await send(message)

        await self._app(scope, receive, noted)


@pytest.fixture
def app(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.fixture
def site(loop: str, app: Recorder) -> Iterator[Site]:
    with serving(app, loop=loop, lifespan="off") as site:
        yield site


@pytest.mark.parametrize("path", ["/file", "/static/file.txt"])
@pytest.mark.parametrize("http2", [False, True])
def test_starlette_sends_whole_files_by_their_path(
    site: Site, app: Recorder, path: str, http2: bool
) -> None:
    with httpx.Client(http1=not http2, http2=http2) as client:
        response = client.get(site.url(path))
        assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert response.content == BODY
        assert response.headers["content-length"] == str(len(BODY))
        assert app.kinds == ["http.response.start", "http.response.pathsend"]
        assert client.head(site.url(path)).headers["content-length"] == str(len(BODY))


def test_ranges_still_work(site: Site) -> None:
    with httpx.Client() as client:
        response = client.get(site.url("/file"), headers={"range": "bytes=5-14"})
        assert (response.status_code, response.content) == (206, BODY[5:15])
        response = client.get(site.url("/file"), headers={"range": "bytes=0-1,8-9"})
        assert response.status_code == 206
        assert len(re.findall(rb"(?i)content-range: bytes", response.content)) == 2
        response = client.get(site.url("/file"), headers={"range": "bytes=99999999-"})
        assert response.status_code == 416
        assert client.get(site.url("/file")).content == BODY


def test_middleware_that_looks_at_bodies(site: Site) -> None:
    """It lets the message pass, or does without: the client gets the file."""
    assert httpx.get(site.url("/gzip/file")).content == BODY


def test_a_missing_file_is_a_500(site: Site) -> None:
    assert httpx.get(site.url("/missing")).status_code == 500


def test_aiohttp_reads_files_on_one_connection(site: Site) -> None:
    async def download() -> list[bytes]:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector) as session:
            bodies = []
            for _ in range(5):
                async with session.get(site.url("/file")) as response:
                    bodies.append(await response.read())
            return bodies

    assert run(download()) == [BODY] * 5


@pytest.mark.parametrize("path", ["/path", "/descriptor"])
def test_the_access_log_counts_the_bytes_of_files(tmp_path: Path, path: str) -> None:
    """None for HEAD; and each response has its request's id."""
    size = 3_000_000
    options = ("--log-format", "json", "--request-id", "--lifespan", "off")
    with logged(tmp_path, *options, app="tests.logs.apps:file") as site:
        assert site.ask(get(path, LAST)).endswith(b"\r\n\r\n" + bytes(size))
        answer = site.ask(get(path, LAST, method="HEAD"))
        assert f"content-length: {size}\r\n".encode() in answer
        lines = {line["method"]: line for line in site.wait_for_objects(2)}
    assert (lines["GET"]["response_bytes"], lines["GET"]["complete"]) == (size, True)
    assert lines["HEAD"]["response_bytes"] == 0
    assert f"x-request-id: {lines['HEAD']['request_id']}\r\n".encode() in answer
