"""How an address to listen on is written: `HOST:PORT`, `[::1]:PORT`, `:PORT`, `unix:PATH` or
`fd://N`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from asgi_poller.settings.kinds import shown

HIGHEST_PORT = 65535


class BindAddress(NamedTuple):
    """One address in parts; only those that `kind` names are meaningful. An empty `host` means
    every interface.
    """

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1


def parse_bind(value: str) -> BindAddress:
    """The parts of one address. Raises ValueError with what is wrong and how to write it."""
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        path = path.removeprefix("//")  # unix:///run/app.sock, as some servers write it
        if not path:
            raise ValueError(f"lacks the path, as in unix:/run/app.sock: {shown(value)}")
        return BindAddress("unix", path=path)
    if value.startswith("fd://"):
        digits = value.removeprefix("fd://")
        if not digits.isdecimal():
            raise ValueError(f"lacks the descriptor's number, as in fd://3: {shown(value)}")
        return BindAddress("fd", fd=int(digits))
    host, colon, digits = value.rpartition(":")
    hint = "must be HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N"
    if not colon or "/" in host:
        raise ValueError(f"{hint}, not {shown(value)}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"needs brackets around an IPv6 address, as in [::1]:8000: {shown(value)}")
    if not digits.isdecimal() or int(digits) > HIGHEST_PORT:
        raise ValueError(f"{hint}, with a port from 0 to {HIGHEST_PORT}, not {shown(value)}")
    return BindAddress("tcp", host=host, port=int(digits))


def check_bind(value: object) -> str:
    """The address itself, once it can be read."""
    if not isinstance(value, str):
        raise ValueError(f"must be text such as 127.0.0.1:8000, not {shown(value)}")
    parse_bind(value.strip())
    return value.strip()
