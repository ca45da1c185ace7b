"""Listeners: every way to ask for one, and each mistake as one line that names the option."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ListenError
from asgi_poller.listeners import listeners as listeners_module
from asgi_poller.listeners.listeners import (
    Listener,
    backlog_warning,
    close_listeners,
    open_listeners,
)


async def app(scope: object, receive: object, send: object) -> None:
    """Never called."""


Open = Callable[..., list[Listener]]


@pytest.fixture
def open_from() -> Iterator[Open]:
    """`open_listeners` on a Config of these options; closed afterwards."""
    opened: list[Listener] = []

    def open_them(environ: dict[str, str] | None = None, **options: Any) -> list[Listener]:
        made = open_listeners(Config(app, **options), environ={} if environ is None else environ)
        opened.extend(made)
        return made

    yield open_them
    close_listeners(opened)


def accepts(listener: Listener) -> bool:
    """Whether a client gets through to the listener's queue."""
    with socket.socket(listener.socket.family) as client:
        client.settimeout(10)
        client.connect(listener.socket.getsockname())
        listener.socket.setblocking(True)
        accepted, _ = listener.socket.accept()
        listener.socket.setblocking(False)
        accepted.close()
    return True


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
needs_unix = pytest.mark.skipif(not platform.HAS_UNIX_SOCKETS, reason="no unix sockets")


def test_port_0_tells_the_real_port(open_from: Open) -> None:
    (listener,) = open_from(port=0)
    host, port = listener.socket.getsockname()
    assert (host, port != 0) == ("127.0.0.1", True)
    assert listener.url == f"http://127.0.0.1:{port}"
    assert listener.info[:3] == (int(socket.AF_INET), False, ("127.0.0.1", port))
    assert listener.socket.getblocking() is False
    assert listener.socket.get_inheritable() is False
    assert accepts(listener)


@pytest.mark.skipif(not platform.NODELAY_IS_INHERITED, reason="not inherited here")
def test_nodelay_is_inherited(open_from: Open) -> None:
    (listener,) = open_from(port=0)
    with socket.create_connection(listener.socket.getsockname()):
        listener.socket.setblocking(True)
        accepted, _ = listener.socket.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@needs_ipv6
def test_ipv6_is_ipv6_only_and_bracketed(open_from: Open) -> None:
    (listener,) = open_from(host="::1", port=0)
    port = listener.socket.getsockname()[1]
    assert listener.url == f"http://[::1]:{port}"
    assert listener.info.server == ("::1", port)
    assert accepts(listener)
    # so the same port is free for IPv4
    (other,) = open_from(host="127.0.0.1", port=port)
    assert accepts(other)


@needs_ipv6
def test_an_empty_host_is_every_address_on_one_port(open_from: Open) -> None:
    listeners = open_from(host="", port=0)
    assert {listener.socket.family for listener in listeners} == {socket.AF_INET, socket.AF_INET6}
    assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
    assert all(listener.info.server is None for listener in listeners)


@needs_ipv6
def test_a_name_with_several_addresses_gets_them_all(
    open_from: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolver(host: object, port: int, **options: object) -> list[object]:
        tcp = (socket.SOCK_STREAM, 6, "")
        return [
            (socket.AF_INET6, *tcp, ("::1", port, 0, 0)),
            (socket.AF_INET, *tcp, ("127.0.0.1", port)),
            (socket.AF_INET, *tcp, ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    listeners = open_from(host="example.test", port=0)
    assert [listener.socket.family for listener in listeners] == [socket.AF_INET, socket.AF_INET6]
    assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1


def test_an_address_that_this_machine_lacks_is_skipped_if_another_works(
    open_from: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolver(host: object, port: int, **options: object) -> list[object]:
        tcp = (socket.SOCK_STREAM, 6, "")
        return [(socket.AF_INET, *tcp, (ip, port)) for ip in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    (listener,) = open_from(host="example.test", port=0)
    assert listener.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "192.0.2.1", "port": 0}, "--host/--port: this machine has no address 192.0.2.1"),
        ({"host": "no-such-host.invalid"}, "--host/--port: cannot find the host"),
        ({"host": "a" * 300}, "--host/--port: cannot find the host"),
        ({"bind": ["192.0.2.1:0"]}, "--bind: this machine has no address 192.0.2.1:0"),
        ({"fd": 999_999}, "--fd: descriptor 999999 is not a socket"),
        ({"bind": ["fd://999999"]}, "--bind: descriptor 999999 is not a socket"),
        ({"uds": "/nonexistent/app.sock"}, "--uds: cannot make the socket /nonexistent/app.sock"),
        ({"uds": "/tmp/" + "x" * 200}, "--uds: cannot make the socket"),
    ],
)
def test_mistakes_are_one_line_that_names_the_option(
    open_from: Open, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ListenError) as caught:
        open_from(**options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_port_in_use_is_said_and_nothing_stays_open(open_from: Open) -> None:
    (taken,) = open_from(port=0)
    port = taken.socket.getsockname()[1]
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(ListenError, match=rf"--bind: 127.0.0.1:{port} is already in use"):
        open_from(bind=["127.0.0.1:0", "127.0.0.2:0", f"127.0.0.1:{port}"])
    assert len(os.listdir("/dev/fd")) == before


def test_no_permission_is_said(open_from: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **options: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(listeners_module, "_bind_tcp", denied)
    with pytest.raises(
        ListenError, match=r"--host/--port: no permission to listen on 127\.0\.0\.1:80"
    ):
        open_from(port=80)


def test_tls_is_for_all_or_for_bind_tls_alone(open_from: Open, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("")
    (listener,) = open_from(port=0, ssl_certfile=str(certificate))
    assert listener.info.tls
    assert listener.url.startswith("https://")
    plain, secure = open_from(
        bind=["127.0.0.1:0"], bind_tls=["127.0.0.1:0"], ssl_certfile=str(certificate)
    )
    assert (plain.info.tls, secure.info.tls) == (False, True)
    assert secure.option == "--bind-tls"


@needs_unix
class TestUnixSocket:
    def test_owner(self, open_from: Open, tmp_path: Path) -> None:
        path = tmp_path / "app.sock"
        open_from(uds=str(path), uds_owner=f"{os.getuid()}:{os.getgid()}")
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
        with pytest.raises(ListenError, match="--uds-owner: there is no user 'nobody-here'"):
            open_from(uds=str(tmp_path / "b.sock"), uds_owner="nobody-here")

    def test_a_stale_file_is_replaced(self, open_from: Open, tmp_path: Path) -> None:
        path = tmp_path / "app.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        (listener,) = open_from(uds=str(path))
        assert accepts(listener)

    def test_a_live_one_is_not_stolen(self, open_from: Open, tmp_path: Path) -> None:
        path = tmp_path / "app.sock"
        (listener,) = open_from(uds=str(path))
        with pytest.raises(ListenError, match="another server listens on it"):
            open_from(bind=[f"unix:{path}"])
        listener.socket.setblocking(True)
        listener.socket.accept()[0].close()  # the probe
        assert accepts(listener)

    def test_a_live_one_with_a_full_queue_is_not_stolen(
        self, open_from: Open, tmp_path: Path
    ) -> None:
        path = tmp_path / "app.sock"
        open_from(uds=str(path), backlog=1)
        waiting = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                client.connect(str(path))
        except BlockingIOError:
            pass  # now it is full
        with pytest.raises(ListenError, match="another server listens on it"):
            open_from(uds=str(path))
        for client in waiting:
            client.close()

    def test_what_is_no_socket_is_left_alone(self, open_from: Open, tmp_path: Path) -> None:
        path = tmp_path / "precious.txt"
        path.write_text("data")
        with pytest.raises(ListenError, match="exists and is not a socket"):
            open_from(uds=str(path))
        assert path.read_text() == "data"

    def test_a_file_that_is_no_longer_ours_stays(self, open_from: Open, tmp_path: Path) -> None:
        path = tmp_path / "app.sock"
        (old,) = open_from(uds=str(path))
        path.unlink()
        (new,) = open_from(uds=str(path))
        old.close()
        assert accepts(new)

    def test_a_socket_that_another_process_took_over_stays(
        self, open_from: Open, tmp_path: Path
    ) -> None:
        path = tmp_path / "app.sock"
        (listener,) = open_from(uds=str(path))
        listener.close(unlink=False)
        assert path.exists()


class TestInherited:
    def test_a_datagram_socket_is_refused_and_left_open(self, open_from: Open) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as given:
            fd = os.dup(given.fileno())
            with pytest.raises(ListenError, match="is not a stream socket"):
                open_from(fd=fd)
            os.close(fd)

    def test_systemd_sockets_are_all_used_and_the_variables_are_gone(
        self, open_from: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = [socket.socket() for _ in range(2)]
        for each in given:
            each.bind(("127.0.0.1", 0))
        first = os.dup(given[0].fileno())
        second = first + 1
        os.dup2(given[1].fileno(), second)
        monkeypatch.setattr("asgi_poller.listeners.systemd_activation.FIRST_DESCRIPTOR", first)
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
        listeners = open_from(environ, port=1)
        assert [listener.option for listener in listeners] == ["LISTEN_FDS"] * 2
        assert [listener.socket.getsockname() for listener in listeners] == [
            each.getsockname() for each in given
        ]
        assert environ == {}
        for each in given:
            each.close()

    def test_systemd_sockets_for_another_process_are_not_ours(self, open_from: Open) -> None:
        environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
        (listener,) = open_from(environ, port=0)
        assert listener.option == "--host/--port"
        assert environ == {"LISTEN_PID": "1", "LISTEN_FDS": "1"}

    def test_nonsense_from_systemd_is_one_line(self, open_from: Open) -> None:
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}
        with pytest.raises(ListenError, match="LISTEN_FDS: must be a number"):
            open_from(environ)


def test_the_backlog_warning_names_the_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "somaxconn", lambda: 4096)
    assert backlog_warning(4096) is None
    warning = backlog_warning(65535)
    assert warning is not None
    assert "net.core.somaxconn=65535" in warning
    assert "4096" in warning
    monkeypatch.setattr(platform, "somaxconn", lambda: None)
    assert backlog_warning(65535) is None


def test_nobody_is_told_of_a_backlog_that_was_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "somaxconn", lambda: 128)
    assert backlog_warning(Config("a:b").backlog) is None
    assert backlog_warning(Config("a:b", backlog=65535).backlog) is not None
