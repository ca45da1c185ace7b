"""The WebSocket of the dashboard: who may look, how often it speaks, what a failure does."""

from __future__ import annotations

import contextlib
import json
import threading

from asgi_poller.metrics.snapshot import Snapshot
from asgi_poller.monitor.live import FAILED, TOO_MANY, VIEWERS
from tests.monitor.sources import answering, monitor, snapshot
from tests.support.client import Client, close_code, handshake
from tests.support.frames import text
from tests.support.server import Served


def look(port: Served, *headers: str) -> Client:
    """A viewer."""
    client = port.connect()
    client.sendall(handshake(*headers, path="/live", host="localhost"))
    assert client.response(has_body=False).status == 101
    return client


def status_of_handshake(port: Served, *headers: str, host: str = "localhost") -> int:
    with port.connect() as client:
        client.sendall(handshake(*headers, path="/live", host=host))
        return client.response(has_body=False).status


class Counting:
    """A source that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_broken = False

    def __call__(self) -> Snapshot:
        self.calls += 1
        if self.is_broken:
            raise OSError("no such memory")
        return snapshot(pid=self.calls)


def pid_in(client: Client) -> int:
    pid = json.loads(client.frame().payload)["pid"]
    assert isinstance(pid, int)
    return pid


def test_all_viewers_are_told_the_same_and_nobody_is_asked_for_nobody() -> None:
    source = Counting()
    with monitor(source) as port, contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(look(port)) for _ in range(5)]
        assert sorted(map(pid_in, viewers)) == [1, 2, 3, 4, 5], "each one at once"
        for number in (6, 7):
            assert list(map(pid_in, viewers)) == [number] * 5, "then one for all"
        for viewer in viewers:
            viewer.close()
        before = source.calls
        threading.Event().wait(2.5)  # nothing tells that nothing happens
        assert source.calls <= before + 1


def test_what_a_viewer_says_means_nothing() -> None:
    with monitor(Counting()) as port, look(port) as viewer:
        viewer.sendall(text('{"stop": true}'))
        assert [pid_in(viewer), pid_in(viewer)] == [1, 2]


def test_one_viewer_too_many_is_told_to_come_later() -> None:
    with monitor(answering(snapshot())) as port, contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(look(port)) for _ in range(VIEWERS)]
        for viewer in viewers:
            viewer.frame()
        with look(port) as late:
            assert close_code(late) == TOO_MANY
        with port.connect() as scraper:  # and everything else is answered
            scraper.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert scraper.response().status == 200


def test_a_viewer_who_leaves_makes_room() -> None:
    with monitor(answering(snapshot())) as port:
        for _ in range(VIEWERS * 2):
            with look(port) as viewer:
                assert viewer.frame().payload
                viewer.reset()


def test_a_viewer_who_reads_nothing_delays_nobody() -> None:
    big = snapshot(refused={f"reason-{number}": 1 for number in range(200_000)})
    with monitor(answering(big)) as port, look(port) as stuck, look(port) as viewer:
        for _ in range(3):
            assert len(viewer.frame().payload) > 3_000_000
        stuck.reset()


def test_pages_of_other_sites_do_not_see_it() -> None:
    with monitor(answering(snapshot())) as port:
        here = f"localhost:{port.port}"
        assert status_of_handshake(port, f"Origin: http://{here}", host=here) == 101
        assert status_of_handshake(port, "Origin: http://evil.example", host=here) == 403
        assert status_of_handshake(port, host="evil.example") == 403


def test_it_wants_the_token() -> None:
    with monitor(answering(snapshot()), metrics_token="s3cret") as port:
        assert status_of_handshake(port) == 401
        assert status_of_handshake(port, "Authorization: Bearer wrong") == 401
        assert status_of_handshake(port, "Authorization: Bearer s3cret") == 101


def test_a_source_that_fails_sends_the_viewers_away_and_may_recover() -> None:
    source = Counting()
    with monitor(source) as port:
        with look(port) as viewer:
            assert pid_in(viewer) == 1
            source.is_broken = True
            assert close_code(viewer) == FAILED
        with look(port) as viewer:
            assert close_code(viewer) == FAILED
        source.is_broken = False
        with look(port) as viewer:
            assert pid_in(viewer) > 1
