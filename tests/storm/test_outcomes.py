"""Each way in which a server can disappoint is counted as what it is, and as one failure."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import pytest
import trustme

from asgi_poller.storm.fleet import Fleet
from asgi_poller.storm.plan import StormError
from tests.storm import servers
from tests.storm.runs import causes, plan_for, run
from tests.support.client import read_head, reset_on_close
from tests.support.processes import free_port, open_descriptors

WRONG_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
)


def test_all_open_and_close() -> None:
    """The plain case, over two processes."""
    with servers.behaving(servers.opening(servers.echoing)) as port:
        found = run(port, processes=2, connections=41)
    assert found["opened"] == found["attempted"] == 41
    assert causes(found) == {}
    assert found["open_per_s"] > 0
    assert found["client"]["dead"] == []


def test_a_close_handshake_is_waited_for() -> None:
    """With --close handshake the server reads a close frame with code 1000 from every channel."""
    closes: list[tuple[int, bytes]] = []

    def behave(sock: socket.socket) -> None:
        closes.append(servers.read_frame(sock))
        sock.sendall(servers.frame(0x88, closes[-1][1]))

    with servers.behaving(servers.opening(behave)) as port:
        found = run(port, close="handshake")
    assert found["opened"] == 20
    assert closes == [(0x88, b"\x03\xe8")] * 20


def test_refused() -> None:
    """Nothing listens."""
    assert causes(run(free_port())) == {"refused": 20}


def test_reset() -> None:
    """RST after the request."""
    with servers.behaving(servers.resetting) as port:
        assert causes(run(port)) == {"reset": 20}


def test_timeout() -> None:
    """The server takes the connection and says nothing."""
    with servers.behaving(servers.silent) as port:
        assert causes(run(port, timeout_s=0.3)) == {"timeout": 20}


def test_a_full_accept_queue_is_a_timeout() -> None:
    """The kernel drops what does not fit the queue: those attempts never connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        found = run(listener.getsockname()[1], timeout_s=0.3)
    assert causes(found) == {"timeout": 20}
    assert found["server"]["local"]
    assert found["server"]["accept_queue_max"] >= 1


@pytest.mark.parametrize("status", [200, 302, 403, 503])
def test_http_status(status: int) -> None:
    """Any answer but 101, counted by status."""
    answer = f"HTTP/1.1 {status} Nope\r\nContent-Length: 2\r\n\r\nno".encode()
    with servers.behaving(servers.answering(answer)) as port:
        found = run(port)
    assert causes(found) == {"status": 20}
    assert found["http_statuses"] == {str(status): 20}


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "not an HTTP answer"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "not an HTTP answer"),
        (b"HTTP/1.1 what\r\n\r\n", "not an HTTP answer"),
        (WRONG_ACCEPT, "a wrong Sec-WebSocket-Accept"),
        (b"HTTP/1.1 101 S\r\n\r\n", "101 without Upgrade: websocket"),
        (b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n", "101 without Connection: Upgrade"),
        (b"HTTP/1.1 101 S\r\nUpgrade\r\n\r\n", "a header line without a colon"),
        (b"HTTP/1.1 101 " + b"x" * 70_000, "no end of the answer's head"),
    ],
)
def test_protocol(answer: bytes, detail: str) -> None:
    """Answers that are none, or wrong."""

    def behave(sock: socket.socket) -> None:
        servers.answering(answer)(sock)
        servers.silent(sock)

    with servers.behaving(behave) as port:
        found = run(port)
    assert causes(found) == {"protocol": 20}
    assert found["details"] == {f"protocol: {detail}": 20}


def test_an_extension_nobody_asked_for() -> None:
    """RFC 6455, 4.1: the client fails the connection."""
    behave = servers.opening(
        servers.silent, extra="Sec-WebSocket-Extensions: permessage-deflate\r\n"
    )
    with servers.behaving(behave) as port:
        assert causes(run(port)) == {"protocol": 20}
        found = run(port, deflate=True)
    assert found["opened"] == found["deflate_channels"] == 20


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Proto"])
def test_closed_before_the_answer(answer: bytes) -> None:
    """The end instead of an answer, or in the middle of it."""
    with servers.behaving(servers.answering(answer)) as port:
        assert causes(run(port)) == {"closed": 20}


def test_an_answer_octet_by_octet() -> None:
    """A head may be split anywhere."""

    def behave(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in servers.accept_head(read_head(sock)):
            sock.send(bytes((byte,)))
        servers.silent(sock)

    with servers.behaving(behave) as port:
        assert run(port)["opened"] == 20


def test_a_mixture_is_told_apart() -> None:
    """Different fates in one run add up."""
    fates: list[servers.Behaviour] = [
        servers.opening(servers.silent),
        servers.resetting,
        servers.answering(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
        servers.answering(b"HTTP/1.1 503 Busy\r\n\r\n"),
        servers.answering(b""),
        servers.answering(b"garbage"),
    ]
    turn = iter(range(10**6))

    def behave(sock: socket.socket) -> None:
        fates[next(turn) % len(fates)](sock)

    with servers.behaving(behave) as port:
        found = run(port, connections=60, processes=2)
    assert found["opened"] == 10
    assert causes(found) == {"reset": 10, "status": 20, "closed": 10, "protocol": 10}
    assert found["http_statuses"] == {"403": 10, "503": 10}


def test_lost_channels_are_not_failures() -> None:
    """What opened and was then dropped by the server is counted as lost, by how it ended."""
    ends = [
        servers.ending,
        reset_on_close,
        servers.closing,
    ]
    turn = iter(range(10**6))

    def behave(sock: socket.socket) -> None:
        ends[next(turn) % len(ends)](sock)

    with servers.behaving(servers.opening(behave)) as port:
        found = run(port, mode="hold", connections=30, duration_s=0.3, warmup_s=0.0)
    assert found["opened"] == 30
    assert found["lost"] == {"total": 30, "closed": 10, "reset": 10, "close 1001": 10}


def test_no_more_are_under_way_than_asked() -> None:
    """`--concurrency` bounds the attempts without an outcome; others begin as those end."""
    waiting: list[socket.socket] = []
    most: list[int] = []
    lock = threading.Lock()

    def behave(sock: socket.socket) -> None:
        request = read_head(sock)
        with lock:
            waiting.append(sock)
            most.append(len(waiting))
            # The fifth lets all five open; with fewer under way nothing would ever open.
            ready = waiting[:] if len(waiting) == 5 else []
            for opened in ready:
                waiting.remove(opened)
                opened.sendall(servers.accept_head(request))
        servers.silent(sock)

    with servers.behaving(behave) as port:
        found = run(port, mode="hold", concurrency=5, duration_s=0.1, warmup_s=0.0)
    assert found["opened"] == 20
    assert max(most) == 5


def test_source_addresses_take_turns() -> None:
    """On loopback the attempts start from 127.0.0.2 onwards, in all processes together."""
    peers: list[str] = []

    def behave(sock: socket.socket) -> None:
        peers.append(sock.getpeername()[0])
        servers.silent(sock)

    with servers.behaving(servers.opening(behave)) as port:
        run(port, connections=250, processes=2)
    assert len(peers) == 250
    assert sorted(set(peers)) == sorted(f"127.0.0.{last}" for last in range(2, 251))


def test_tls() -> None:
    """wss:// opens with a trusted certificate, and is a failure of its own kind without."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with servers.behaving(servers.opening(servers.echoing), tls=context) as port:
        with authority.cert_pem.tempfile() as cafile:
            assert run(port, tls=True, tls_ca=cafile)["opened"] == 20
        assert run(port, tls=True, tls_verify=False)["opened"] == 20
        found = run(port, tls=True)
        echo = run(port, tls=True, tls_verify=False, mode="echo", **ECHO)
    assert causes(found) == {"tls": 20}
    assert echo["messages"]["measured"] > 0
    assert echo["lost"]["total"] == 0


def test_tls_to_a_server_that_speaks_none() -> None:
    """A plain server under wss:// fails the TLS handshake."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
        servers.silent(sock)

    with servers.behaving(behave) as port:
        found = run(port, tls=True, connections=5)
    assert causes(found) == {"tls": 5}


def test_too_few_descriptors_for_a_hold_is_said_before_the_run() -> None:
    """A hold that could never be complete is refused."""
    plan = plan_for(1, mode="hold", connections=1 << 30, processes=1)
    with pytest.raises(StormError, match=r"--processes 1: .* need \d+ processes"):
        Fleet(plan).run()


def test_no_descriptor_stays_open() -> None:
    """A run leaves nothing behind in the process that called it."""
    with servers.behaving(servers.opening(servers.silent)) as port:
        run(port)
        before = open_descriptors()
        run(port, mode="hold", duration_s=0.1, warmup_s=0.0)
        assert open_descriptors() <= before


ECHO: dict[str, Any] = {"payload": b"hello", "warmup_s": 0.1, "duration_s": 0.2}
