"""Opening every socket that the server listens on, from every way to ask for one.

`--uds`, `--fd`, `--bind`, `--bind-tls` and sockets passed by systemd add up; `--host` and `--port`
count where none of them is given. Whatever fails is a ListenError that names the option, and what
was opened before it is closed again.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ListenError
from asgi_poller.listeners.systemd_activation import passed_sockets
from asgi_poller.listeners.unix_socket import Access, SocketFile, bind_unix
from asgi_poller.logs import BOLD
from asgi_poller.loops.accepted_socket import ListenerInfo
from asgi_poller.settings.addresses import parse_bind

_log = logging.getLogger("asgi_poller.error")

_RUNNING = "asgi-poller running on %s (Press CTRL+C to quit)"
_RUNNING_IN_COLOUR = f"asgi-poller running on {BOLD} (Press CTRL+C to quit)"
_NOT_HERE = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
#: Attempts to find a port that is free for every address of a host, where port 0 asks for any.
_FREE_PORT_ATTEMPTS = 16
#: What is asked of the kernel where nobody says how much: the most that older ones take.
_LARGEST_BACKLOG = 65535

_Socket = socket.socket  # Listener has a field called socket


@dataclass(slots=True)
class Listener:
    """A listening, non-blocking socket. Owned by the server; pollers only accept from it.

    `info` is what loops are given, `url` what start-up prints (with the real port), `option` where
    it came from (for messages), `file` the socket file if this process has made one.
    """

    socket: socket.socket
    info: ListenerInfo
    url: str
    option: str
    file: SocketFile | None = field(default=None)

    @property
    def sockets(self) -> tuple[_Socket, ...]:
        """What it listens on, as asyncio's Server has it."""
        return (self.socket,)

    def close(self, *, unlink: bool = True) -> None:
        """Stop listening. Idempotent.

        The socket file goes too if it is still ours, unless `unlink` is False (another process has
        taken the socket over).
        """
        if self.file is not None and unlink:
            self.file.unlink()
        self.file = None
        self.socket.close()


@dataclass(frozen=True, slots=True)
class _Wish:
    """One thing to listen on, before it is opened. `text` is the address as the option had it."""

    option: str
    text: str
    tls: bool
    backlog: int
    access: Access


def open_listeners(
    config: Config, *, environ: MutableMapping[str, str] = os.environ
) -> list[Listener]:
    """Open everything that `config` asks to listen on. Raises ListenError; then nothing is open."""
    opened: list[Listener] = []
    try:
        for listener in _open_all(config, environ):
            opened.append(listener)
    except BaseException:  # raised again; nobody else would close them
        close_listeners(opened)
        raise
    return opened


def open_address(text: str, option: str, backlog: int) -> list[Listener]:
    """Listen without TLS at HOST:PORT, which `option` gave. Raises ListenError."""
    return list(_open_address(_Wish(option, text, False, backlog, Access(0, None))))


def listeners_on(config: Config, sockets: Iterable[socket.socket]) -> list[Listener]:
    """Listen on sockets that the caller has bound, and on nothing else: they are the server's from
    here on. Raises ListenError; then all are closed.
    """
    given = list(sockets)
    opened: list[Listener] = []
    try:
        for bound in given:
            if bound.type != socket.SOCK_STREAM:
                raise ListenError("sockets: not a stream socket")
            access = Access(config.uds_mode, config.uds_owner)
            backlog = config.backlog or _LARGEST_BACKLOG
            wish = _Wish(
                "sockets",
                f"fd://{bound.fileno()}",
                config.ssl_certfile is not None,
                backlog,
                access,
            )
            opened.append(_listen(bound, wish))
    except BaseException:  # they were given to us, all of them
        for bound in given:
            bound.close()
        raise
    return opened


def bind_socket(config: Config) -> socket.socket:
    """A bound socket of `--uds`, `--fd` or `--host` and `--port`, as uvicorn's Config binds one: of
    a host with several addresses the first. Says where. Raises ListenError.
    """
    if config.bind or config.bind_tls:
        raise ListenError("bind: is for what opens its sockets itself: give host and port")
    tls = config.ssl_certfile is not None
    access = Access(config.uds_mode, config.uds_owner)
    if config.uds is not None:
        bound, _ = bind_unix(config.uds, option="--uds", access=access)
    elif config.fd is not None:
        bound = _duplicate(config.fd)
    else:
        text = f"{config.host}:{config.port}"
        wish = _Wish("--host/--port", text, tls, 0, access)
        bound = _bind_first(_resolve(config.host, config.port, wish), wish)
    _say(_url(bound, tls))
    return bound


def close_listeners(listeners: Iterable[Listener]) -> None:
    """Close them all."""
    for listener in listeners:
        listener.close()


def backlog_warning(backlog: int | None) -> str | None:
    """One line for start-up if the kernel caps `backlog` (connections), naming the sysctl. None
    where nobody asked for a number.
    """
    cap = platform.somaxconn()
    if backlog is None or cap is None or backlog <= cap:
        return None
    return (
        f"--backlog {backlog} is capped at {cap} by the kernel: a larger burst is delayed or lost;"
        f" raise it with sysctl -w net.core.somaxconn={backlog}"
    )


def socket_files(listeners: Iterable[Listener]) -> list[str]:
    """The paths of the unix sockets that this process has made."""
    return [listener.file.path for listener in listeners if listener.file is not None]


def announce(listeners: Iterable[Listener], backlog: int | None) -> None:
    """The start's last lines: what to open in a browser, bold on a terminal; before them a warning
    if the kernel caps `backlog`.
    """
    warning = backlog_warning(backlog)
    if warning is not None:
        _log.warning(warning)
    for listener in listeners:
        _say(listener.url)


def _say(url: str) -> None:
    _log.info(_RUNNING, url, extra={"color_message": _RUNNING_IN_COLOUR})


def _open_all(config: Config, environ: MutableMapping[str, str]) -> Iterable[Listener]:
    access = Access(config.uds_mode, config.uds_owner)
    certificate = config.ssl_certfile is not None
    # with --bind-tls, it alone speaks TLS; without, a certificate makes every listener do so
    tls = certificate and not config.bind_tls

    def wish(option: str, text: str, secure: bool = tls) -> _Wish:
        return _Wish(option, text, secure, config.backlog or _LARGEST_BACKLOG, access)

    found = False
    for passed in passed_sockets(environ):
        found = True
        yield _open_inherited(passed.fd, wish("LISTEN_FDS", passed.name or f"fd://{passed.fd}"))
    if config.uds is not None:
        found = True
        yield _open_unix(config.uds, wish("--uds", config.uds))
    if config.fd is not None:
        found = True
        yield _open_inherited(config.fd, wish("--fd", str(config.fd)))
    for text in config.bind:
        found = True
        yield from _open_address(wish("--bind", text))
    for text in config.bind_tls:
        found = True
        yield from _open_address(wish("--bind-tls", text, True))
    if not found:
        text = f"{config.host}:{config.port}"
        yield from _open_tcp(config.host, config.port, wish("--host/--port", text))


def _open_address(wish: _Wish) -> Iterable[Listener]:
    try:
        address = parse_bind(wish.text)
    except ValueError as error:
        raise ListenError(f"{wish.option}: {error}") from None
    if address.kind == "unix":
        yield _open_unix(address.path, wish)
    elif address.kind == "fd":
        yield _open_inherited(address.fd, wish)
    else:
        yield from _open_tcp(address.host, address.port, wish)


def _open_unix(path: str, wish: _Wish) -> Listener:
    bound, file = bind_unix(path, option=wish.option, access=wish.access)
    try:
        return _listen(bound, wish, file)
    except ListenError:
        file.unlink()
        raise


def _open_inherited(fd: int, wish: _Wish) -> Listener:
    try:
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(
            f"{wish.option}: descriptor {fd} is not a socket: {error.strerror}"
        ) from error
    if inherited.type != socket.SOCK_STREAM:
        inherited.detach()
        raise ListenError(f"{wish.option}: descriptor {fd} is not a stream socket")
    inherited.set_inheritable(False)
    return _listen(inherited, wish)


def _open_tcp(host: str, port: int, wish: _Wish) -> list[Listener]:
    """Listen on every address that `host` stands for; all on one port, also if `port` is 0."""
    places = _resolve(host, port, wish)
    attempts = _FREE_PORT_ATTEMPTS if port == 0 and len(places) > 1 else 1
    while True:
        attempts -= 1
        try:
            return _open_places(places, wish)
        except ListenError as error:
            cause = error.__cause__
            taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
            if not (taken and attempts):
                raise


_Place = tuple[socket.AddressFamily, tuple[Any, ...]]


def _resolve(host: str, port: int, wish: _Wish) -> list[_Place]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ListenError(f"{wish.option}: cannot find the host {host!r}: {reason}") from error
    places: set[_Place] = {(family, tuple(address)) for family, _, _, _, address in found}
    # IPv4 first: its port is the one to print, and the order must not depend on the resolver
    return sorted(places, key=lambda place: (place[0] != socket.AF_INET, str(place[1][0])))


def _open_places(places: list[_Place], wish: _Wish) -> list[Listener]:
    opened: list[Listener] = []
    missing: OSError | None = None
    try:
        for family, address in places:
            if opened and address[1] == 0:
                port = opened[0].socket.getsockname()[1]
                address = (address[0], port, *address[2:])
            try:
                # `--host ::` alone takes IPv4 too, as uvicorn's workers do
                alone = wish.option == "--host/--port" and len(places) == 1
                bound = _bind_tcp(family, address, both=alone and address[0] == "::")
            except OSError as error:
                if error.errno in _NOT_HERE and len(places) > 1:
                    missing = error  # a name with an IPv6 address, on a machine without IPv6
                    continue
                raise ListenError(_explain(error, address, wish)) from error
            opened.append(_listen(bound, wish))
    except BaseException:  # raised again; nobody else would close them
        close_listeners(opened)
        raise
    if missing is not None and not opened:
        raise ListenError(_explain(missing, places[0][1], wish)) from missing
    return opened


def _bind_first(places: list[_Place], wish: _Wish) -> socket.socket:
    family, address = places[0]
    try:
        return _bind_tcp(family, address, both=address[0] == "::")
    except OSError as error:
        raise ListenError(_explain(error, address, wish)) from error


def _duplicate(fd: int) -> socket.socket:
    """The socket that `fd` is, by a descriptor of its own."""
    copy = -1
    try:
        copy = os.dup(fd)
        return socket.socket(fileno=copy)
    except OSError as error:
        if copy >= 0:
            os.close(copy)
        raise ListenError(f"--fd: descriptor {fd} is not a socket: {error.strerror}") from error


def _bind_tcp(
    family: socket.AddressFamily, address: tuple[Any, ...], *, both: bool
) -> socket.socket:
    """A bound socket; `both`: of IPv6 and IPv4."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        platform.reuse_address(bound)
        if family == socket.AF_INET6:
            # elsewhere `::` means IPv6 and `0.0.0.0` IPv4: each may have a listener of its own
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        bound.bind(address)
    except BaseException:  # raised again; nobody else has it
        bound.close()
        raise
    return bound


def listener_on(
    bound: socket.socket, *, tls: bool, option: str, file: SocketFile | None = None
) -> Listener:
    """A Listener of a socket that listens, or is about to. Raises OSError.

    For sockets that another program's code opened, such as gunicorn's.
    """
    bound.setblocking(False)
    if platform.NODELAY_IS_INHERITED and bound.family in (socket.AF_INET, socket.AF_INET6):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    info = ListenerInfo(int(bound.family), tls, _server(bound), bound.getsockname())
    return Listener(bound, info, _url(bound, tls), option, file)


def _listen(bound: socket.socket, wish: _Wish, file: SocketFile | None = None) -> Listener:
    try:
        listener = listener_on(bound, tls=wish.tls, option=wish.option, file=file)
        bound.listen(wish.backlog)
    except OSError as error:
        bound.close()
        raise ListenError(_explain(error, None, wish)) from error
    return listener


def _server(bound: socket.socket) -> tuple[str, int | None] | None:
    """The ASGI `server` of connections from here; None for a wildcard address."""
    name = bound.getsockname()
    if not isinstance(name, tuple):
        return (os.fsdecode(name), None)
    host, port = name[:2]
    return None if host in ("0.0.0.0", "::") else (host, port)


def _url(bound: socket.socket, tls: bool) -> str:
    name = bound.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{os.fsdecode(name)}"
    host, port = name[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def _explain(error: OSError, address: tuple[Any, ...] | None, wish: _Wish) -> str:
    place = wish.text if address is None else f"{address[0]}:{address[1]}"
    if error.errno == errno.EADDRINUSE:
        return f"{wish.option}: {place} is already in use by another program"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{wish.option}: no permission to listen on {place} (ports below 1024 need privilege)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{wish.option}: this machine has no address {place}"
    return f"{wish.option}: cannot listen on {place}: {error.strerror or error}"
