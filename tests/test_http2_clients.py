"""HTTP/2 with clients and proxies that we did not write."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trustme
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from tests.attacks.proxies import grpc_nginx, haproxy
from tests.support.browser import browser, executable
from tests.support.server import Site, serving
from tests.support.tls import write_pair
from tests.support.waiting import DEADLINE_S, run

COUNT = 50
PAGE = """<!doctype html><title>HTTP/2</title><script>
(async () => {
  const asked = [...Array(%d).keys()].map((number) => fetch(`/about?${number}`));
  const found = await Promise.all((await Promise.all(asked)).map((each) => each.json()));
  const body = 'x'.repeat(3000000);
  const echo = await (await fetch('/echo', {method: 'POST', body})).text();
  window.versions = found.map((each) => each.version);
  window.echoed = echo === body;
  window.protocols = performance.getEntriesByType('resource').map((each) => each.nextHopProtocol);
  window.done = true;
})();
</script>"""

app = FastAPI()


@app.get("/")
async def page() -> Any:
    return StreamingResponse(iter([PAGE % COUNT]), media_type="text/html")


@app.get("/about")
async def about(request: Request) -> dict[str, Any]:
    scope = request.scope
    return {
        "version": scope["http_version"],
        "scheme": scope["scheme"],
        "host": request.headers["host"],
        "port": scope["client"][1],
        "forwarded": request.headers.get("x-forwarded-for"),
    }


@app.post("/echo")
@app.put("/echo")
async def echo(request: Request) -> StreamingResponse:
    return StreamingResponse(request.stream())


@app.get("/events")
async def events() -> StreamingResponse:
    async def each() -> Any:
        for number in range(5):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0)

    return StreamingResponse(each(), media_type="text/event-stream")


class Secure(NamedTuple):
    site: Site
    authority: trustme.CA
    certificates: str  # the authority's, a file

    def url(self, path: str) -> str:
        return self.site.url(path, "https").replace("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    files = write_pair(directory, "server", authority.issue_cert("localhost", "127.0.0.1"))
    path = str(directory / "ca.pem")
    authority.cert_pem.write_to_path(path)
    with serving(app, ssl_certfile=files.certificate, ssl_keyfile=files.key) as site:
        yield Secure(site, authority, path)


@pytest.fixture(scope="module")
def plain() -> Iterator[Site]:
    with serving(app) as site:
        yield site


def test_httpx_asks_for_much_at_once(secure: Secure) -> None:
    context = ssl.create_default_context()
    secure.authority.configure_trust(context)

    async def main() -> None:
        async with httpx.AsyncClient(verify=context, http2=True, timeout=DEADLINE_S) as client:
            first = await client.get(secure.url("/about"))
            assert first.http_version == "HTTP/2"
            asked = [client.get(secure.url("/about")) for _ in range(200)]
            answers = [each.json() for each in await asyncio.gather(*asked)]
            assert {each["version"] for each in answers} == {"2"}
            assert len({each["port"] for each in answers}) == 1  # all on one connection
            large = bytes(2_000_000)
            echoed = await asyncio.gather(
                *(client.post(secure.url("/echo"), content=large) for _ in range(4))
            )
            assert all(each.content == large for each in echoed)
            async with client.stream("GET", secure.url("/events")) as stream:
                lines = [line async for line in stream.aiter_lines() if line]
            assert lines == [f"data: {number}" for number in range(5)]

    run(main())


def curl(*arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "--silent", "--show-error", "--max-time", str(DEADLINE_S), *arguments]
    done = subprocess.run(command, input=input, capture_output=True, timeout=2 * DEADLINE_S)
    if b"unsupported" in done.stderr.lower():
        pytest.skip("this curl knows no HTTP/2")
    return done


VERSIONS = {"--http2-prior-knowledge": "2", "--http1.1": "1.1", "--http2": "1.1"}


@pytest.mark.tools
@pytest.mark.parametrize("option", VERSIONS)
def test_curl_on_one_port(plain: Site, option: str) -> None:
    """--http2 on plain text offers an upgrade, which RFC 9113 no longer has."""
    done = curl(option, plain.url("/about"))
    assert json.loads(done.stdout)["version"] == VERSIONS[option], done
    body = bytes(range(256)) * 8000
    echoed = curl(option, "--data-binary", "@-", plain.url("/echo"), input=body)
    assert echoed.stdout == body
    forced = curl(
        option, "--verbose", "--header", "Expect: 100-continue", "--data", "a", plain.url("/echo")
    )
    assert forced.stdout == b"a"
    assert re.search(rb"^< HTTP/(2|1\.1) 100", forced.stderr, re.MULTILINE), forced


@pytest.mark.tools
def test_curl_over_tls(secure: Secure) -> None:
    for option, version in (("--http2", "2"), ("--http1.1", "1.1")):
        done = curl(option, "--cacert", secure.certificates, secure.url("/about"))
        about = json.loads(done.stdout)
        assert (about["version"], about["scheme"]) == (version, "https"), done


@pytest.mark.tools
def test_nghttp_and_h2load(plain: Site) -> None:
    if shutil.which("nghttp") is None or shutil.which("h2load") is None:
        pytest.skip("nghttp and h2load are not installed")
    nghttp = subprocess.run(
        ["nghttp", "--verbose", plain.url("/about")], capture_output=True, timeout=DEADLINE_S
    )
    assert b":status: 200" in nghttp.stdout, nghttp
    load = subprocess.run(
        ["h2load", "-n", "2000", "-c", "4", "-m", "50", plain.url("/about")],
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert b"2000 succeeded, 0 failed, 0 errored" in load.stdout, load


@pytest.mark.tools
def test_haproxy_speaks_it_to_the_server(plain: Site, tmp_path: Path) -> None:
    """Its health checks too, if they name a host."""
    server = f"server s 127.0.0.1:{plain.port} proto h2 check check-proto h2 inter 100"
    options = (
        "option forwardfor\n option httpchk\n"
        " http-check send meth GET uri /about ver HTTP/2 hdr host check\n"
    )
    with haproxy(tmp_path, options + " " + server) as front, httpx.Client() as client:
        for _ in range(20):
            about = client.get(f"http://127.0.0.1:{front.port}/about").json()
            assert about["version"] == "2"
            assert about["forwarded"] == "127.0.0.1"
            assert about["host"] == f"127.0.0.1:{front.port}"
        body = bytes(500_000)
        url = f"http://127.0.0.1:{front.port}/echo"
        assert client.post(url, content=body).content == body


@pytest.mark.tools
def test_nginx_speaks_it_to_the_server(plain: Site, tmp_path: Path) -> None:
    """As it does to gRPC servers."""
    with grpc_nginx(tmp_path, plain.port) as front:
        done = curl("--http2-prior-knowledge", f"http://127.0.0.1:{front.port}/about")
        assert json.loads(done.stdout)["version"] == "2", done


@pytest.mark.tools
@pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the path")
def test_chromium_loads_a_page(secure: Secure, tmp_path: Path) -> None:
    with browser(tmp_path, "--ignore-certificate-errors") as chromium:
        page = chromium.open(secure.url(""))
        page.wait_for("window.done === true")
        assert page.run("window.echoed") is True
        assert page.run("window.versions.join()") == ",".join(["2"] * COUNT)
        assert page.run("[...new Set(window.protocols)].join()") == "h2"
