"""The configurations of docs/deployment.md work: programs that this machine has are run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.sync.client import connect

from asgi_poller.settings.table import BY_SPELLING
from tests.support.apps import answer
from tests.support.processes import free_port
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S

PAGE = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
CLIENT = "127.0.0.2"  # not an address that proxies are trusted at

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the page is about Linux")


def block(language: str, containing: str = "") -> str:
    """The first block of code in `language` that has the text `containing`."""
    for found in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL):
        if containing in found:
            return str(found)
    raise AssertionError(f"no {language} block with {containing!r}")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says what it sees, and echoes."""
    seen = json.dumps({name: scope.get(name) for name in ("client", "scheme", "path")})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": seen})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
    elif scope["type"] == "http":
        headers = [(b"content-type", b"application/json")]
        await answer(send, seen.encode(), headers=headers)


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE_S)
        sys.stderr.write(errors.decode(errors="replace"))


def ask_through(port: int, scheme: str) -> None:
    """HTTP and a WebSocket through the proxy: the client's address and `scheme` arrive."""
    transport = httpx.HTTPTransport(retries=50, local_address=CLIENT)  # it may be starting
    headers = {"X-Forwarded-For": "203.0.113.7"}  # what a client claims is not believed
    with httpx.Client(transport=transport, timeout=DEADLINE_S, headers=headers) as client:
        seen = client.get(f"http://127.0.0.1:{port}/there").raise_for_status().json()
    assert (seen["client"][0], seen["scheme"], seen["path"]) == (CLIENT, scheme, "/there")
    url = f"ws://127.0.0.1:{port}/websocket"
    with connect(url, open_timeout=DEADLINE_S, source_address=(CLIENT, 0)) as websocket:
        seen = json.loads(websocket.recv(timeout=DEADLINE_S))
        assert (seen["client"][0], seen["scheme"]) == (CLIENT, scheme.replace("http", "ws"))
        websocket.send("hello")
        assert websocket.recv(timeout=DEADLINE_S) == "hello"


@pytest.mark.tools
@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on the path")
def test_nginx(tmp_path: Path) -> None:
    path, port = tmp_path / "app.sock", free_port()
    text = block("nginx").replace("/run/chat/chat.sock", str(path))
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    text = re.sub(r"^ *ssl_.*\n", "", text, flags=re.MULTILINE)
    folders = "".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr; events {{}}"
        f"http {{ access_log off; {folders}\n{text} }}"
    )
    with serving(app, uds=str(path), forwarded_allow_ips="unix", log_config=None):
        with running(["nginx", "-p", str(tmp_path), "-c", str(file)]):
            ask_through(port, "http")


@pytest.mark.tools
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on the path")
def test_haproxy(tmp_path: Path) -> None:
    port = free_port()
    with serving(app, log_config=None) as site:
        text = block("haproxy").replace("127.0.0.1:8000", f"127.0.0.1:{site.port}")
        text = re.sub(r"bind :443 .*", f"bind 127.0.0.1:{port}", text)
        file = tmp_path / "haproxy.cfg"
        file.write_text(text)
        with running(["haproxy", "-db", "-f", str(file)]):
            ask_through(port, "http")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize(("unit", "mark"), [("chat.service", "[Service]"), ("chat.socket", "[So")])
def test_systemd(unit: str, mark: str, tmp_path: Path) -> None:
    """Both units are verified together: a socket wants its service."""
    for name, containing in (("chat.service", "[Service]"), ("chat.socket", "[Socket]")):
        text = block("ini", containing).replace("User=chat", "User=root")
        text = re.sub(r"(?<=ExecStart=)\S+", sys.executable, text)
        (tmp_path / name).write_text(text)
    assert mark in (tmp_path / unit).read_text()
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if "Failed to" in done.stderr and unit not in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr}")
    assert unit not in done.stderr


def options_of(command: list[str]) -> list[str]:
    return [word.removeprefix("--") for word in command if word.startswith("--")]


def test_commands_of_containers_are_ours() -> None:
    found = re.search(r"^CMD (\[.*\])$", block("dockerfile"), re.MULTILINE)
    assert found is not None
    pod = yaml.safe_load(block("yaml"))["spec"]["template"]["spec"]
    for command in (json.loads(found[1]), pod["containers"][0]["args"]):
        assert command[0] == "asgi-poller"
        assert options_of(command)
        assert {name.replace("-", "_") for name in options_of(command)} <= set(BY_SPELLING)
    grace_s = int(pod["containers"][0]["args"][-1].removesuffix("s"))
    arguments = pod["containers"][0]["args"]
    pause_s = int(arguments[arguments.index("--drain-delay") + 1].removesuffix("s"))
    assert pod["terminationGracePeriodSeconds"] > grace_s + pause_s
