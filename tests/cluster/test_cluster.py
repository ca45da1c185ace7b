"""The cluster of examples/cluster: whatever ends, everybody gets every entry, in order and once."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.cluster.followers import Feed
from tests.cluster.parts import HaProxy, Node, Redis, closing, node_options
from tests.monitor.metrics import MonitorPort
from tests.support.waiting import wait_until

WORKERS = 2
FOLLOWERS = 200
ROOMS = ("tea", "coffee", "milk", "water")
SPREAD_S = 4.0  # instead of the file's 15 s

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on the path"),
]


def options(redis: Redis) -> list[str]:
    """Those of the compose file, with this Redis, and less time."""
    found = node_options()
    for name in ("host", "workers", "metrics"):  # the node has its own
        del found[name]
    found |= {"topics": redis.url, "drain-spread": f"{SPREAD_S}s"}
    return [f"--{name}={value}" for name, value in found.items()]


def open_at(node: Node) -> float:
    return MonitorPort(node.monitor_port).value("loop_websockets")


def test_the_proxy_dies(tmp_path: Path) -> None:
    """Everybody is cut off at once; the node stays."""
    node = Node("node1", "--topics-history", "1000,5m")
    proxy = HaProxy(tmp_path, [node])
    feed = Feed(f"127.0.0.1:{proxy.port}", ROOMS[:2], 20)
    with closing(node, proxy):
        node.start(WORKERS)
        proxy.start()
        wait_until(lambda: proxy.is_up(node), "the node is found")
        with feed.running(pause_s=0.02):
            feed.everybody_is_back()
            for _ in range(2):
                with feed.posts_fail():
                    proxy.close()
                proxy.start()
                feed.everybody_is_back()
        feed.check()
        assert all(each.connections >= 3 for each in feed.followers)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on the path")
def test_a_node_dies_another_is_replaced_and_redis_restarts(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    nodes = [Node(name, *options(redis)) for name in ("node1", "node2")]
    proxy = HaProxy(tmp_path, nodes)
    feed = Feed(f"127.0.0.1:{proxy.port}", ROOMS, FOLLOWERS)
    with closing(*nodes, proxy, redis):
        redis.start()
        for node in nodes:
            node.start(WORKERS)
        proxy.start()
        wait_until(lambda: all(proxy.is_up(node) for node in nodes), "both nodes are found")
        with feed.running(pause_s=0.03):
            feed.everybody_is_back()
            # least connections, and each room has followers on both
            wait_until(lambda: min(map(open_at, nodes)) > FOLLOWERS * 0.4, "both have many")
            _lose(nodes[0], feed, proxy)
            _replace(nodes[1], feed, proxy)
            before = [each.connections for each in feed.followers]
            _restart(redis, feed)
            assert [each.connections for each in feed.followers] == before, "nobody was cut off"
        feed.check()
        assert all(each.connections >= 2 for each in feed.followers)


def _lose(node: Node, feed: Feed, proxy: HaProxy) -> None:
    """Its machine loses its power, and has it again."""
    node.kill()
    feed.everybody_is_back()
    node.start(WORKERS)
    wait_until(lambda: proxy.is_up(node), "it is found again")
    feed.everybody_is_back()


def _replace(node: Node, feed: Feed, proxy: HaProxy) -> None:
    """It is asked to end, and another is started in its place."""
    node.command.signal(signal.SIGTERM)
    node.command.wait_for("Serving on for 5 s")
    assert node.command.wait() == 0
    assert node.command.said(r"Drained in .*: \d+ WebSockets closed with a handshake")
    feed.everybody_is_back()
    node.start(WORKERS)
    wait_until(lambda: proxy.is_up(node), "it is found again")


def _restart(redis: Redis, feed: Feed) -> None:
    """It is killed, and finds on its disk what it had."""
    with feed.posts_fail():
        redis.kill()
    redis.start()
    feed.everybody_is_back()
