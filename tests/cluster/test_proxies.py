"""The configurations of examples/cluster, read and run by HAProxy and nginx."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.cluster.parts import EXAMPLE, HaProxy, Node, closing, is_open
from tests.support.command import Process
from tests.support.processes import free_port
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.tools
needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on the path")
needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on the path")
FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def a_message_comes(port: int) -> None:
    """From a post to a follower, both through a proxy."""
    with connect(f"ws://127.0.0.1:{port}/rooms/tea", open_timeout=DEADLINE_S) as follower:
        assert json.loads(follower.recv(DEADLINE_S))["subscribed"] is True
        url = f"http://127.0.0.1:{port}/rooms/tea"
        posted = httpx.post(url, json={"text": "hello"}, timeout=DEADLINE_S).raise_for_status()
        message = json.loads(follower.recv(DEADLINE_S))
        assert message["json"] == {"text": "hello"}
        assert message["id"] == posted.json()["id"]


@needs_haproxy
def test_haproxy_takes_the_file_as_it_is() -> None:
    command = ["haproxy", "-c", "-f", str(EXAMPLE / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("[WARNING]")]
    # the names are those of the compose file's network
    assert all("could not resolve address 'node" in line for line in warnings)


@needs_haproxy
def test_haproxy_sends_to_the_node_that_is_there(tmp_path: Path) -> None:
    there, gone = Node("node1"), Node("node2")
    proxy = HaProxy(tmp_path, [there, gone])
    with closing(there, proxy):
        there.start()
        proxy.start()
        wait_until(lambda: proxy.is_up(there) and not proxy.is_up(gone), "the checks are done")
        for _ in range(3):
            a_message_comes(proxy.port)


def nginx_text(folder: Path, port: int, ports: tuple[int, int]) -> str:
    """The example within what includes it, with these addresses in the place of its own."""
    text = (EXAMPLE / "nginx.conf").read_text()
    for old, new in (
        ("listen 8000;", f"listen 127.0.0.1:{port};"),
        ("server node1:8000 ", f"server 127.0.0.1:{ports[0]} "),
        ("server node2:8000 ", f"server 127.0.0.1:{ports[1]} "),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in FOLDERS)
    main = f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}"
    return f"{main} http {{ access_log off; {paths}\n{text} }}"


@needs_nginx
def test_nginx_takes_the_file_and_goes_on_to_the_node_that_is_there(tmp_path: Path) -> None:
    node = Node("node1")
    port = free_port()
    file = tmp_path / "nginx.conf"
    file.write_text(nginx_text(tmp_path, port, (node.port, free_port())))
    command = ["nginx", "-p", str(tmp_path), "-c", str(file)]
    done = subprocess.run(
        [*command, "-t"], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr
    with closing(node):
        node.start()
        proxy = Process(command)
        try:
            wait_until(lambda: is_open(port), "nginx listens")
            for _ in range(3):  # the other node is tried too
                a_message_comes(port)
        finally:
            proxy.close()
