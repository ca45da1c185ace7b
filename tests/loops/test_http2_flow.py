"""HTTP/2's windows and the application's backpressure: each holds up its own stream only."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import h2.events
import h2.settings
import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.errors import ClientDisconnected
from tests.support.apps import answer
from tests.support.http2 import Http2Client, http2_client
from tests.support.server import Site, serving
from tests.support.waiting import wait_until

MIB = 1024 * 1024
WINDOW = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE


class Application:
    """Does as its path says, and what it has seen."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.read_bytes = 0
        self.goes_on = threading.Event()
        self.errors: list[BaseException] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        name, _, argument = scope["path"].strip("/").partition("/")
        await getattr(self, name)(argument, receive, send)

    async def small(self, argument: str, receive: Receive, send: Send) -> None:
        await answer(send, b"small")

    async def large(self, argument: str, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * int(argument))

    async def stream(self, argument: str, receive: Receive, send: Send) -> None:
        """So many times 1 KiB."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(int(argument)):
                await send({"type": "http.response.body", "body": bytes(1024), "more_body": True})
                self.sent_bytes += 1024
            await send({"type": "http.response.body", "body": b""})
        except ClientDisconnected as error:
            self.errors.append(error)
            raise

    async def late(self, argument: str, receive: Receive, send: Send) -> None:
        """Reads only when it is told to."""
        while not self.goes_on.is_set():
            await asyncio.sleep(0.005)  # another thread sets it
        while (message := await receive())["type"] == "http.request":
            self.read_bytes += len(message["body"])
            if not message["more_body"]:
                break
        await answer(send, b"%d" % self.read_bytes)

    async def end(self, argument: str, receive: Receive, send: Send) -> None:
        """The end of a response on its own, when it is told to."""
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": bytes(500), "more_body": True})
        while not self.goes_on.is_set():
            await asyncio.sleep(0.005)  # another thread sets it
        await send({"type": "http.response.body", "body": b""})


def _window(client: Http2Client, size: int) -> None:
    """Of streams: what the client takes before it says more."""
    client.h2.update_settings({WINDOW: size})
    client.flush()
    client.wait(h2.events.SettingsAcknowledged)


def _upload(client: Http2Client, stream: int, most: int) -> int:
    """Send as much as there is room for, `most` at most; how much that was."""
    sent = 0
    while sent < most and (room := client.h2.local_flow_control_window(stream)) > 0:
        size = min(room, 16384, most - sent)
        client.h2.send_data(stream, bytes(size))
        client.flush()
        sent += size
    return sent


def _alive(client: Http2Client) -> None:
    """The connection serves others."""
    assert client.response(client.request("/small"))[2] == b"small"


def test_an_application_that_does_not_read_stops_its_own_stream() -> None:
    app = Application()
    with serving(app) as site, http2_client(site.port) as client:
        _alive(client)
        stream = client.request("/late", "POST", ends=False)
        sent = _upload(client, stream, MIB)
        while True:  # until nothing more is credited for what was sent
            _alive(client)
            more = _upload(client, stream, MIB)
            if not more:
                break
            sent += more
        assert sent < MIB  # the window, and what is handed to the application
        assert client.h2.local_flow_control_window(stream) <= 0
        assert client.h2.outbound_flow_control_window > 0
        _alive(client)
        app.goes_on.set()
        rest = 2 * MIB - sent
        while rest:
            rest -= _upload(client, stream, rest)
            if rest:
                client.read()
        client.h2.end_stream(stream)
        client.flush()
        assert client.response(stream)[2] == b"%d" % (2 * MIB)


def test_a_client_that_does_not_open_its_window_holds_its_own_application() -> None:
    app = Application()
    with serving(app) as site, http2_client(site.port, opens_windows=False) as client:
        client.h2.increment_flow_control_window(MIB)
        stream = client.request("/stream/1024")
        client.until(lambda: len(client.body(stream)) == 65535, "the window is full")
        for _ in range(3):
            _alive(client)
        assert len(client.body(stream)) == 65535
        assert app.sent_bytes < 65535 + 65536 + 2048
        client.opens_windows = True
        client.h2.increment_flow_control_window(MIB, stream)
        client.flush()
        client.wait(h2.events.StreamEnded, stream)
        assert len(client.body(stream)) == MIB


def test_a_stream_whose_window_stays_shut_is_reset_alone() -> None:
    app = Application()
    with (
        serving(app, timeout_write=0.3) as site,
        http2_client(site.port, opens_windows=False) as client,
    ):
        client.h2.increment_flow_control_window(MIB)
        stream = client.request("/stream/1024")
        assert client.wait(h2.events.StreamReset, stream).error_code == 8  # CANCEL
        wait_until(lambda: len(app.errors) == 1)
        _alive(client)


@pytest.mark.parametrize("size", [1, 100])
def test_small_windows(size: int) -> None:
    with serving(Application()) as site, http2_client(site.port) as client:
        _window(client, size)
        stream = client.request("/large/300")
        assert client.response(stream)[2] == b"x" * 300
        parts = client.of(h2.events.DataReceived, stream)
        assert max(len(part.data) for part in parts) <= size


def test_a_window_that_becomes_smaller_in_the_middle() -> None:
    with serving(Application()) as site, http2_client(site.port, opens_windows=False) as client:
        stream = client.request("/large/100000")
        client.until(lambda: len(client.body(stream)) == 65535, "the window is full")
        client.h2.increment_flow_control_window(MIB)
        _window(client, 1000)  # now the stream's is 64535 below zero
        client.h2.increment_flow_control_window(64535, stream)  # nothing
        client.flush()
        _alive(client)
        assert len(client.body(stream)) == 65535
        client.h2.increment_flow_control_window(10, stream)
        client.flush()
        client.until(lambda: len(client.body(stream)) == 65545, "what was opened")
        _alive(client)
        client.opens_windows = True
        _window_again(client, 65535)
        assert len(client.response(stream)[2]) == 100000


def _window_again(client: Http2Client, size: int) -> None:
    client.h2.update_settings({WINDOW: size})
    client.flush()
    client.until(
        lambda: len(client.of(h2.events.SettingsAcknowledged)) == 2, "acknowledged a second time"
    )


def test_an_end_is_said_to_a_window_without_room() -> None:
    """END_STREAM alone takes no window."""
    app = Application()
    with serving(app) as site, http2_client(site.port, opens_windows=False) as client:
        _window(client, 500)
        stream = client.request("/end")
        client.until(lambda: len(client.body(stream)) == 500, "the first part")
        app.goes_on.set()
        assert client.response(stream)[2] == bytes(500)


def test_a_small_window_of_the_connection_starves_no_stream() -> None:
    """Four streams take it all each time that it opens: then it is the others' turn."""
    with serving(Application()) as site, http2_client(site.port, opens_windows=False) as client:
        _window(client, MIB)
        streams = [client.request("/large/200000") for _ in range(12)]
        for _ in range(20):
            client.until(lambda: not client.h2.inbound_flow_control_window, "the window is full")
            client.h2.increment_flow_control_window(65535)
            client.flush()
        sizes = [len(client.body(stream)) for stream in streams]
        assert min(sizes) > 65535, sizes


def test_padding_is_credited() -> None:
    """Of padding alone a window must not run out."""
    app = Application()
    app.goes_on.set()
    with serving(app) as site, http2_client(site.port) as client:
        stream = client.request("/late", "POST", ends=False)
        padded = 0
        while padded < 400_000:
            if client.h2.local_flow_control_window(stream) > 300:
                client.h2.send_data(stream, b"abcd", pad_length=200)
                client.flush()
                padded += 205
            else:
                client.read()
        client.h2.end_stream(stream)
        client.flush()
        assert client.response(stream)[2] == b"%d" % (4 * -(-400_000 // 205))


def _ask_on(client: Http2Client) -> None:
    for _ in range(100_000):
        client.request("/", "HEAD", [("x-much", "y" * 8000)])


@pytest.mark.long
def test_answers_to_a_peer_that_does_not_read_have_a_bound() -> None:
    """Heads have no window. Beyond what waits for it, nothing more is taken of the peer."""
    answered = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal answered
        if scope["type"] != "http":
            return
        answered += 1
        headers = [(b"x-%d" % answered, b"v" * 4000)]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    with serving(app, timeout_write=None) as site:
        with http2_client(site.port, receive_buffer=4096) as client:
            client.socket.settimeout(0.5)
            with pytest.raises(TimeoutError):  # it is not read any more
                _ask_on(client)
            assert unsent(site) < 3 * MIB
            client.socket.settimeout(30)
            seen = len(client.of(h2.events.StreamEnded))
            while len(client.of(h2.events.StreamEnded)) <= seen + 100:  # it goes on again
                # without an answer, which would wait for the server, that waits for us
                client.events += client.h2.receive_data(client.socket.recv(65536))


def unsent(site: Site) -> int:
    """Bytes in the transport of the one connection."""
    serving = site.server._serving
    assert serving is not None
    (connection,) = (each for loop in serving.loop_servers for each in loop.state.connections)
    size: int = connection._transport.get_write_buffer_size()  # type: ignore[attr-defined]
    return size
