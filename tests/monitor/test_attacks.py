"""Clients that mean harm to the monitor's port: others are answered meanwhile, and memory and
descriptors have their limits.
"""

from __future__ import annotations

import contextlib

from asgi_poller.monitor.monitor import CONNECTIONS_COUNT
from tests.monitor.sources import answering, monitor, snapshot
from tests.support.client import Client, get, handshake, read_to_end, send_all
from tests.support.processes import open_descriptors
from tests.support.server import Served

HEALTH = get("/healthz", "Connection: close", host="localhost")


def is_answered(port: Served) -> bool:
    return port.ask(HEALTH).startswith(b"HTTP/1.1 200 ")


def test_a_crowd_that_says_nothing_keeps_nobody_out() -> None:
    with monitor(answering(snapshot())) as port, contextlib.ExitStack() as stack:
        before = open_descriptors()
        crowd = []
        for _ in range(3 * CONNECTIONS_COUNT):
            crowd.append(stack.enter_context(port.connect()))
            crowd[-1].sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX")
        assert is_answered(port)
        ours = open_descriptors() - before - len(crowd)
        assert ours <= CONNECTIONS_COUNT + 1, "each connection beyond the limit ends another one"
        for client in crowd[:CONNECTIONS_COUNT]:
            assert read_to_end(client) == b"", "the oldest went first"
        last = crowd[-1]
        last.sendall(b": y\r\nConnection: close\r\n\r\n")
        assert read_to_end(last).startswith(b"HTTP/1.1 200 "), "the newest is served"


def test_those_who_ask_and_do_not_read_are_kept_from_asking_on() -> None:
    with monitor(answering(snapshot())) as port:
        ask = get("/metrics", host="localhost")
        with port.connect(receive_buffer=4096) as client:
            sent = client.send_until_stuck(ask * 100, limit=16 * 1024 * 1024)
            assert sent < 16 * 1024 * 1024
            assert is_answered(port)


def test_a_head_that_is_too_large_is_refused() -> None:
    with monitor(answering(snapshot())) as port:
        for fields in (
            [f"X-{number}: {'y' * 1000}" for number in range(40)],
            ["X: " + "y" * 40000],
        ):
            assert port.ask(get("/metrics", *fields, host="localhost")).startswith(b"HTTP/1.1 431 ")
        assert port.ask(get("/" + "y" * 40000)).startswith(b"HTTP/1.1 414 ")
        assert is_answered(port)


def test_a_body_is_not_waited_for() -> None:
    head = get("/metrics", "Content-Length: 1000000000", host="localhost", method="POST")
    with monitor(answering(snapshot())) as port, port.connect() as client:
        send_all(client, head)
        answer = client.response()
        assert answer.status in (405, 413)
        assert answer.header("connection") == "close"


def test_garbage_is_refused_and_silence_ends() -> None:
    with monitor(answering(snapshot())) as port:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\0" * 100,
            b"HELO\r\n\r\n",
        ):
            assert port.ask(garbage).startswith(b"HTTP/1.1 400 ")
        with port.connect() as silent:
            assert read_to_end(silent) == b"", "after five seconds"
        assert is_answered(port)


def test_a_websocket_is_shown_to_the_same_who_may_see_the_page() -> None:
    with monitor(answering(snapshot()), metrics_token="s3cret") as port:
        for headers in ((), ("Authorization: Bearer wrong",)):
            with port.connect() as client:
                client.sendall(handshake(*headers, path="/live", host="localhost"))
                assert client.response().status in (401, 404)


def test_many_who_leave_in_the_middle_leave_nothing() -> None:
    with monitor(answering(snapshot())) as port:
        assert is_answered(port)
        before = open_descriptors()
        for number in range(200):
            client: Client = port.connect()
            send_all(client, get("/metrics", host="localhost")[: number + 1])
            client.reset()
        assert is_answered(port)
        assert open_descriptors() <= before + 1
