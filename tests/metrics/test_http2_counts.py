"""What is counted of HTTP/2."""

from __future__ import annotations

from asgi_poller.monitor.exposition import exposition
from tests.attacks.echo import app
from tests.metrics.watching import counting, settled, snapshot
from tests.support.http2 import http2_client
from tests.support.http2_frames import PING, frame, raw_peer
from tests.support.waiting import wait_until


def test_connections_streams_and_faults() -> None:
    with counting(app, lifespan="off") as site:
        with http2_client(site.port) as one, http2_client(site.port) as other:
            for client in (one, one, other):
                assert client.response(client.request("/"))[0] == 200
            assert one.status(one.request("/a b")) == 400
            wait_until(lambda: snapshot(site).total.http2_connections_open == 2, "both are open")
            total = settled(site).total
            assert (total.http2_streams, total.http2_faults) == (4, 0)
        with raw_peer(site.port) as peer:
            peer.send(frame(PING, 0, 1, bytes(8)))
            peer.end()
        wait_until(lambda: snapshot(site).total.http2_connections_open == 0, "all have ended")
        shown = settled(site)
    lines = exposition(lambda: shown)("text/plain")[0].decode().splitlines()
    assert "asgi_poller_http2_connections 0.0" in lines
    assert "asgi_poller_http2_streams_total 4.0" in lines
    assert "asgi_poller_http2_faults_total 1.0" in lines
