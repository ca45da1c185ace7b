"""Real clients: websockets, aiohttp, picows, httpx and curl, each over both event loops."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import trustme
import websockets.sync.client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from tests.support.server import Site, serving
from tests.support.waiting import run


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes, over HTTP and WebSockets, and says what it was asked for."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await converse(scope, receive, send)
        return
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(pieces)
    if scope["path"] == "/about":
        about = {
            "method": scope["method"],
            "version": scope["http_version"],
            "scheme": scope["scheme"],
            "query": scope["query_string"].decode(),
            "bytes": len(body),
        }
        body = json.dumps(about).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
    if scope["path"] == "/stream":
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"x" * 5000, "more_body": True})
            await asyncio.sleep(0)
        body = b"end"
    await send({"type": "http.response.body", "body": body})


async def converse(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if scope["path"] == "/no":
        await send({"type": "websocket.close"})
        return
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "close, please":
            await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
            return
        answer: Message = {**message, "type": "websocket.send"}
        await send(answer)


@pytest.fixture(scope="module")
def site(loop: str) -> Iterator[Site]:
    with serving(application, loop=loop) as site:
        yield site


@pytest.fixture(params=["off", "on", "takeover"])
def compressing(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(application, ws_per_message_deflate=request.param) as site:
        yield site


MESSAGES: list[str | bytes] = ["", b"", "é" * 500, bytes(range(256)) * 1000, "x", "y" * 70_000]


# websockets


async def test_websockets(compressing: Site) -> None:
    async with connect(compressing.url(scheme="ws"), max_size=None) as client:
        for message in MESSAGES * 2:
            await client.send(message)
            assert await client.recv() == message
        await client.send(["in ", "three ", "pieces"])
        assert await client.recv() == "in three pieces"
        await (await client.ping())
        for number in range(500):  # many in flight
            await client.send(str(number))
        assert [await client.recv() for _ in range(500)] == [str(n) for n in range(500)]


async def test_websockets_closes(site: Site) -> None:
    async with connect(site.url(scheme="ws"), subprotocols=["v1", "v2"]) as client:  # type: ignore[list-item]  # Subprotocol is a NewType of str
        assert client.subprotocol == "v1"
        await client.send("close, please")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
    with pytest.raises(InvalidStatus) as refused:
        await connect(site.url("/no", scheme="ws"))
    assert refused.value.response.status_code == 403


def test_websockets_sync(site: Site) -> None:
    with websockets.sync.client.connect(site.url(scheme="ws")) as client:
        for message in MESSAGES:
            client.send(message)
            assert client.recv() == message


# aiohttp


async def test_aiohttp(compressing: Site) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(
            compressing.url(), compress=15, autoping=True, max_msg_size=0
        ) as client:
            for message in MESSAGES * 2:
                if isinstance(message, str):
                    await client.send_str(message)
                    assert await client.receive_str() == message
                else:
                    await client.send_bytes(message)
                    assert await client.receive_bytes() == message
            await client.close(code=4000, message=b"bye")
            assert client.close_code == 4000
        async with session.post(compressing.url("/about"), json={"a": 1}) as response:
            assert (await response.json(content_type=None))["bytes"] == 8
        async with session.get(compressing.url("/stream")) as response:
            assert await response.read() == b"x" * 100_000 + b"end"


# picows


async def test_picows(site: Site) -> None:
    picows: Any = pytest.importorskip("picows")
    sizes = (0, 10, 200, 70_000)
    answers: list[bytes] = []
    done = asyncio.get_running_loop().create_future()

    def connected(listener: Any, transport: Any) -> None:
        for size in sizes:
            transport.send(picows.WSMsgType.BINARY, b"x" * size)

    def received(listener: Any, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.BINARY:
            answers.append(frame.get_payload_as_bytes())
            if len(answers) == len(sizes):
                transport.send_close(picows.WSCloseCode.OK)

    def disconnected(listener: Any, transport: Any) -> None:
        done.set_result(None)

    methods = {
        "on_ws_connected": connected,
        "on_ws_frame": received,
        "on_ws_disconnected": disconnected,
    }
    await picows.ws_connect(type("Listener", (picows.WSListener,), methods), site.url(scheme="ws"))
    await done
    assert answers == [b"x" * size for size in sizes]


# httpx


def test_httpx(site: Site) -> None:
    with httpx.Client(base_url=site.url()) as client:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            content = b"" if method == "GET" else b"body"
            about = client.request(method, "/about", params={"q": "é"}, content=content).json()
            assert about["method"] == method
            assert about["query"] == "q=%C3%A9"
            assert about["bytes"] == len(content)
        assert client.head("/about").content == b""
        chunked = client.post("/echo", content=(b"piece %d " % number for number in range(5)))
        assert chunked.content == b"piece 0 piece 1 piece 2 piece 3 piece 4 "
        with client.stream("GET", "/stream") as response:
            assert b"".join(response.iter_bytes()) == b"x" * 100_000 + b"end"
        large = bytes(5_000_000)
        assert client.post("/echo", content=large).content == large


async def test_httpx_side_by_side(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url(), timeout=20) as client:
        wanted = [b"%d" % number for number in range(100)]
        responses = await asyncio.gather(
            *(client.post("/echo", content=content) for content in wanted)
        )
        assert [response.content for response in responses] == wanted


# curl


def curl(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    return subprocess.run(
        [program, "--silent", "--show-error", "--max-time", "20", *arguments],
        capture_output=True,
        check=False,
        **options,
    )


@pytest.mark.tools
def test_curl(site: Site) -> None:
    about = json.loads(curl(site.url("/about?a=b")).stdout)
    assert about == {
        "method": "GET",
        "version": "1.1",
        "scheme": "http",
        "query": "a=b",
        "bytes": 0,
    }
    assert json.loads(curl("--http1.0", site.url("/about")).stdout)["version"] == "1.0"
    both = curl(site.url("/about"), site.url("/echo"), "--write-out", "%{num_connects}")
    assert both.stdout.endswith(b"0"), "the second request needs no connection of its own"
    assert b"x-a: b" in curl("--head", site.url("/echo")).stdout


@pytest.mark.tools
def test_curl_waits_for_continue(site: Site) -> None:
    body = bytes(3_000_000)
    done = curl("--verbose", "--data-binary", "@-", site.url("/echo"), input=body)
    assert done.stdout == body
    forced = curl("--verbose", "--header", "Expect: 100-continue", "--data", "a", site.url("/echo"))
    assert b"100 Continue" in forced.stderr
    assert forced.stdout == b"a"


@pytest.mark.tools
def test_curl_uploads_in_chunks(site: Site) -> None:
    done = curl("--upload-file", "-", site.url("/echo"), input=b"chunk " * 10_000)
    assert done.stdout == b"chunk " * 10_000


@pytest.mark.tools
def test_curl_offers_http2_and_gets_http1(site: Site) -> None:
    """--http2 on plain text is an Upgrade to h2c."""
    done = curl("--http2", "--data", "abc", site.url("/about"))
    if b"unsupported" in done.stderr.lower() or done.returncode == 1:
        pytest.skip("this curl knows no HTTP/2")
    assert json.loads(done.stdout)["bytes"] == 3


# TLS


def test_over_tls(loop: str, tmp_path: Any) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": tmp_path / "key.pem"}
    certificate.cert_chain_pems[0].write_to_path(str(files["ssl_certfile"]))
    certificate.private_key_pem.write_to_path(str(files["ssl_keyfile"]))
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def main(site: Site) -> None:
        async with httpx.AsyncClient(verify=context) as client:
            about = (await client.get(site.url("/about", "https"))).json()
            assert about["scheme"] == "https"
            large = bytes(2_000_000)
            echoed = await client.post(site.url("/echo", "https"), content=large)
            assert echoed.content == large
        async with connect(site.url(scheme="wss"), ssl=context) as socket:
            for message in MESSAGES:
                await socket.send(message)
                assert await socket.recv() == message

    with serving(
        application, loop=loop, **{name: str(path) for name, path in files.items()}
    ) as site:
        run(main(site))
