"""A server in this process, and the clients of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from asgi_poller.config import Config
from asgi_poller.serve.server import Server
from tests.support.client import LAST_GET, Client, handshake, read_to_end, send_all
from tests.support.frames import TEXT, text
from tests.support.waiting import DEADLINE_S


class Served:
    """A server on a port of 127.0.0.1, wherever it runs, and clients of it."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def url(self, path: str = "/", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def connect(self, source: str | None = None, *, receive_buffer: int | None = None) -> Client:
        """A connection, from another address of this machine if wanted."""
        return Client(self.port, source=source, receive_buffer=receive_buffer)

    def ask(self, data: bytes, source: str | None = None) -> bytes:
        """All that is answered to `data` until the connection ends."""
        with self.connect(source) as client:
            send_all(client, data)
            return read_to_end(client)

    def websocket(
        self,
        *headers: str,
        path: str = "/",
        source: str | None = None,
        receive_buffer: int | None = None,
    ) -> Client:
        """A client that is past its handshake."""
        client = self.connect(source, receive_buffer=receive_buffer)
        client.sendall(handshake(*headers, path=path))
        response = client.response(has_body=False)
        assert response.status == 101, response
        return client

    def echo(self, client: Client, message: str = "hello") -> None:
        """One message there and back."""
        client.sendall(text(message))
        assert client.frame()[:2] == (TEXT, message.encode())

    def is_well(self) -> None:
        """An honest client is served."""
        with self.websocket() as client:
            self.echo(client)
        assert self.ask(LAST_GET).startswith(b"HTTP/1.1 200 ")


class Site(Served):
    """A server that runs in a thread of this process. `port` is 0 where it has none."""

    def __init__(self, server: Server) -> None:
        address = server.listeners[0].socket.getsockname()
        super().__init__(0 if isinstance(address, str) else address[1])
        self.server = server

    def wait_ended(self) -> None:
        """Wait until its thread has."""
        thread = self.server._thread
        assert thread is not None
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "the server did not stop"

    def connections(self) -> int:
        """How many connections its loops have."""
        serving = self.server._serving
        assert serving is not None
        return sum(len(each.state.connections) for each in serving.loop_servers)


@contextlib.contextmanager
def serving(application: Any, **options: Any) -> Iterator[Site]:
    """Serve on a free port while the block runs. Small timeouts unless told otherwise."""
    defaults: dict[str, Any] = {"access_log": False, "timeout_graceful_shutdown": 5.0}
    if options.keys().isdisjoint(("bind", "bind_tls", "uds", "fd")):
        defaults["port"] = 0
    server = Server(Config(application, **(defaults | options)))
    server.start(DEADLINE_S)
    site = Site(server)
    try:
        yield site
    finally:
        server.stop(DEADLINE_S)
        site.wait_ended()
