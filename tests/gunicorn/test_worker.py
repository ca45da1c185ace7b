"""The worker class under the real gunicorn: what its options and signals promise."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.client import ClientConnection

from tests.support.gunicorn import Gunicorn, gunicorn
from tests.support.processes import suspend
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is not for Windows")


def close_code(channel: ClientConnection) -> int:
    """The code that the server closes an open channel with."""
    with pytest.raises(ConnectionClosed) as closed:
        channel.recv(timeout=DEADLINE_S)
    assert closed.value.rcvd is not None, "the connection ended without a close frame"
    return int(closed.value.rcvd.code)


def is_lost(channel: ClientConnection) -> bool:
    """Whether the connection is gone: a pong tells, or the news of its end."""
    try:
        pong = channel.ping()
    except ConnectionClosed:
        return True
    wait_until(lambda: pong.is_set() or channel.protocol.state is State.CLOSED, "a pong or the end")
    return not pong.is_set()


def was_cut_off(response: concurrent.futures.Future[httpx.Response]) -> bool:
    """Whether a request failed, in whichever way."""
    try:
        return response.result(DEADLINE_S).is_server_error
    except httpx.HTTPError:
        return True


def echo_once(server: Gunicorn) -> int:
    """Open a WebSocket, get an answer, close it; the worker's pid."""
    with server.channel() as channel:
        channel.send("pid")
        return int(channel.recv(timeout=DEADLINE_S))


def echo_unless_restarted(server: Gunicorn) -> int:
    """The same, but an open channel may be told to come back later; 0 then."""
    with server.channel() as channel:
        try:
            channel.send("pid")
            return int(channel.recv(timeout=DEADLINE_S))
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == 1012:
                return 0
            raise


class Load:
    """Requests and WebSockets, each on a fresh connection, until `stop`. Every failure is kept."""

    def __init__(self, works: list[Callable[[], int]]) -> None:
        self.pids: Counter[int] = Counter()
        self.failures: list[str] = []
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def _run(self, work: Callable[[], int]) -> None:
        while not self._stopped.is_set():
            try:
                pid = work()
            except Exception as error:
                self.failures.append(repr(error))
                continue
            with self._changed:
                self.pids[pid] += pid > 0
                self._changed.notify_all()

    def wait_until(self, reached: Callable[[Counter[int]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self.pids), 2 * DEADLINE_S)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)


def load_on(server: Gunicorn) -> Load:
    request = lambda: int(server.seen()["pid"])  # noqa: E731  # one line reads better
    return Load([request, request, lambda: echo_unless_restarted(server)])


def workers_of(channels: list[ClientConnection]) -> Counter[int]:
    """How many of the channels each worker has."""
    pids: Counter[int] = Counter()
    for channel in channels:
        channel.send("pid")
        pids[int(channel.recv(timeout=DEADLINE_S))] += 1
    return pids


def test_http_and_websockets_through_pollers() -> None:
    with gunicorn("--root-path", "/api", ASGI_POLLER_POLLERS="3") as server:
        seen = server.seen()
        assert [name for name in seen["threads"] if name.startswith("MasterPoller")] == [
            "MasterPoller-0",
            "MasterPoller-1",
            "MasterPoller-2",
        ]
        assert seen["root_path"] == "/api"
        assert seen["loaded_by"] == seen["pid"]
        assert echo_once(server) == seen["pid"]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.said("lifespan has ended")


def test_a_worker_has_as_many_loops_as_asked_for() -> None:
    with gunicorn(ASGI_POLLER_LOOPS="3") as server:
        threads = server.seen()["threads"]
        assert {"Loop-1", "Loop-2"} <= set(threads)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert len(server.said("lifespan has ended")) == 3


@pytest.mark.long
def test_recycling_by_max_requests_loses_no_request() -> None:
    options = ("--workers", "2", "--max-requests", "40", "--max-requests-jitter", "20")
    with gunicorn(*options, ready=2) as server:
        load = load_on(server)
        load.wait_until(lambda pids: len(+pids) >= 8)
        load.stop()
        assert load.failures == []


def test_websockets_count_as_requests() -> None:
    with gunicorn("--max-requests", "3") as server:
        first = server.channel()
        second = server.channel()
        third = server.channel()  # the limit: its worker goes, politely
        assert [close_code(channel) for channel in (first, second, third)] == [1012] * 3
        server.wait_for("Autorestarting worker")
        server.wait_for("Booting worker", count=2)
        echo_once(server)


def test_term_lets_requests_finish_and_closes_channels_with_1012() -> None:
    with gunicorn("--workers", "2", ready=2) as server:
        channels = [server.channel() for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(server.get, "/slow")
            server.wait_for("slow has begun")
            server.signal(signal.SIGTERM)
            assert [close_code(channel) for channel in channels] == [1012] * 4
            assert slow.result().status_code == 200
        assert server.wait() == 0
        assert len(server.said("lifespan has ended")) == 2


def test_the_graceful_timeout_cuts_off_and_still_ends_the_lifespan() -> None:
    with gunicorn("--graceful-timeout", "2") as server:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            endless = pool.submit(server.get, "/endless")
            server.wait_for("endless has begun")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert was_cut_off(endless)
        assert server.said("lifespan has ended")
        assert not server.said("SIGKILL")


def test_quit_does_not_wait_for_requests() -> None:
    with gunicorn("--graceful-timeout", "600", "--timeout", "600") as server:
        channel = server.channel()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            endless = pool.submit(server.get, "/endless")
            server.wait_for("endless has begun")
            server.signal(signal.SIGQUIT)
            assert close_code(channel) == 1012
            assert server.wait() == 0
            assert was_cut_off(endless)


@pytest.mark.long
def test_hup_replaces_workers_without_a_failed_connection() -> None:
    with gunicorn("--workers", "2", ready=2) as server:
        kept = server.channel()
        load = load_on(server)
        load.wait_until(lambda pids: len(+pids) == 2)
        server.signal(signal.SIGHUP)
        load.wait_until(lambda pids: len(+pids) >= 4)
        load.stop()
        assert load.failures == []
        assert close_code(kept) == 1012


def test_a_blocked_loop_is_reported_with_its_stack_and_replaced() -> None:
    with gunicorn("--timeout", "2") as server:
        blocked = server.seen()["pid"]
        with pytest.raises(httpx.HTTPError):
            server.get("/block").raise_for_status()
        server.wait_for("The event loop has been blocked for 2 s")
        server.wait_for("in that_never_returns")
        assert not server.said("in spawn_worker")  # only what is of interest
        server.wait_for("Application startup complete", count=2)
        assert server.seen()["pid"] != blocked


@pytest.mark.long
def test_a_blocked_loop_among_several_is_noticed_too() -> None:
    with gunicorn("--timeout", "2", ASGI_POLLER_LOOPS="2") as server:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            # the second goes to the other loop: it has fewer connections
            results = [pool.submit(server.get, path) for path in ("/endless", "/block")]
            server.wait_for("in that_never_returns")
            for result in results:
                with pytest.raises(httpx.HTTPError):
                    result.result().raise_for_status()
        server.wait_for("Application startup complete", count=2)
        server.seen()


@pytest.mark.long
def test_a_slow_lifespan_is_not_taken_for_a_blocked_loop() -> None:
    with gunicorn("--timeout", "1", SLOW_STARTUP="3") as server:
        assert server.seen()["pid"]
        assert not server.said("WORKER TIMEOUT")


def test_preload_shares_the_application() -> None:
    with gunicorn("--preload", "--workers", "2", ready=2) as server:
        seen = server.seen()
        assert seen["loaded_by"] == seen["parent"] == server.process.pid


def test_a_failed_lifespan_ends_gunicorn_with_3_and_one_line() -> None:
    with gunicorn(ready=0, FAIL_STARTUP="1") as server:
        assert server.wait() == 3
        assert server.said("no database today")
        assert server.said("lifespan said that it failed")
        assert not server.said("Traceback")


def test_what_is_no_asgi_application_is_one_line() -> None:
    with gunicorn(ready=0, app="tests.gunicorn.apps:wsgi_like") as server:
        assert server.wait() == 3
        assert not server.said("Traceback")


def test_a_wrong_variable_is_one_line_before_any_worker() -> None:
    with gunicorn(ready=0, ASGI_POLLER_POLLERS="many") as server:
        assert server.wait() == 2
        assert server.said(r"--pollers: must be a whole number, not 'many'")
        assert not server.said("Booting worker")
        assert not server.said("Traceback")


def test_what_has_no_effect_is_said_once() -> None:
    options = ("--workers", "2", "--worker-connections", "50")
    with gunicorn(*options, ready=2, ASGI_POLLER_PORT="9") as server:
        assert len(server.said("--worker-connections has no effect")) == 1
        assert len(server.said("ASGI_POLLER_PORT is not used under gunicorn")) == 1


def test_proxies_are_trusted_as_told() -> None:
    header = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    with gunicorn("--forwarded-allow-ips", "127.0.0.1") as server:
        seen = server.seen(headers=header)
        assert (seen["client"][0], seen["scheme"]) == ("203.0.113.7", "https")
    with gunicorn("--forwarded-allow-ips", "10.0.0.0/8") as server:
        seen = server.seen(headers=header)
        assert (seen["client"][0], seen["scheme"]) == ("127.0.0.1", "http")


def test_idle_connections_end_after_keep_alive() -> None:
    with gunicorn("--keep-alive", "1") as server:
        host, _, port = server.address.partition(":")
        with socket.create_connection((host, int(port)), DEADLINE_S) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with gunicorn("-b", f"unix:{path}") as server:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            # whoever can open the file is believed, as gunicorn has it
            seen = client.get("http://unix/", headers={"X-Forwarded-For": "203.0.113.7"}).json()
            assert seen["client"][0] == "203.0.113.7"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not path.exists()


@pytest.mark.long
def test_channels_are_spread_evenly_also_after_a_worker_was_killed() -> None:
    # Two pollers in each worker may take one more each, at the same time; and who is not run for
    # 2 ms has its turn taken. Left to the kernel, one has nearly all.
    tolerance = 9
    with gunicorn("--workers", "3", ready=3) as server:
        channels = [server.channel() for _ in range(60)]
        spread = workers_of(channels)
        assert len(spread) == 3
        assert max(spread.values()) - min(spread.values()) <= tolerance
        os.kill(min(spread), signal.SIGKILL)
        server.wait_for("Application startup complete", count=4)
        left = [channel for channel in channels if not is_lost(channel)]
        left += [server.channel() for _ in range(60)]
        spread = workers_of(left)
        assert len(spread) == 3
        assert max(spread.values()) - min(spread.values()) <= tolerance


def test_a_stopped_worker_does_not_keep_the_others_from_accepting() -> None:
    with gunicorn("--workers", "2", ready=2) as server:
        stopped = echo_once(server)
        busy = [server.channel() for _ in range(8)]
        suspend(stopped)
        try:
            busy += [server.channel() for _ in range(20)]  # every one of them is "ahead"
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert sum(workers_of(busy).values()) == 28


def test_workers_end_when_their_arbiter_has_died() -> None:
    with gunicorn("--workers", "2", ready=2) as server:
        channel = server.channel()
        server.signal(signal.SIGKILL)
        assert close_code(channel) == 1012
        server.wait()  # its output ends when the last worker has
        assert len(server.said("The arbiter has ended")) == 2
        assert len(server.said("lifespan has ended")) == 2
