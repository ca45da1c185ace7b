"""What a run is to do: one frozen dataclass that crosses to the client processes as JSON, and the
parsing of its units.
"""

from __future__ import annotations

import dataclasses
import json
import re
import socket
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

Mode = Literal["open", "hold", "echo", "fan-out"]
CloseWay = Literal["drop", "handshake"]

SECONDS_PER = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
OCTETS_PER = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20}

# RFC 6455, 5.2 allows 2**63 octets; a load tester holds `in_flight` copies of its message in
# memory.
PAYLOAD_LIMIT_OCTETS = 64 << 20
IN_FLIGHT_LIMIT_COUNT = 1024


class StormError(Exception):
    """Something the person at the command line must change; shown as one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. Seconds are floats, sizes octets, counts are over all client processes together.

    `host` is what the Host header and TLS name; `family` and `address` are what is dialled.
    `concurrency` is how many attempts may be under way at once, 0 for as many as there are;
    `sources` are the local addresses that connections start from in turn (empty: the kernel
    chooses).
    """

    host: str
    port: int
    target: str = "/"
    family: int = socket.AF_INET
    address: tuple[Any, ...] = ()
    tls: bool = False
    tls_verify: bool = True
    tls_ca: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()

    mode: Mode = "open"
    connections: int = 1000
    burst: int = 1000
    interval_s: float = 0.05
    concurrency: int = 0
    timeout_s: float = 30.0
    close: CloseWay = "drop"
    processes: int = 1

    payload: bytes = b""
    text: bool = True
    in_flight: int = 1
    deflate: bool = False
    warmup_s: float = 1.0
    duration_s: float = 5.0
    touch: bool = False

    @property
    def uses_loopback(self) -> bool:
        """True where the dialled address is this machine's loopback."""
        first = str(self.address[0]) if self.address else ""
        return first.startswith("127.") or first == "::1"

    @property
    def url(self) -> str:
        """The address as a person would type it."""
        scheme = "wss" if self.tls else "ws"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{self.target}"

    def to_json(self) -> str:
        """The plan as one line; the payload travels as latin-1."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(fields | {"payload": self.payload.decode("latin-1")})

    @classmethod
    def from_json(cls, line: str) -> Plan:
        """The inverse of `to_json`."""
        fields = json.loads(line)
        fields["payload"] = fields["payload"].encode("latin-1")
        for name in ("address", "sources"):
            fields[name] = tuple(fields[name])
        fields["headers"] = tuple((name, value) for name, value in fields["headers"])
        return cls(**fields)


def attempts_due(total: int, index: int, processes: int) -> int:
    """How many of the run's first `total` attempts are those of client process `index`: number j is
    dialled by j mod processes.
    """
    return max(0, (total - index + processes - 1) // processes)


def parse_seconds(text: str) -> float:
    """`50ms`, `2s`, `1.5m`, or a bare number of seconds. Raises StormError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)?", text.strip().lower())
    if match is None:
        raise StormError(f"{text!r} is not a duration: write it as 50ms, 2s or 1.5m")
    return float(match[1]) * SECONDS_PER[match[2] or "s"]


def parse_octets(text: str) -> int:
    """`32`, `4KiB`, `64k`, `1MiB`: k and m are powers of 1,024. Raises StormError."""
    match = re.fullmatch(r"(\d+)\s*(b|k|kib|m|mib)?", text.strip().lower())
    if match is None:
        raise StormError(f"{text!r} is not a size: write it as 32, 4KiB or 1MiB")
    octets = int(match[1]) * OCTETS_PER[match[2] or ""]
    if octets > PAYLOAD_LIMIT_OCTETS:
        raise StormError(
            f"{text!r} is more than the {PAYLOAD_LIMIT_OCTETS >> 20} MiB a message may have here"
        )
    return octets


def parse_url(url: str) -> dict[str, Any]:
    """The fields of Plan that a `ws://` or `wss://` address gives, the host resolved. Raises
    StormError.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise StormError(f"{url!r} is not an address: {error}") from error
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise StormError(
            f"{url!r} is not a WebSocket address: write it as ws://host:port/path or wss://..."
        )
    tls = parts.scheme == "wss"
    port = port or (443 if tls else 80)
    family, address = resolve(parts.hostname, port)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or any(character <= " " for character in target):
        raise StormError(f"{target!r} is not a request target: percent-encode it (RFC 3986, 2.1)")
    return {
        "host": parts.hostname,
        "port": port,
        "target": target,
        "family": family,
        "address": address,
        "tls": tls,
    }


def resolve(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """The first address that `host` resolves to, as (family, address). Raises StormError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StormError(f"{host!r} does not resolve: {error}") from error
    family, _, _, _, address = found[0]
    return int(family), tuple(address)


def loopback_sources(family: int, address: tuple[Any, ...]) -> tuple[str, ...]:
    """Local addresses to start from on IPv4 loopback, where all of 127.0.0.0/8 is ours: 249 times
    the ephemeral ports.
    """
    if family == socket.AF_INET and str(address[0]).startswith("127."):
        return tuple(f"127.0.0.{last}" for last in range(2, 251))
    return ()


def made_payload(octets: int) -> bytes:
    """A message of `octets` ASCII letters, valid as text and as binary."""
    letters = b"abcdefghijklmnopqrstuvwxyz"
    return (letters * (octets // len(letters) + 1))[:octets]


def parse_header(text: str) -> tuple[str, str]:
    """`Name: value` as (name, value). Raises StormError."""
    name, colon, value = text.partition(":")
    if (
        not colon
        or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        or re.search(r"[\r\n\0]", value)
    ):
        raise StormError(f"{text!r} is not a header: write it as 'Name: value'")
    return name, value.strip()
