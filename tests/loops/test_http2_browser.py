"""A page's WebSockets in Chromium: all on the one HTTP/2 connection that the page came over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from tests.support.apps import answer, converse
from tests.support.browser import browser, executable
from tests.support.server import serving
from tests.support.tls import write_pair
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the path"),
]

COUNT = 20
LARGE = 100_000
PAGE = b"""<!doctype html><title>WebSockets</title><script>
const wanted = %d, large = 'x'.repeat(%d);
window.echoes = []; window.codes = []; window.extensions = [];
window.sockets = [...Array(wanted).keys()].map((number) => {
  const socket = new WebSocket(`wss://${location.host}/${number}`, ['chat']);
  socket.onopen = () => {
    window.extensions.push(`${socket.protocol} ${socket.extensions}`);
    socket.send(`hello ${number}`);
    socket.send(large);
  };
  socket.onmessage = (event) => window.echoes.push(event.data);
  socket.onclose = (event) => window.codes.push(event.code);
  return socket;
});
</script>""" % (COUNT, LARGE)


class Site:
    """The page, WebSockets that echo, and one path that is denied."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.ends: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        self.scopes.append(scope)
        if scope["type"] == "http":
            await answer(send, PAGE, headers=[(b"content-type", b"text/html")])
        elif scope["path"] == "/denied":
            await send({"type": "websocket.close"})
        else:

            async def accept_chat(message: Message) -> None:
                is_accept = message["type"] == "websocket.accept"
                await send({**message, "subprotocol": "chat"} if is_accept else message)

            self.ends.append(await converse(receive, accept_chat))

    def of(self, kind: str) -> list[Any]:
        return [scope for scope in self.scopes if scope["type"] == kind]


def test_a_pages_websockets_are_on_its_connection(tmp_path: Path) -> None:
    files = write_pair(tmp_path, "site", trustme.CA().issue_cert("127.0.0.1"))
    site = Site()
    with (
        serving(site, ssl_certfile=files.certificate, ssl_keyfile=files.key) as server,
        browser(tmp_path / "profile", "--ignore-certificate-errors") as windows,
    ):
        page = windows.open(f"https://127.0.0.1:{server.port}")
        page.wait_for(f"window.echoes.length === {2 * COUNT}")
        echoes = page.run("window.echoes")
        assert sorted(filter(lambda each: len(each) < 20, echoes)) == sorted(
            f"hello {number}" for number in range(COUNT)
        )
        assert echoes.count("x" * LARGE) == COUNT
        agreed = set(page.run("window.extensions"))
        assert len(agreed) == 1
        assert agreed.pop().startswith("chat permessage-deflate")
        opened = site.of("websocket")
        assert {scope["http_version"] for scope in opened} == {"2"}
        assert {scope["scheme"] for scope in opened} == {"wss"}
        # one socket: its client's port is the page's
        assert {scope["client"] for scope in opened} == {site.of("http")[0]["client"]}

        page.run("window.sockets.forEach((socket, number) => socket.close(4000 + number))")
        page.wait_for(f"window.codes.length === {COUNT}")
        assert sorted(page.run("window.codes")) == [4000 + number for number in range(COUNT)]
        wait_until(lambda: len(site.ends) == COUNT)
        assert sorted(end["code"] for end in site.ends) == [4000 + each for each in range(COUNT)]

        page.run("window.denied = new WebSocket(`wss://${location.host}/denied`); null")
        page.wait_for("window.denied.readyState === WebSocket.CLOSED")
        page.run(
            "window.last = new WebSocket(`wss://${location.host}/last`, ['chat']);"
            "window.last.onclose = (event) => { window.lastCode = event.code; }; null"
        )
        page.wait_for("window.last.readyState === WebSocket.OPEN")
        server.server.should_exit = True  # a restart
        page.wait_for("window.lastCode === 1012")
        assert {scope["client"] for scope in site.of("websocket")} == {opened[0]["client"]}
