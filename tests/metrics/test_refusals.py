"""Who is turned away is counted by a reason from a fixed list, wherever it happens."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from asgi_poller.metrics.refusals import REFUSALS, by_reason, refusal_index
from tests.attacks.echo import app
from tests.metrics.watching import counting, snapshot
from tests.support.client import GET, LAST_GET, get, handshake
from tests.support.waiting import wait_until

LARGE = get("/", "X: " + "x" * 70_000)
PROXY = {"proxy_protocol": True, "forwarded_allow_ips": "127.0.0.1"}


@pytest.mark.parametrize(
    ("sent", "reason", "options"),
    [
        (b"GET / HTTP/1.1\r\nbroken\r\n\r\n", "400", {}),
        (LARGE, "431", {}),
        (get("/", version="3.0"), "505", {}),
        (get("/", "Content-Length: 11") + b"x" * 11, "413", {"limit_request_body": 10}),
        (GET[:10], "408", {"timeout_request_header": 0.2}),
        (get("/", host="evil.example"), "400", {"allow_hosts": "good.example"}),
        (handshake("Origin: http://evil"), "403", {"ws_allow_origins": "http://good"}),
        (b"PROXY nonsense\r\n" + GET, "proxy_protocol", PROXY),
    ],
)
@pytest.mark.parametrize("direct", [False, True])
def test_requests(sent: bytes, reason: str, options: dict[str, Any], direct: bool) -> None:
    with counting(app, direct_handshake=direct, **options) as site:
        site.ask(sent)
        wait_until(lambda: snapshot(site).refused != {}, "it is counted")
        assert snapshot(site).refused == {reason: 1}


def test_limits_on_connections() -> None:
    limits = {"limit_connections": 3, "limit_connections_per_ip": 2, "forwarded_allow_ips": ""}
    with counting(app, **limits) as site:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(site.websocket())
            assert site.ask(LAST_GET).startswith(b"HTTP/1.1 429 ")
            stack.enter_context(site.websocket(source="127.0.0.2"))
            for _ in range(2):
                assert site.ask(LAST_GET, "127.0.0.3").startswith(b"HTTP/1.1 503 ")
            wanted = {"connections_per_ip": 1, "connections": 2}
            wait_until(lambda: snapshot(site).refused == wanted, "all are counted")


@pytest.mark.parametrize("direct", [False, True])
def test_one_websocket_too_many(direct: bool) -> None:
    with counting(app, limit_channels=1, direct_handshake=direct) as site, site.websocket():
        assert site.ask(handshake()).startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: snapshot(site).refused == {"websockets": 1}, "it is counted")


def test_what_exceeds_the_accept_rate() -> None:
    with counting(app, limit_accept_rate=0.01, limit_pending=1) as site:
        with site.websocket(), site.connect():  # the second is held back
            assert site.ask(LAST_GET).startswith(b"HTTP/1.1 503 ")
            wait_until(lambda: snapshot(site).refused == {"accept_rate": 1}, "it is counted")


def test_every_reason_has_one_place_and_unknown_ones_share_one() -> None:
    assert [refusal_index(reason) for reason in REFUSALS] == list(range(len(REFUSALS)))
    assert refusal_index("431 the request head is too large") == REFUSALS.index("431")
    assert refusal_index("words of a peer") == refusal_index("299 x") == REFUSALS.index("other")
    ones = [1] * len(REFUSALS)
    assert by_reason(ones, ones) == dict.fromkeys(REFUSALS, 2)
    assert by_reason([0] * len(REFUSALS)) == {}
