"""HTTP/2 as a client sees it: requests, streams, windows, the end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.http2 import http2_client
from tests.support.server import serving


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it got."""
    assert scope["type"] == "http"
    assert scope["http_version"] == "2"
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    headers = [(b"X-Path", scope["raw_path"]), (b"connection", b"keep-alive")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body or b"hello"})


def test_requests_on_one_connection() -> None:
    with serving(echo) as site, http2_client(site.port) as client:
        streams = [client.request(f"/{number}") for number in range(20)]
        streams.append(client.request("/post", "POST", body=b"x" * 1000))
        for number, stream in enumerate(streams[:-1]):
            status, fields, body = client.response(stream)
            assert (status, fields["x-path"], body) == (200, f"/{number}", b"hello")
            assert fields["content-length"] == "5"
            assert fields["server"] == "asgi-poller"
            assert "date" in fields
            assert "connection" not in fields
        assert client.response(streams[-1])[2] == b"x" * 1000


def test_a_large_body_both_ways() -> None:
    with serving(echo) as site, http2_client(site.port) as client:
        stream = client.request("/", "POST", ends=False)
        left = 3_000_000
        while left:
            room = min(client.h2.local_flow_control_window(stream), 16384, left)
            if room:
                client.h2.send_data(stream, b"y" * room, end_stream=left == room)
                client.flush()
                left -= room
            else:
                client.read()
        assert client.response(stream)[2] == b"y" * 3_000_000


@pytest.mark.parametrize("body", [None, b"hello"])
def test_a_bad_request_costs_its_stream_alone(body: bytes | None) -> None:
    with serving(echo) as site, http2_client(site.port) as client:
        method = "GET" if body is None else "POST"
        for _ in range(3):
            stream = client.request("/a b", method, body=body)
            assert client.status(stream) == 400
        stream = client.request("/", "POST", body=b"well")
        assert client.response(stream)[2] == b"well"
