"""Echo, fan-out and hold: what is counted is what came, however cut up; wrong echoes are seen."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_poller.storm.fleet import Fleet, Outcome
from asgi_poller.storm.plan import made_payload
from asgi_poller.storm.summary import document, rows
from tests.storm import servers
from tests.storm.runs import causes, check_balance, plan_for, run
from tests.support.client import read_head
from tests.support.processes import ROOT
from tests.support.waiting import in_threads

SHORT: dict[str, Any] = {"warmup_s": 0.1, "duration_s": 0.4, "connections": 10}


def echoed_by(behave: servers.Behaviour, **more: Any) -> dict[str, Any]:
    """A short run of echoes against a server that behaves like this once a channel is open."""
    with servers.behaving(servers.opening(behave)) as port:
        return run(port, mode="echo", payload=b"hello", **more, **SHORT)


@pytest.fixture(scope="module")
def real_server() -> Iterator[int]:
    """The port of a real server, an echo application on it."""
    # Somebody else's server where there is one; both know these options.
    name = "uvicorn" if importlib.util.find_spec("uvicorn") else "asgi_poller"
    command = [sys.executable, "-m", name, "tests.support.apps:echo", "--app-dir", str(ROOT)]
    command += ["--port", "0", "--lifespan", "off", "--ws-ping-interval", "0.1", "--no-use-colors"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(int(m[1]) for line in lines if (m := re.search(r"127.0.0.1:(\d+)\b", line)))
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield port
        finally:
            process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("payload_bytes", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("in_flight", [1, 16])
def test_echo_with_a_real_server(real_server: int, payload_bytes: int, in_flight: int) -> None:
    """Every length class of frames (RFC 6455, 5.2), with the server's pings in between."""
    found = run(
        real_server, mode="echo", payload=made_payload(payload_bytes), in_flight=in_flight, **SHORT
    )
    assert found["lost"]["total"] == 0
    assert found["messages"]["measured"] == found["round_trip_ms"]["count"] > 0
    assert found["messages"]["per_s"] > 0


@pytest.mark.parametrize("text", [True, False])
def test_echo_with_deflate(real_server: int, text: bool) -> None:
    """Compressed both ways where the server agrees."""
    payload = b'{"a": [1, 2, 3], "b": "a longer text, a longer text"}' * 11
    found = run(
        real_server, mode="echo", payload=payload, text=text, deflate=True, in_flight=4, **SHORT
    )
    assert found["deflate_channels"] == found["opened"] == 10
    assert found["lost"]["total"] == 0
    assert found["messages"]["measured"] > 0


def test_touch(real_server: int) -> None:
    """Every held channel sends one message and gets one."""
    found = run(real_server, mode="hold", payload=b"hello", touch=True, processes=2, **SHORT)
    assert found["messages"]["per_channel"] == {"1": 10}


def test_server_usage_is_measured(real_server: int) -> None:
    """CPU and memory of a given process tree, by phase."""
    plan = plan_for(real_server, mode="echo", payload=b"hello", **SHORT)
    found = document(Fleet(plan, server_pids=(os.getpid(),)).run())
    assert found["server"]["cpu_s"].keys() == {"opening", "warm-up", "measuring"}
    assert found["server"]["memory_octets"]["measuring"] > 1 << 20
    assert "server CPU per message" in dict(rows(found))


def test_echoes_cut_at_every_octet() -> None:
    """An echo that comes in pieces is one message; pings between the pieces are answered."""
    pongs: list[bytes] = []

    def behave(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            first, payload = servers.read_frame(sock)
            if not first:
                return
            if first == 0x8A:
                pongs.append(payload)
                continue
            for byte in servers.frame(0x89, b"are you there") + servers.frame(first, payload):
                sock.send(bytes((byte,)))

    found = echoed_by(behave, in_flight=3)
    assert found["lost"]["total"] == 0
    assert found["messages"]["measured"] > 0
    assert set(pongs) == {b"are you there"}


def test_fragmented_echoes() -> None:
    """Two frames to a message are one message (RFC 6455, 5.4)."""

    def behave(sock: socket.socket) -> None:
        while (received := servers.read_frame(sock))[0]:
            first, payload = received
            sock.sendall(servers.frame(first & 15, payload[:2]) + servers.frame(0x80, payload[2:]))

    found = echoed_by(behave, in_flight=3)
    # The two frames are two bytes longer than one: nothing may be divided by its length.
    assert found["messages"]["measured"] == found["round_trip_ms"]["count"] > 0
    assert found["lost"]["total"] == 0


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"\x81\x05HELLO", "the message received is not the one sent"),
        (b"\x81\x85abcdhello", "a masked frame from the server (RFC 6455, 5.1)"),
        (b"\x80\x05hello", "a data frame out of order (RFC 6455, 5.4)"),
        (b"\x83\x05hello", "a data frame out of order (RFC 6455, 5.4)"),
        (b"\x09\x00", "a malformed control frame (RFC 6455, 5.5)"),
        (b"\xc1\x05\xff\xff\xff\xff\xff", "the message received is not the one sent"),
    ],
)
def test_wrong_echoes_are_seen(answer: bytes, detail: str) -> None:
    """A server that answers nonsense loses its channels; nothing of it is counted as an echo."""

    def behave(sock: socket.socket) -> None:
        servers.read_frame(sock)
        sock.sendall(answer)
        servers.silent(sock)

    found = echoed_by(behave)
    assert found["opened"] == 10
    assert found["lost"] == {"total": 10, "protocol": 10}
    assert found["details"] == {f"protocol: {detail}": 10}
    assert found["messages"]["measured"] == 0


def test_a_peer_that_reads_slowly_gets_every_octet() -> None:
    """Messages that the socket does not take at once are finished later, in order."""
    payload_bytes = 4 << 20

    def behave(sock: socket.socket) -> None:
        while (received := servers.read_frame(sock))[0]:
            sock.sendall(servers.frame(*received))

    with servers.behaving(servers.opening(behave)) as port:
        more = SHORT | {"connections": 2, "duration_s": 1.0}
        found = run(port, mode="echo", payload=made_payload(payload_bytes), in_flight=4, **more)
    assert found["lost"]["total"] == 0
    assert found["messages"]["received"] > 0


def test_fan_out() -> None:
    """One sends, all receive; a round ends when all have, also where a channel is lost."""
    server = FanServer()
    with server.serving() as port:
        found = run(port, mode="fan-out", payload=b"hello", **SHORT)
    messages = found["messages"]
    assert found["lost"] == {"total": 1, "close 1001": 1}
    assert messages["rounds"] > 0
    # A window begins and ends within a round.
    assert abs(messages["measured"] - 9 * messages["rounds"]) <= 9


def test_too_many_echoes_are_seen() -> None:
    """More answers than questions: the channel is lost."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(servers.frame(*servers.read_frame(sock)))
        sock.sendall(servers.frame(*servers.read_frame(sock)) * 3)
        servers.silent(sock)

    found = echoed_by(behave)
    assert found["lost"] == {"total": 10, "protocol": 10}
    assert found["details"] == {"protocol: more messages received than sent": 10}


class FanServer:
    """Sends what any channel sends to all, from one thread; closes one at the tenth message."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.stopped, self.stop = socket.socketpair()

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """The port, meanwhile."""
        with self.stopped, in_threads(FanServer.work, [self]), self.stop:
            yield self.listener.getsockname()[1]

    def work(self) -> None:
        channels: list[socket.socket] = []
        count = 0
        while True:
            ready = select.select([self.listener, self.stopped, *channels], [], [])[0]
            if self.stopped in ready:
                break
            for sock in ready:
                if sock is self.listener:
                    new = sock.accept()[0]
                    new.sendall(servers.accept_head(read_head(new)))
                    channels.append(new)
                    continue
                try:
                    first, payload = servers.read_frame(sock)
                except ConnectionResetError:
                    first = 0  # the client went with bytes unread
                if not first or first & 15 == 8:
                    channels.remove(sock)
                    sock.close()
                    continue
                count += 1
                for channel in channels:
                    # a client that has gone is found when it is read from
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        channel.sendall(servers.frame(first, payload))
                if count == 10:
                    servers.closing(channels[-1])
        for sock in (*channels, self.listener):
            sock.close()


def test_a_client_process_that_dies_is_accounted_for() -> None:
    """Its attempts fail on this side; the run goes on with the others."""
    with servers.behaving(servers.silent) as port:
        victim = Fleet(plan_for(port, processes=2, timeout_s=1.5))

        def tick(outcome: Outcome) -> None:
            if outcome.tally.attempted == 20 and outcome.tally.pending:
                for client in victim._clients[:1]:
                    client.process.kill()

        victim._on_tick = tick
        found = document(victim.run())
    check_balance(found)
    assert causes(found) == {"local": 10, "timeout": 10}
    assert found["client"]["dead"] == ["client process 0 ended early, exit code -9"]
