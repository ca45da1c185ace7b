"""HTTP/2 streams that end before their end, also in the same read as what they said before."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.events
import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.errors import ClientDisconnected
from asgi_poller.protocols.http2.frames import (
    DATA,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    frame,
)
from tests.support.apps import answer
from tests.support.http2 import Field, Http2Client, http2_client
from tests.support.server import serving
from tests.support.waiting import wait_until

CANCEL = (8).to_bytes(4, "big")


class Application:
    """Does as its path says, and what it has seen."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await getattr(self, scope["path"].strip("/"))(receive, send)

    async def small(self, receive: Receive, send: Send) -> None:
        await answer(send, b"small")

    async def large(self, receive: Receive, send: Send) -> None:
        await answer(send, bytes(1_000_000))

    async def watch(self, receive: Receive, send: Send) -> None:
        """Receives until the client is gone, and says something then."""
        while (message := await receive())["type"] == "http.request":
            self.seen.append(message["body"])
        self.seen.append(message["type"])
        try:
            await answer(send, b"late")
        except ClientDisconnected:
            self.seen.append("raised")
            raise

    async def endless(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(9000), "more_body": True})
        except ClientDisconnected:
            self.seen.append("raised")
            raise

    async def fails(self, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async def breaks(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def early(self, receive: Receive, send: Send) -> None:
        await answer(send, b"early")


def _alive(client: Http2Client) -> None:
    assert client.response(client.request("/small"))[2] == b"small"


def _head(client: Http2Client, path: str, method: str = "GET") -> tuple[int, bytes]:
    """A request's stream, and its HEADERS, not sent."""
    stream_id = client.h2.get_next_available_stream_id()
    fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
    client.h2.send_headers(stream_id, fields)
    return stream_id, client.h2.data_to_send()


@pytest.mark.parametrize("path", ["/small", "/large", "/watch", "bad path", "/fails"])
@pytest.mark.parametrize("more", [b"", b"rest"])
def test_a_request_and_its_reset_in_one_read(path: str, more: bytes) -> None:
    """h2 knows of the reset when the request is handled; it costs the stream alone."""
    with serving(Application()) as site, http2_client(site.port) as client:
        _alive(client)
        data = b""
        for _ in range(5):
            stream_id, head = _head(client, path)
            body = frame(DATA, 0, stream_id, more) if more else b""
            data += head + body + frame(RST_STREAM, 0, stream_id, CANCEL)
        client.socket.sendall(data)
        _alive(client)


def test_a_window_that_opens_and_a_reset_in_one_read() -> None:
    app = Application()
    with serving(app) as site, http2_client(site.port, opens_windows=False) as client:
        stream = client.request("/endless")
        client.until(lambda: len(client.body(stream)) == 65535, "the window is full")
        client.h2.increment_flow_control_window(100_000)
        client.h2.increment_flow_control_window(100_000, stream)
        client.socket.sendall(client.h2.data_to_send() + frame(RST_STREAM, 0, stream, CANCEL))
        _alive(client)
        wait_until(lambda: app.seen == ["raised"])


def test_a_client_that_resets_is_seen_by_the_application() -> None:
    app = Application()
    with serving(app) as site, http2_client(site.port) as client:
        stream = client.request("/watch", "POST", body=b"some", ends=False)
        wait_until(lambda: b"some" in app.seen)
        client.h2.reset_stream(stream, 8)
        client.flush()
        wait_until(lambda: app.seen[-2:] == ["http.disconnect", "raised"])
        _alive(client)


def test_a_client_that_goes_is_seen_by_all_its_streams() -> None:
    app = Application()
    with serving(app) as site, http2_client(site.port) as client:
        for _ in range(5):
            client.request("/watch", "POST", body=b"x", ends=False)
        wait_until(lambda: app.seen.count(b"x") == 5)
        client.socket.close()
        wait_until(lambda: app.seen.count("raised") == 5)


def test_an_application_that_fails_before_its_answer() -> None:
    with serving(Application()) as site, http2_client(site.port) as client:
        status, _, body = client.response(client.request("/fails"))
        assert (status, body) == (500, b"Internal Server Error")
        _alive(client)


def test_an_application_that_fails_within_its_answer() -> None:
    with serving(Application()) as site, http2_client(site.port) as client:
        stream = client.request("/breaks")
        assert client.wait(h2.events.StreamReset, stream).error_code == 2  # INTERNAL_ERROR
        assert client.body(stream) == b"part"
        _alive(client)


def test_the_rest_of_an_answered_request_is_not_wanted() -> None:
    """RFC 9113, 8.1; and that many such answers are no fault of the client's."""
    with serving(Application()) as site, http2_client(site.port) as client:
        for _ in range(300):
            stream = client.request("/early", "POST", body=b"begun", ends=False)
            status, _, body = client.response(stream)
            assert (status, body) == (200, b"early")
            assert client.wait(h2.events.StreamReset, stream).error_code == 0  # NO_ERROR
        _alive(client)


def test_beyond_the_limit_streams_are_refused() -> None:
    app = Application()
    with (
        serving(app, http2_max_concurrent_streams=5) as site,
        http2_client(site.port) as client,
    ):
        # before the client has heard of the limit
        streams = [client.request("/watch", "POST", body=b"x", ends=False) for _ in range(8)]
        for stream in streams[5:]:
            assert client.wait(h2.events.StreamReset, stream).error_code == 7  # REFUSED_STREAM
        wait_until(lambda: app.seen == [b"x"] * 5)
        client.h2.reset_stream(streams[0], 8)
        client.flush()
        _alive(client)
        assert client.h2.remote_settings.max_concurrent_streams == 5


@pytest.mark.parametrize(
    "first",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(SETTINGS, 1, 0, b""),
        frame(HEADERS, 5, 1, b"\x82\x84\x86\x41\x01a"),
    ],
)
def test_the_first_frame_is_settings(first: bytes) -> None:
    """RFC 9113, 3.4."""
    with serving(Application()) as site, site.connect() as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + first)
        data = raw.rest()
        assert data[-len(b"the first frame is no SETTINGS") :] == b"the first frame is no SETTINGS"


def test_what_came_before_a_fault_does_not_trip_over_it() -> None:
    """A request is taken, and then the connection ends: its answer goes nowhere, without a word."""
    app = Application()
    with serving(app) as site, http2_client(site.port) as client:
        _alive(client)
        _, head = _head(client, "/watch")
        bad: Any = frame(DATA, 0, 0, b"x")
        goaway = frame(7, 0, 0, bytes(8))
        client.socket.sendall(head + goaway + bad)
        assert client.end_code() == 1  # PROTOCOL_ERROR
        wait_until(lambda: app.seen == ["http.disconnect", "raised"] or app.seen == [])
    with serving(app) as site, http2_client(site.port) as client:
        _alive(client)


LENGTHS: dict[str, tuple[list[Field], bytes, int | None]] = {
    "shorter": ([("content-length", "5")], b"body", None),
    "longer": ([("content-length", "3")], b"body", None),
    "none at all": ([("content-length", "3")], b"", None),
    "with a sign": ([("content-length", "+4")], b"body", 400),
    "empty": ([("content-length", "")], b"body", 400),
    "two that differ": ([("content-length", "4"), ("content-length", "5")], b"body", 400),
    "the same twice": ([("content-length", "4"), ("content-length", "4")], b"body", 400),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_wrong_length_costs_its_stream_alone(name: str) -> None:
    """RFC 9113, 8.1.1; behind a proxy the others on the connection are other people's."""
    fields, body, status = LENGTHS[name]
    with serving(Application()) as site, http2_client(site.port) as client:
        client.h2.config.validate_outbound_headers = False
        stream = client.request("/watch", "POST", fields, body)
        if status is None:
            assert client.wait(h2.events.StreamReset, stream).error_code == 1  # PROTOCOL_ERROR
        else:
            assert client.status(stream) == status
        _alive(client)
