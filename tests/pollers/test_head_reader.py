"""Direct handshake: what a head reader hands over, what it answers, and what it keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.config import Config
from asgi_poller.handoff.lane_receiver import LaneReceiver
from asgi_poller.handoff.process_lane import ProcessLane
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.handoff.thread_lane import close_connection
from asgi_poller.listeners.listeners import Listener
from asgi_poller.loops import http_protocol
from asgi_poller.loops.accepted_socket import Accepted
from asgi_poller.loops.request_filter import RequestFilter
from asgi_poller.metrics.refusals import by_reason
from asgi_poller.pollers.connection_limits import ConnectionLimits
from asgi_poller.pollers.head_reader import HeadReaderSettings
from asgi_poller.pollers.pool import PollerPool
from asgi_poller.protocols.host_origin import HostMatcher
from asgi_poller.protocols.http1.parser import RequestHead, RequestParser
from tests.attacks.echo import app as echo
from tests.pollers.fakes import Shelf, connect, make_listener, running_pool
from tests.support import client as requests
from tests.support import server as product
from tests.support.client import read_rest, reset_on_close
from tests.support.frames import text
from tests.support.waiting import DEADLINE_S, wait_until

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n"
PATIENT = Config("main:app", timeout_first_octet=DEADLINE_S, timeout_request_header=DEADLINE_S)
RULES = HeadReaderSettings(config=PATIENT, rules=RequestFilter())


@dataclasses.dataclass(slots=True)
class House:
    """A poller pool with a head reader; `ended` are the tickets that were given back."""

    listener: Listener
    shelf: Shelf
    poller_pool: PollerPool
    ended: list[int]


@contextlib.contextmanager
def house(
    rules: HeadReaderSettings = RULES,
    admit: Callable[[Accepted], Accepted | None] | None = None,
    *,
    tls: bool = False,
) -> Iterator[House]:
    listener, shelf, ended = make_listener(tls=tls), Shelf(), list[int]()
    poller_pool = PollerPool(
        [listener], [shelf], head_reader=rules, admit=admit, end_ticket=ended.append
    )
    with running_pool(poller_pool, listener), contextlib.closing(shelf):
        yield House(listener, shelf, poller_pool, ended)


@pytest.mark.parametrize(
    "data",
    [
        GET,
        GET + GET,
        b"\r\n\r\n" + GET,
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel",
        GET + b"broken, but not at the head of the line\r\n\r\n",
    ],
)
def test_a_complete_head_is_handed_over_with_all_that_came(data: bytes) -> None:
    with house() as at, connect(at.listener) as client:
        client.sendall(data)
        accepted = at.shelf.wait_for(1)[0]
        assert accepted.data == data
        assert accepted.peer == client.getsockname()


def test_a_head_that_comes_octet_by_octet() -> None:
    with house() as at, connect(at.listener) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET[:-1]:
            client.sendall(bytes([byte]))
        wait_until(lambda: at.poller_pool.stats().pending_heads == 1)
        assert at.shelf.taken == []
        client.sendall(GET[-1:])
        assert at.shelf.wait_for(1)[0].data == GET
        assert at.poller_pool.stats().pending_heads == 0


def test_tls_passes_through_untouched() -> None:
    with house(tls=True) as at, connect(at.listener) as client:
        assert at.shelf.wait_for(1)[0].data == b""
        client.sendall(b"\x16")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"BROKEN\r\n\r\n", 400, "400"),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n", 414, "414"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 40000 + b"\r\n\r\n", 431, "431"),
        (b"GET / HTTP/3.0\r\nhost: a\r\n\r\n", 505, "505"),
        (b"GET / HTTP/1.1\r\nhost: evil\r\n\r\n", 400, "400"),
    ],
)
def test_what_is_broken_or_not_for_us_is_answered_and_closed(
    data: bytes, status: int, reason: str
) -> None:
    rules = dataclasses.replace(RULES, rules=RequestFilter(HostMatcher(["a"])))
    with house(rules, lambda each: each._replace(ticket=7)) as at:
        with connect(at.listener) as client:
            client.sendall(data)
            answer = read_rest(client)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert by_reason(at.poller_pool.refusals.counts) == {reason: 1}
        assert at.ended == [7]
        assert at.shelf.taken == []


def test_who_is_late_gets_408_and_who_is_silent_nothing() -> None:
    hasty = Config("main:app", timeout_first_octet=0.4, timeout_request_header=0.2)
    rules = dataclasses.replace(RULES, config=hasty)
    with house(rules) as at:
        with connect(at.listener) as late, connect(at.listener) as silent:
            late.sendall(GET[:10])
            assert read_rest(late).startswith(b"HTTP/1.1 408 ")
            assert read_rest(silent) == b""
        assert by_reason(at.poller_pool.refusals.counts) == {"408": 1, "silent": 1}


def test_who_goes_is_forgotten() -> None:
    with house(admit=lambda each: each._replace(ticket=3)) as at:
        connect(at.listener).close()
        client = connect(at.listener)
        client.sendall(GET[:5])
        reset_on_close(client)
        client.close()
        wait_until(lambda: at.ended == [3, 3])
        assert at.poller_pool.stats().pending_heads == 0


def test_a_proxy_header_belongs_to_the_head() -> None:
    connection_limits = ConnectionLimits(
        Config("main:app", limit_connections_per_ip=1), exempt=("127.0.0.1",)
    )
    rules = dataclasses.replace(
        RULES, proxies=TrustedHosts("127.0.0.1"), connection_limits=connection_limits
    )

    def admit(accepted: Accepted) -> Accepted:
        ticket = connection_limits.enter(accepted.peer)
        assert isinstance(ticket, int)
        return accepted._replace(ticket=ticket)

    with house(rules, admit) as at, connect(at.listener) as first, connect(at.listener) as second:
        first.sendall(V1 + GET)
        assert at.shelf.wait_for(1)[0].data == V1 + GET
        second.sendall(V1 + GET)  # the same client again
        assert read_rest(second).startswith(b"HTTP/1.1 429 ")
        with connect(at.listener) as liar:
            liar.sendall(b"PROXY nonsense\r\n" + GET)
            assert read_rest(liar) == b""
        counted = by_reason(at.poller_pool.refusals.counts)
        assert counted == {"connections_per_ip": 1, "proxy_protocol": 1}


def test_guests_are_handed_over_as_they_are_when_the_front_end_stops() -> None:
    """Their core waits for the rest."""
    with house() as at, connect(at.listener) as client:
        client.sendall(GET[:10])
        wait_until(lambda: at.poller_pool.stats().pending_heads == 1)
        assert at.poller_pool.stop(DEADLINE_S)
        assert at.shelf.wait_for(1)[0].data == GET[:10]


def test_the_head_of_one_that_was_held_back_is_read_too() -> None:
    with product.serving(echo, direct_handshake=True, limit_accept_rate=1.0) as site:
        for request, status in ((GET, 200), (b"BROKEN\r\n\r\n", 400)):
            with site.connect() as client:
                client.sendall(request)
                assert client.response().status == status


def _no_parser(*_: object) -> RequestParser:
    raise AssertionError("the poller has parsed this head")


@pytest.mark.parametrize("proxied", [False, True])
def test_within_one_process_a_head_is_parsed_once(
    monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    """The loop makes no parser: not for what came with the head, nor for what comes later."""
    monkeypatch.setattr(http_protocol, "RequestParser", _no_parser)
    header = V1 if proxied else b""
    with product.serving(echo, direct_handshake=True, proxy_protocol=proxied) as site:
        with site.connect() as client:
            client.sendall(header + requests.handshake() + text("with the head"))
            assert client.response(has_body=False).status == 101
            assert client.frame().payload == b"with the head"
        with site.connect() as client:
            client.sendall(header + requests.get() + requests.get()[:20])
            assert client.response().status == 200
            client.sendall(requests.get()[20:])
            assert client.response().status == 200
        with site.connect() as client:
            client.sendall(header + requests.post(b"a body in two pieces")[:-5])
            client.sendall(b"ieces" + b"BROKEN\r\n\r\n")
            assert client.response().status == 200
            assert client.response().status == 400, "in its turn"
        with site.connect() as client:  # an upgrade that nobody offers is not asked for
            client.sendall(header + requests.get("/", "Upgrade: chess", "Connection: upgrade"))
            assert client.response().status == 200


@pytest.mark.skipif(os.name != "posix", reason="needs unix sockets")
def test_heads_cross_to_a_worker() -> None:
    counters = Counters.create()
    lane = ProcessLane(counters)
    listener = make_listener()
    poller_pool = PollerPool([listener], [lane], head_reader=RULES)
    worker = LaneReceiver(
        socket.socket(fileno=os.dup(lane.worker_end.fileno())), counters.row(lane.row)
    )
    core = LoneCore()
    try:
        with running_pool(poller_pool, listener), connect(listener) as client:
            client.sendall(GET + b"more")
            worker.attach(core)
            wait_until(lambda: core.look())
            assert core.adopted[0].data == GET + b"more"
            close_connection(core.adopted[0].fd)
    finally:
        worker.detach()
        for accepted in lane.reclaim():
            close_connection(accepted.fd)
        counters.close()


class LoneCore:
    """A core whose loop is this test."""

    def __init__(self) -> None:
        self.adopted: list[Accepted] = []
        self._receive: Callable[[], object] = lambda: None

    @property
    def loop(self) -> LoneCore:
        return self

    def look(self) -> bool:
        self._receive()
        return bool(self.adopted)

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        self._receive = callback

    def remove_reader(self, fd: int, /) -> None:
        self._receive = lambda: None

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        raise AssertionError("the lane is not full")

    def adopt(self, accepted: Accepted, /) -> None:
        self.adopted.append(accepted)

    def count_closed_in(self, cells: memoryview[int], index: int, /) -> None:
        """It closes nothing."""


class _Faulty(RequestFilter):
    """Fails for one host, as only a mistake of ours could."""

    def check(self, head: RequestHead) -> None:
        if head.header(b"host") == b"evil":
            raise ValueError("a mistake of ours")


def test_an_exception_costs_the_connection_it_belongs_to_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def admit(accepted: Accepted) -> Accepted:
        return accepted._replace(ticket=accepted.peer[1])

    rules = dataclasses.replace(RULES, rules=_Faulty())
    with house(rules, admit) as at, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(at.listener)) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(GET.replace(b"a", b"evil") if number % 5 == 0 else GET)
        evil = clients[::5]
        for client in evil:
            assert read_rest(client).startswith(b"HTTP/1.1 400 ")
        assert len(at.shelf.wait_for(16)) == 16
        assert sorted(at.ended) == sorted(client.getsockname()[1] for client in evil)
        assert by_reason(at.poller_pool.refusals.counts)["error"] == 4
        assert at.poller_pool.stats().pending_heads == 0
    assert caplog.text.count("Traceback") <= 2, "once for each of the two pollers, not four times"
