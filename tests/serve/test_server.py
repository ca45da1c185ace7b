"""The server in one process: from a thread, on a running loop, on several loops and addresses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgi_poller.asgi.types import Message, Receive, Scope, Send
from asgi_poller.config import Config
from asgi_poller.errors import ListenError, OperatorFault, StartupError
from asgi_poller.serve.server import Server
from tests.support.apps import answer, hold
from tests.support.client import get, handshake, post
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, wait_until


async def describe(scope: Scope, receive: Receive, send: Send) -> None:
    """Says where it was called, and by whom."""
    if scope["type"] == "lifespan":
        return
    body = repr((scope["server"], scope["client"], threading.current_thread().name)).encode()
    await answer(send, body)


def fetched(url: str) -> Any:
    response = httpx.get(url)
    assert response.status_code == 200
    return eval(response.text)  # of our own making


# The ways to run it


def test_from_a_thread() -> None:
    server = Server(Config(describe, port=0))
    assert server.urls == []
    assert not server.started
    server.start()
    (url,) = server.urls
    assert server.started
    assert url.startswith("http://127.0.0.1:")
    assert not url.endswith(":0")
    fetched(url)
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_stopping_twice_and_stopping_what_never_ran() -> None:
    Server(Config(describe, port=0)).stop()
    server = Server(Config(describe, port=0))
    server.start()
    server.stop()
    server.stop()


def test_servers_side_by_side() -> None:
    with serving(describe) as one, serving(describe) as other:
        assert fetched(one.url())[0][1] == one.port
        assert fetched(other.url())[0][1] == other.port


def test_a_server_may_end_itself() -> None:
    with serving(describe) as site:
        site.server.should_exit = True
        assert site.server.should_exit
        site.wait_ended()


async def started(server: Server, sockets: list[socket.socket] | None = None) -> asyncio.Task[None]:
    """The server's task, once it serves."""
    task = asyncio.create_task(server.serve(sockets=sockets))
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.005)  # nobody is told of it
    return task


def test_on_a_running_loop(loop: str) -> None:
    """A program with a loop of its own serves beside whatever else it does."""
    from asgi_poller.loops.loop_factory import loop_factory

    async def main() -> None:
        server = Server(Config(describe, port=0))
        task = await started(server)
        async with httpx.AsyncClient() as client:
            response = await client.get(server.urls[0])
        assert "MainThread" in response.text
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(main())


async def test_sockets_of_the_caller() -> None:
    """They are served, nothing else is, and they are closed at the end."""
    given = [socket.socket() for _ in range(2)]
    for one in given:
        one.bind(("127.0.0.1", 0))
    addresses = [one.getsockname() for one in given]
    server = Server(Config(describe, port=0))
    task = await started(server, given)
    found = [one.getsockname() for listening in server.servers for one in listening.sockets]
    assert found == addresses
    async with httpx.AsyncClient() as client:
        for host, port in addresses:
            assert (await client.get(f"http://{host}:{port}")).status_code == 200
    assert not server.force_exit
    server.force_exit = True
    await asyncio.wait_for(task, DEADLINE_S)
    assert server.force_exit
    assert [one.fileno() for one in given] == [-1, -1]


def test_a_socket_that_cannot_listen() -> None:
    stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    stream.bind(("127.0.0.1", 0))
    with pytest.raises(ListenError):
        Server(Config(describe)).run(sockets=[stream, datagram])
    assert (stream.fileno(), datagram.fileno()) == (-1, -1)


async def test_cancelling_serve_ends_it() -> None:
    server = Server(Config(describe, port=0))
    task = await started(server)
    port = server.listeners[0].socket.getsockname()[1]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


# What cannot start


def failing_lifespan(scope: Scope, receive: Receive, send: Send) -> Any:
    async def application() -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    return application()


def test_an_application_that_cannot_start() -> None:
    server = Server(Config(failing_lifespan, port=0))
    with pytest.raises(StartupError):
        server.start()
    server.stop(DEADLINE_S)
    assert not server.started


def test_an_application_that_is_not_there() -> None:
    with pytest.raises(StartupError):
        Server(Config("tests.supervisor.no_such_module:app", port=0)).start()


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ListenError):
            Server(Config(describe, port=taken.getsockname()[1])).start()


def test_a_second_loop_that_cannot_start_ends_the_first() -> None:
    lives: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return
        lives.append((await receive())["type"])
        if len(lives) > 1:
            await send({"type": "lifespan.startup.failed"})
            return
        await send({"type": "lifespan.startup.complete"})
        lives.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    with pytest.raises(StartupError):
        Server(Config(application, port=0, loops=2)).start()
    assert lives == ["lifespan.startup", "lifespan.startup", "lifespan.shutdown"]


# Addresses


def test_several_addresses_at_once(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    given = socket.create_server(("127.0.0.4", 0)).detach()
    binds = ["127.0.0.1:0", "127.0.0.2:0", f"unix:{path}", f"fd://{given}"]
    with serving(describe, bind=binds, uds_mode=0o600) as site:
        first, second, third, fourth = site.server.urls
        assert fetched(fourth)[0][0] == "127.0.0.4"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert fetched(first)[0][0] == "127.0.0.1"
        assert fetched(second)[0][0] == "127.0.0.2"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            server, peer, _ = eval(client.get("http://test/").text)
        assert server == (str(path), None)
        assert peer is None
        assert str(path) in third
    assert not path.exists()


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(describe, host="::1") as site:
        (url,) = site.server.urls
        assert url.startswith("http://[::1]:")
        server, peer, _ = fetched(url)
        assert server == ("::1", site.port)
        assert peer[0] == "::1"
        assert len(peer) == 2


def test_a_wildcard_knows_which_address_was_meant() -> None:
    with serving(describe, host="0.0.0.0") as site:
        assert fetched(f"http://127.0.0.3:{site.port}/")[0] == ("127.0.0.3", site.port)


@pytest.mark.parametrize("listens", [False, True])
def test_an_inherited_descriptor(listens: bool) -> None:
    with socket.socket() as inherited:
        inherited.bind(("127.0.0.1", 0))
        if listens:
            inherited.listen()
        port = inherited.getsockname()[1]
        with serving(describe, fd=os.dup(inherited.fileno())) as site:
            assert site.port == port
            assert fetched(site.url())[0] == ("127.0.0.1", port)


def test_a_unix_socket_speaks_websocket(tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})

    with serving(application, uds=str(path)), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        client.sendall(handshake())
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")


# Loops


def test_each_loop_has_a_thread_a_lifespan_and_a_state(loop: str) -> None:
    lives: list[tuple[str, str]] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        name = threading.current_thread().name
        if scope["type"] == "lifespan":
            scope["state"]["home"] = name
            for phase in ("startup", "shutdown"):
                lives.append((name, (await receive())["type"]))
                await send({"type": f"lifespan.{phase}.complete"})
            return
        assert scope["state"]["home"] == name
        await answer(send, name.encode())

    with serving(application, loops=3, loop=loop) as site:
        clients = [site.connect() for _ in range(6)]
        names = []
        for client in clients:
            client.sendall(get())
            names.append(client.response().body)
        # connections that stay open are spread evenly
        assert sorted(names.count(name) for name in set(names)) == [2, 2, 2]
        for client in clients:
            client.close()
    assert len({name for name, _ in lives}) == 3
    for name in {name for name, _ in lives}:
        kinds = [kind for each, kind in lives if each == name]
        assert kinds == ["lifespan.startup", "lifespan.shutdown"]


def make() -> Callable[..., Any]:
    """A factory: each application has a number of its own."""
    made.append(1)
    number = len(made)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"%d" % number)

    return application


made: list[int] = []


def test_with_a_factory_each_loop_has_an_application() -> None:
    made.clear()
    with serving(make, factory=True, loops=2) as site:
        clients = [site.connect() for _ in range(4)]
        for client in clients:
            client.sendall(get())
        assert sorted(client.response().body for client in clients) == [b"1", b"1", b"2", b"2"]
        for client in clients:
            client.close()
    assert len(made) == 2


# Options that are seen from outside


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await hold(receive, send)
        return
    message: Message = await receive()
    headers = [(b"x-path", scope["path"].encode()), (b"x-root", scope["root_path"].encode())]
    await answer(send, message.get("body", b""), headers=headers)


def answered(site: Site, request: bytes) -> Any:
    with site.connect() as client:
        client.sendall(request)
        return client.response()


def test_header_switches() -> None:
    with serving(echo, date_header=False, server_header=False) as site:
        response = answered(site, get())
        assert response.header("date") is None
        assert response.header("server") is None
    with serving(echo, headers=[("X-A", "1"), ("x-a", "2"), ("Server", "mine")]) as site:
        headers = answered(site, get()).headers
        assert [value for name, value in headers if name == "x-a"] == ["1", "2"]
        assert [value for name, value in headers if name == "server"] == ["mine"]
        with site.connect() as client:
            client.sendall(handshake())
            assert client.head().header("x-a") == "2"


def test_root_path() -> None:
    with serving(echo, root_path="/api") as site:
        response = answered(site, get("/a"))
        assert response.header("x-path") == "/api/a"
        assert response.header("x-root") == "/api"


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_limit_concurrency(kind: str) -> None:
    """It counts requests and WebSockets under way, not connections that are merely open."""
    with serving(echo, limit_concurrency=2) as site:
        idle = [site.connect() for _ in range(5)]
        for client in idle:
            client.sendall(get())
            assert client.response().status == 200
        busy = []
        for _ in range(2):
            if kind == "websocket":
                busy.append(site.websocket())
            else:
                client = site.connect()
                client.sendall(get("/", "Content-Length: 1", "Expect: 100-continue", method="POST"))
                assert client.response().status == 100  # it waits for its body
                busy.append(client)
        refused = answered(site, get())
        assert refused.status == 503
        with site.connect() as client:
            client.sendall(handshake())
            assert client.response().status == 503
        for client in [*busy, *idle]:
            client.close()
        wait_until(lambda: answered(site, get()).status == 200)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_limit_max_requests(kind: str) -> None:
    with serving(echo, limit_max_requests=3) as site:
        for _ in range(3):
            if kind == "websocket":
                client = site.websocket()
                client.close()
            else:
                assert answered(site, post(b"a")).body == b"a"
        site.wait_ended()


def test_operator_faults_are_one_line() -> None:
    faults: list[dict[str, Any]] = [{"host": "192.0.2.1"}, {"uds": "/no/such/folder/app.sock"}]
    for options in faults:
        with pytest.raises(OperatorFault) as fault:
            Server(Config(describe, port=0, **options)).start()
        assert len(str(fault.value).splitlines()) == 1
