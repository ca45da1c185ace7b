"""Options: where to listen, how to accept, and whom to let in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asgi_poller.settings.addresses import HIGHEST_PORT, check_bind
from asgi_poller.settings.kinds import (
    Kind,
    choice,
    flag,
    integer,
    number,
    optional,
    shown,
    text,
    texts,
)
from asgi_poller.settings.option import option

HIGHEST_MODE = 0o777


def _file_mode() -> Kind:
    """Permission bits: octal in text (660), a number in Python and TOML (0o660)."""
    plain = integer(0, HIGHEST_MODE)

    def parse(value: str) -> int:
        try:
            mode = int(value.removeprefix("0o"), 8)
        except ValueError:
            raise ValueError(f"must be octal digits such as 660, not {shown(value)}") from None
        return check(mode)

    def check(value: object) -> int:
        if isinstance(value, str):
            return parse(value)
        try:
            mode: int = plain.check(value)
        except ValueError:
            raise ValueError(f"must be a mode such as 0o660 or '660', not {shown(value)}") from None
        return mode

    return Kind("MODE", parse, check)


@dataclass(frozen=True, kw_only=True, init=False)
class Listening:
    """Where to listen."""

    __slots__ = ()

    host: str = option(
        "127.0.0.1",
        text("HOST"),
        "Listen on this address. 0.0.0.0 is every IPv4 address, :: every IPv6 address.",
        note="Not used where --uds, --fd, --bind or --bind-tls says where to listen.",
        uvicorn="same",
    )
    port: int = option(
        8000,
        integer(0, HIGHEST_PORT, metavar="PORT"),
        "Listen on this port. With 0 the system picks a free one, which is printed.",
        uvicorn="same",
    )
    uds: str | None = option(
        None,
        optional(text("PATH")),
        "Listen on this unix socket as well as on --fd and --bind.",
        uvicorn="same",
    )
    uds_mode: int = option(
        0o666,
        _file_mode(),
        "Permissions of the unix sockets that are made, in octal.",
        note="666 is what uvicorn always sets, so that a proxy under another user can connect.",
        aliases=("uds_permissions",),
    )
    uds_owner: str | None = option(
        None,
        optional(text("USER[:GROUP]")),
        "Owner of the unix sockets that are made, as USER, USER:GROUP or :GROUP.",
    )
    fd: int | None = option(
        None, optional(integer(0)), "Listen on this inherited file descriptor.", uvicorn="same"
    )
    bind: tuple[str, ...] = option(
        (),
        texts("ADDRESS", one=check_bind),
        "Listen here too: HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N.",
        note="Speaks TLS if there is a certificate and no --bind-tls.",
    )
    bind_tls: tuple[str, ...] = option(
        (),
        texts("ADDRESS", one=check_bind),
        "Listen here with TLS, beside listeners without.",
        note="Needs --ssl-certfile. With it, all other listeners speak without TLS.",
    )
    backlog: int | None = option(
        None,
        optional(integer(1)),
        "Connections that may wait in the kernel to be accepted.",
        note="Beyond it, the kernel lets new connections wait and retry. The system's own limit "
        "(net.core.somaxconn on Linux) caps it, which the start says where more was asked for. "
        "Without the option, as many as the system allows, up to 65535.",
        uvicorn="2048",
    )


@dataclass(frozen=True, kw_only=True, init=False)
class Pollers:
    """How connections are accepted and spread."""

    __slots__ = ()

    pollers: int = option(
        2, integer(1, 256), "Threads that accept connections (MasterPoller-0, MasterPoller-1, ...)."
    )
    poller_nice: int = option(
        -10,
        integer(-20, 19),
        "Nice value of the poller threads, where the system permits it.",
        note="Accepting is microseconds of work that must not wait behind applications on a "
        "saturated machine. 0 leaves the priority alone.",
    )
    worker_nice: int | None = option(
        None,
        optional(integer(0, 19)),
        "Nice value added to the event loops, so that pollers go first.",
        note="None: a little, and only where the pollers may not be raised (no privilege).",
    )
    balance: Literal["least-connections", "round-robin"] = option(
        "least-connections",
        choice("least-connections", "round-robin"),
        "How an event loop is chosen for a new connection.",
    )
    direct_handshake: bool | None = option(
        None,
        optional(flag()),
        "Let pollers read request heads: event loops see only complete, admissible requests.",
        note="None: off, but on where workers could not count exactly without it: for "
        "--limit-channels, and for --limit-connections-per-ip with --proxy-protocol. In one "
        "process it costs nothing to speak of, with workers about a tenth more CPU for each "
        "connection; see the threat model.",
    )


@dataclass(frozen=True, kw_only=True, init=False)
class Admission:
    """Who is let in, decided by the pollers before an event loop is touched."""

    __slots__ = ()

    limit_connections: int | None = option(
        None, optional(integer(1)), "Connections at once, all together. Further ones get 503."
    )
    limit_connections_per_ip: int | None = option(
        None,
        optional(integer(1)),
        "Connections at once from one IPv4 address or one IPv6 /64. Further ones get 429.",
        note="Proxies in --forwarded-allow-ips are not counted; the clients in their PROXY headers "
        "are.",
    )
    limit_channels: int | None = option(
        None,
        optional(integer(1)),
        "WebSockets at once, HTTP aside. Further ones get 503.",
        note="With workers and --no-direct-handshake, each event loop has an equal share.",
    )
    limit_accept_rate: float | None = option(
        None,
        optional(number(0), zero_is_none=True),
        "Connections let in per second (token bucket). Others wait, up to --limit-pending.",
    )
    limit_pending: int = option(
        4096,
        integer(1),
        "Connections that --limit-accept-rate may hold back. Further ones get 503 with "
        "Retry-After.",
        note="Each holds a file descriptor, so keep it well below the limit of open files.",
    )
    allow_hosts: tuple[str, ...] = option(
        (),
        texts("HOST", commas=True),
        "Host names that requests may name (example.com, *.example.com); others get 400.",
        note="Empty: any.",
        aliases=("allow_host",),
    )
    ws_allow_origins: tuple[str, ...] = option(
        (),
        texts("ORIGIN", commas=True),
        "Origins that may open WebSockets (https://example.com, https://*.example.com); else 403.",
        note="Empty: any. `same` stands for the host that the request names. Guards against "
        "cross-site WebSocket hijacking (RFC 6455, 10.2). Requests without Origin do not come "
        "from a browser and are let in.",
        aliases=("ws_allow_origin",),
    )
