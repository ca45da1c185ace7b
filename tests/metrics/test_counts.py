"""Known traffic by real clients: what a running server shows is that, exactly."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.metrics.loop_counts import LoopValues
from tests.metrics.watching import closes, counting, loops_of, settled, snapshot
from tests.support.apps import accept, answer, converse, hold
from tests.support.client import GET, close_code, get
from tests.support.frames import BINARY, CLOSE, PING, TEXT, close, deflated, frame, inflated, text
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


LATE = threading.Event()  # when the application of `/late` begins to receive


class Gate:
    """An application whose `/block` holds its loop until the gate is open."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self.is_open = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await hold(receive, send)
            return
        if scope["path"] == "/block":
            self.is_reached.set()
            self.is_open.wait(DEADLINE_S)
        await answer(send, b"done")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes, but for these paths."""
    path = scope["path"]
    if scope["type"] == "http":
        await answer(send, b"", status=int(path[1:] or 200))
    elif path == "/flood":
        await accept(receive, send)
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})
    elif path == "/deny":
        await receive()
        await send({"type": "websocket.close"})
    elif path == "/denial":
        await receive()
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"not here"})
    elif path == "/raise":
        await accept(receive, send)
        raise RuntimeError("told to fail")
    elif path == "/late":
        await accept(receive, send)
        while not LATE.is_set():
            await asyncio.sleep(0.01)
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif path.startswith("/close"):
        await accept(receive, send)
        await send({"type": "websocket.close", "code": int(path[6:])})
    else:
        await converse(receive, send)


@pytest.fixture
def site() -> Iterator[Site]:
    with counting(app, ws_max_size=100_000, ws_per_message_deflate="off") as made:
        yield made


def frame_bytes(length: int, *, is_masked: bool = False) -> int:
    """A message of `length` bytes on the wire (RFC 6455, 5.2)."""
    return 2 + (0 if length < 126 else 2 if length < 65536 else 8) + 4 * is_masked + length


def test_messages_and_bytes_of_open_and_ended_websockets(site: Site) -> None:
    sizes = [0, 1, 125, 126, 65_535, 65_536]
    with site.websocket() as first, site.websocket() as second:
        for size in sizes:
            first.sendall(text("x" * size))
            assert first.frame()[:2] == (TEXT, b"x" * size)
        second.sendall(frame(BINARY, b"abc") * 3)
        for _ in range(3):
            assert second.frame()[:2] == (BINARY, b"abc")
        second.sendall(frame(PING, b"1234"))
        second.frame()
        total = settled(site).total
        assert (total.connections_open, total.websockets_open, total.requests_running) == (2, 2, 2)
        assert total.websockets_opened == total.adopted == 2
        assert total.messages_received == total.messages_sent == len(sizes) + 3
        assert total.bytes_sent == sum(map(frame_bytes, sizes)) + 3 * 5
        masked = sum(frame_bytes(size, is_masked=True) for size in sizes)
        assert total.bytes_received == masked + 3 * 9 + 10
        assert total.handshake.count == 2

        second.sendall(close(1000))
        assert close_code(second) == 1000
        wait_until(lambda: site.connections() == 1, "it has ended")
        after = settled(site).total
        assert (after.connections_open, after.websockets_open, after.requests_running) == (1, 1, 1)
        assert after.messages_sent == total.messages_sent
        assert after.bytes_received == total.bytes_received + len(close(1000))
    assert closes(after) == {("1000", "peer"): 1}


def test_what_an_application_takes_late_was_received(site: Site) -> None:
    LATE.clear()
    with site.websocket(path="/late") as client:
        client.sendall(text("hello") * 5 + close(1000))
        assert close_code(client) == 1000
    wait_until(lambda: site.connections() == 0, "it has ended")
    at = settled(site)
    assert (at.total.messages_received, at.total.requests_running) == (5, 1)
    LATE.set()
    wait_until(lambda: snapshot(site).total.requests_running == 0, "the application has had all")
    assert settled(site).total.messages_received == 5


def test_more_websockets_than_are_visited_in_a_turn(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.websocket()) for _ in range(1_100)]
        for client in clients:
            site.echo(client)
        wait_until(lambda: snapshot(site).total.messages_sent == 1_100, "all are counted")
        for client in clients[:600]:
            client.close()
        wait_until(lambda: site.connections() == 500, "they have ended")
        wait_until(lambda: snapshot(site).total.websockets_open == 500, "which is shown")
        assert settled(site).total.messages_sent == 1_100


@pytest.mark.parametrize(
    ("path", "sent", "counted"),
    [
        ("/", close(1001), ("1001", "peer")),
        ("/", close(4000), ("4xxx", "peer")),
        ("/", close(), ("1005", "peer")),
        ("/", None, ("1006", "peer")),
        ("/close1000", b"", ("1000", "application")),
        ("/close3999", b"", ("3xxx", "application")),
        ("/raise", b"", ("1011", "application")),
        ("/", text("x" * 100_001), ("1009", "server")),
        ("/", frame(TEXT, b"\xff"), ("1007", "server")),
        ("/", frame(3), ("1002", "server")),
    ],
)
def test_closes_by_code_and_by_whom(
    site: Site, path: str, sent: bytes | None, counted: tuple[str, str]
) -> None:
    with site.websocket(path=path) as client:
        if sent is None:
            client.reset()
        else:
            client.sendall(sent)
            assert client.frame().opcode == CLOSE
    wait_until(lambda: closes(snapshot(site).total) != {}, "it is counted")
    assert closes(settled(site).total) == {counted: 1}
    assert snapshot(site).total.websockets_open == 0


def test_a_drained_server_counts_its_closes_to_the_end() -> None:
    with counting(app) as site, site.websocket() as client:
        site.server.should_exit = True
        assert snapshot(site).state == "draining"
        assert close_code(client) == 1012
        client.sendall(close(1012))
        client.rest()
        site.wait_ended()
        total = snapshot(site).total  # the last that was published
        assert closes(total) == {("1012", "server"): 1}
        assert (total.connections_open, total.websockets_open, total.requests_running) == (0, 0, 0)
        assert [event.kind for event in snapshot(site).events] == ["started", "draining"]


def test_a_ping_that_nobody_answers() -> None:
    with counting(app, ws_ping_interval=0.3, ws_ping_timeout=0.3) as site:
        with site.websocket() as client:
            assert client.frame().opcode == PING
            assert close_code(client) == 1011
        total = settled(site).total
        assert (total.pings_sent, total.pings_unanswered) == (1, 1)
        assert closes(total) == {("1011", "server"): 1}


def test_a_slow_consumer(site: Site) -> None:
    with site.websocket(path="/flood", receive_buffer=4096):
        wait_until(lambda: snapshot(site).total.slow_consumers == 1, "it is behind")
        assert settled(site).total.slow_consumers == 1, "once for each time"


@pytest.mark.parametrize("ws", ["auto", "wsproto"])
def test_what_compression_saves(ws: str) -> None:
    message = b"the same again " * 4_000
    short = b"once more " * 50
    options: dict[str, Any] = {"ws_per_message_deflate": "on", "ws": ws}
    with counting(app, **options) as site, site.websocket(DEFLATE) as client:
        client.sendall(frame(TEXT, deflated(message), rsv=4))
        answered = client.frame()
        assert inflated(answered.payload) == message
        half = deflated(short)
        client.sendall(frame(BINARY, half[:5], rsv=4, fin=False) + frame(0, half[5:]))
        again = client.frame()
        client.sendall(text("plain"))  # below --ws-deflate-threshold, and not compressed
        client.frame()
        total = settled(site).total
        assert total.inflated_bytes == len(deflated(message)) + len(half)
        made = len(message) + len(short)
        # what the sender cut off each message adds nothing
        assert total.raw_bytes_inflated == total.raw_bytes_deflated == made
        assert total.deflated_bytes == len(answered.payload) + len(again.payload)


def test_responses_by_class_and_how_long_they_took(site: Site) -> None:
    for status in (200, 204, 302, 404, 503):
        site.ask(get(f"/{status}", "Connection: close"))
    for path, status in (("/deny", 403), ("/denial", 404)):
        with site.connect() as client:
            client.sendall(get(path, *_upgrade()))
            assert client.response().status == status
    total = settled(site).total
    assert total.responses == (2, 1, 3, 1)
    assert total.websockets_denied == 2
    assert total.request.count >= 5
    assert total.handshake.count == 0


def _upgrade() -> list[str]:
    return [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]


def test_a_websocket_behind_a_request_waited_for_nobody(site: Site) -> None:
    """The time from accept() to 101 is that of connections which begin with the handshake."""
    with site.connect() as client:
        client.sendall(GET)
        assert client.response().status == 200
        client.sendall(get("/", *_upgrade()))
        assert client.response(has_body=False).status == 101
        total = settled(site).total
        assert (total.websockets_opened, total.handshake.count) == (1, 0)


@pytest.mark.parametrize("options", [{"direct_handshake": True}, {"limit_accept_rate": 1000.0}])
def test_the_time_of_accept_comes_along_on_every_way(options: dict[str, Any]) -> None:
    with counting(app, **options) as site, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(site.websocket())
        shown = settled(site)
        assert shown.total.handshake.count == 5
        assert sum(poller.hand_over.count for poller in shown.pollers) == 5
        assert shown.total.handshake.sum_us >= sum(
            poller.hand_over.sum_us for poller in shown.pollers
        )


def test_a_thousand_connections_over_four_loops() -> None:
    with counting(app, loops=4) as site, contextlib.ExitStack() as stack:
        for _ in range(1_000):
            stack.enter_context(site.connect())
        wait_until(lambda: site.connections() == 1_000, "all are adopted")
        shown = settled(site)
        (worker,) = shown.workers
        at = site.server._serving
        assert at is not None
        real = [len(server.state.connections) for server in at.loop_servers]
        assert [loop.values.connections_open for loop in worker.loops] == real
        assert [loop.assigned for loop in worker.loops] == real
        assert max(real) - min(real) <= 1
        assert shown.total.adopted == sum(each.accepted for each in shown.pollers) == 1_000
        # a loop that was late gave some back, which were handed over once more
        again = sum(loop.taken_back for loop in worker.loops)
        assert sum(each.hand_over.count for each in shown.pollers) == 1_000 + again
        batches = [
            sum(each) for each in zip(*(each.batches for each in shown.pollers), strict=True)
        ]
        least = sum(count * (2 ** (at - 1) + 1 if at else 1) for at, count in enumerate(batches))
        most = sum(count * 2**at for at, count in enumerate(batches))
        assert least <= 1_000 <= most


def test_a_blocked_loop_shows_its_lag_and_what_was_taken_from_it() -> None:
    gate = Gate()
    with counting(gate, loops=2) as site, contextlib.ExitStack() as stack:
        stack.callback(gate.is_open.set)
        blocker = stack.enter_context(site.connect())
        blocker.sendall(get("/block"))
        assert gate.is_reached.wait(DEADLINE_S)
        for _ in range(10):
            stack.enter_context(site.websocket())
        wait_until(lambda: max(loop.silent_s for loop in loops_of(site)) > 1.0, "it is silent")
        blocked, other = sorted(loops_of(site), key=lambda loop: -loop.silent_s)
        assert other.silent_s == other.taken_back == 0
        assert blocked.taken_back > 0
        wait_until(lambda: loops_of(site)[other.index].values.websockets_open == 10, "all are here")
        gate.is_open.set()
        assert blocker.response().body == b"done"
        wait_until(lambda: _longest_lag_us(loops_of(site)[blocked.index].values) > 500_000)
        assert _longest_lag_us(loops_of(site)[other.index].values) < 500_000
        assert loops_of(site)[blocked.index].silent_s == 0


def _longest_lag_us(values: LoopValues) -> int:
    """At least this: the sum, which many short ones do not make."""
    counts = values.lag.counts
    longest = max((at for at, count in enumerate(counts) if count), default=0)
    return values.lag.sum_us if longest >= 10 else 0


def test_without_the_option_nobody_publishes_or_looks_at_the_clock() -> None:
    with serving(app) as site, site.websocket() as client:
        site.echo(client)
        at = site.server._serving
        assert at is not None
        (server,) = at.loop_servers
        counts = server.state.counts
        assert not counts.is_timed
        assert counts.websockets_opened == 1
        assert counts.handshake.counts == counts.lag.counts == [0] * len(counts.lag.counts)
        assert loops_of(site) == ()
