"""The PROXY protocol, versions 1 and 2: whom a proxy in front is speaking for.

Source: "The PROXY protocol, Versions 1 & 2" (HAProxy, doc/proxy-protocol.txt). Section numbers
below are that document's.

A proxy puts one header before the first octet of the connection. `parse` is given everything
received so far and answers in one of three ways, whatever the octets are:

    Parsed               the header is whole; `consumed_bytes` of `data` belong to it
    None                 a proper prefix of a header: read more and call again with all of it
    ProxyProtocolFault   this can never become a header: close the connection, answer nothing

Nothing is guessed: where the header is expected, a connection without one is a fault (section 2:
the receiver "MUST not try to guess whether the protocol header is present or not"). Whether the
peer may send one at all is the caller's question; from anyone else it is a lie about who is
calling.

The parser keeps nothing between calls and never looks further than its limits: 107 octets for
version 1, 16 octets and the announced length for version 2, whose length is refused before it is
waited for.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from asgi_poller.errors import ProxyProtocolFault

V1_SIGNATURE = b"PROXY "
V1_LIMIT_BYTES = 107  # 2.1: the longest line, CRLF included; a longer one is refused
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"  # 2.2
V2_FIXED_BYTES = 16
# Unit: octets, the 16 fixed ones included. Exceeded: the connection is closed. nginx has the same
# limit (NGX_PROXY_PROTOCOL_MAX_HEADER); section 2 asks for 536, certificates in TLVs are the only
# reason for more.
V2_LIMIT_BYTES = 4096

_PP2_TYPE_CRC32C = 0x03  # 2.2.3
_PP2_TYPE_SSL = 0x20  # 2.2.6
_PP2_CLIENT_SSL = 0x01
_UNIX_PATH_BYTES = 108
_FIXED = struct.Struct("!12sBBH")
_SSL_FIXED = struct.Struct("!BI")


class Family(Enum):
    """The address family that the header announced. UNSPEC: keep the connection's own addresses."""

    UNSPEC = 0
    INET = 1
    INET6 = 2
    UNIX = 3


@dataclass(frozen=True, slots=True)
class Parsed:
    """One whole header. Immutable, owned by no thread.

    `source` and `destination` are ASGI's `client` and `server` pairs, None where the header says to
    keep the connection's real ones (LOCAL, UNKNOWN, UNSPEC). For `Family.UNIX` they are (path, 0)
    and (path, None), and None for a socket without a name. `consumed_bytes` is the length of the
    header. `tls`: the proxy's client spoke TLS (2.2.6), so that the scheme is https or wss.
    """

    family: Family
    source: tuple[str, int] | None
    destination: tuple[str, int | None] | None
    consumed_bytes: int
    tls: bool = False


def parse(data: bytes, *, limit_bytes: int = V2_LIMIT_BYTES) -> Parsed | None:
    """Parse the PROXY header at the start of `data`; the module's docstring has the three outcomes.

    `limit_bytes` bounds a version 2 header, the 16 fixed ones included. Raises ProxyProtocolFault.
    """
    if data.startswith(V2_SIGNATURE):
        return _parse_v2(data, limit_bytes)
    if data.startswith(V1_SIGNATURE):
        return _parse_v1(data)
    if V1_SIGNATURE.startswith(data) or V2_SIGNATURE.startswith(data):
        return None
    raise ProxyProtocolFault("the connection does not begin with a PROXY header")


def _parse_v1(data: bytes) -> Parsed | None:
    """The line of text (section 2.1)."""
    end = data.find(b"\n", 0, V1_LIMIT_BYTES)
    if end < 0:
        if len(data) >= V1_LIMIT_BYTES:
            raise ProxyProtocolFault(f"version 1: no line end in {V1_LIMIT_BYTES} octets")
        return None
    if data[end - 1 : end] != b"\r":
        raise ProxyProtocolFault("version 1: the line does not end with CRLF")
    fields = data[: end - 1].split(b" ")
    consumed = end + 1
    if fields[1] == b"UNKNOWN":
        # 2.1: "the receiver must ignore anything presented before the CRLF is found"
        return Parsed(Family.UNSPEC, None, None, consumed)
    if len(fields) != 6:
        raise ProxyProtocolFault(f"version 1: {len(fields)} fields instead of 6")
    match fields[1]:
        case b"TCP4":
            family = Family.INET
        case b"TCP6":
            family = Family.INET6
        case _:
            raise ProxyProtocolFault("version 1: the protocol is not TCP4, TCP6 or UNKNOWN")
    source = _host_v1(fields[2], family), _port_v1(fields[4])
    destination = _host_v1(fields[3], family), _port_v1(fields[5])
    return Parsed(family, source, destination, consumed)


def _host_v1(field: bytes, family: Family) -> str:
    # ipaddress refuses leading zeros in IPv4, as 2.1 does; a zone ("%eth0") it takes, and 2.1 does
    # not.
    try:
        text = field.decode("ascii")
        if family is Family.INET:
            return str(ipaddress.IPv4Address(text))
        if "%" in text:
            raise ValueError("a zone")
        return _host_v6(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise ProxyProtocolFault(f"version 1: no {family.name} address: {field!r}") from error


def _port_v1(field: bytes) -> int:
    # 2.1 forbids leading zeros; isdigit() on bytes knows ASCII digits only, int() alone would take
    # "+1" and "1_0".
    if not field.isdigit() or len(field) > 5 or (field[0] == 0x30 and field != b"0"):
        raise ProxyProtocolFault(f"version 1: no port number: {field!r}")
    port = int(field)
    if port > 65535:
        raise ProxyProtocolFault(f"version 1: no port number: {field!r}")
    return port


def _host_v6(address: ipaddress.IPv6Address) -> str:
    # A proxy that joins the two families writes IPv4 as ::ffff:a.b.c.d. Undone here, so that one
    # client has one name in logs and limits, and the same one on every Python (str() of a mapped
    # address changed in 3.13).
    mapped = address.ipv4_mapped
    return str(address if mapped is None else mapped)


def _parse_v2(data: bytes, limit_bytes: int) -> Parsed | None:
    """The binary header (section 2.2)."""
    if len(data) < V2_FIXED_BYTES:
        return None
    _, version_command, family_transport, length = _FIXED.unpack_from(data)
    if version_command not in (0x20, 0x21):
        raise ProxyProtocolFault(f"version 2: version and command are 0x{version_command:02x}")
    total = V2_FIXED_BYTES + length
    if total > limit_bytes:
        raise ProxyProtocolFault(
            f"version 2: a header of {total} octets, the limit is {limit_bytes}"
        )
    if version_command == 0x21 and (family_transport >> 4 > 3 or family_transport & 15 > 2):
        # 2.2: unassigned values "must be rejected as invalid by receivers"
        raise ProxyProtocolFault(f"version 2: family and transport are 0x{family_transport:02x}")
    if len(data) < total:
        return None
    if version_command == 0x20:
        # 2.2: LOCAL, the proxy's own health check; the block is discarded, the family with it
        return Parsed(Family.UNSPEC, None, None, total)
    # 2.2: with a transport of UNSPEC too "the receiver should ignore address information". DGRAM is
    # taken: a proxy that ends QUIC and forwards over TCP may announce its client's transport.
    family = Family(family_transport >> 4 if family_transport & 15 else 0)
    source, destination, address_bytes = _addresses_v2(data, family, total)
    tls = _tlvs(data, V2_FIXED_BYTES + address_bytes, total)
    return Parsed(family, source, destination, total, tls)


def _addresses_v2(
    data: bytes, family: Family, total: int
) -> tuple[tuple[str, int] | None, tuple[str, int | None] | None, int]:
    """Source, destination, and how many octets they took after the fixed part."""
    match family:
        case Family.UNSPEC:
            # Nobody says how long such a block of addresses is, so no TLV can be found in it.
            return None, None, total - V2_FIXED_BYTES
        case Family.INET:
            address_bytes = 12
        case Family.INET6:
            address_bytes = 36
        case Family.UNIX:
            address_bytes = 2 * _UNIX_PATH_BYTES
    if total < V2_FIXED_BYTES + address_bytes:
        raise ProxyProtocolFault(
            f"version 2: {family.name} addresses do not fit the announced length"
        )
    block = data[V2_FIXED_BYTES : V2_FIXED_BYTES + address_bytes]
    if family is Family.UNIX:
        source, destination = (
            _unix_path(block[:_UNIX_PATH_BYTES]),
            _unix_path(block[_UNIX_PATH_BYTES:]),
        )
        return (
            None if source is None else (source, 0),
            None if destination is None else (destination, None),
            address_bytes,
        )
    source_port, destination_port = struct.unpack("!HH", block[-4:])
    half = (address_bytes - 4) // 2
    hosts = [
        str(ipaddress.IPv4Address(packed))
        if family is Family.INET
        else _host_v6(ipaddress.IPv6Address(packed))
        for packed in (block[:half], block[half : 2 * half])
    ]
    return (hosts[0], source_port), (hosts[1], destination_port), address_bytes


def _unix_path(block: bytes) -> str | None:
    # unix(7): a path ends at the first NUL; one that begins with NUL is abstract, all NUL: unnamed.
    if block[:1] == b"\0":
        name = block.rstrip(b"\0")[1:]
        return "@" + _text(name) if name else None
    return _text(block.partition(b"\0")[0])


def _text(octets: bytes) -> str:
    # It ends up in logs: what does not print is escaped.
    text = octets.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The (type, start, end) of each type-length-value in a range that they must fill exactly."""
    while start < end:
        if end - start < 3:
            raise ProxyProtocolFault("version 2: a TLV is cut short")
        kind, length = struct.unpack_from("!BH", data, start)
        start += 3
        if length > end - start:
            raise ProxyProtocolFault("version 2: a TLV is longer than the header")
        yield kind, start, start + length
        start += length


def _tlvs(data: bytes, start: int, end: int) -> bool:
    """Whether the client spoke TLS. The checksum is verified, other TLVs are skipped."""
    tls = False
    checked = False
    for kind, value_start, value_end in _fields(data, start, end):
        if kind == _PP2_TYPE_CRC32C:
            # One only: each costs a walk over the whole header.
            if value_end - value_start != 4 or checked:
                raise ProxyProtocolFault("version 2: not one checksum of 4 octets")
            checked = True
            header = data[:value_start] + bytes(4) + data[value_end:end]
            if _crc32c(header) != int.from_bytes(data[value_start:value_end], "big"):
                raise ProxyProtocolFault("version 2: the checksum is wrong")
        elif kind == _PP2_TYPE_SSL:
            tls = _is_tls(data, value_start, value_end)
    return tls


def _is_tls(data: bytes, start: int, end: int) -> bool:
    if end - start < _SSL_FIXED.size:
        raise ProxyProtocolFault("version 2: the TLS field is cut short")
    client, _ = _SSL_FIXED.unpack_from(data, start)
    for _ in _fields(data, start + _SSL_FIXED.size, end):
        pass  # they must fill the field, whatever they say
    return bool(client & _PP2_CLIENT_SSL)


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for octet in range(256):
        value = octet
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def _crc32c(data: bytes) -> int:
    """CRC32c (RFC 4960, appendix B). Only headers that carry a checksum pay for it."""
    value = 0xFFFFFFFF
    for octet in data:
        value = (value >> 8) ^ _CRC32C_TABLE[(value ^ octet) & 0xFF]
    return value ^ 0xFFFFFFFF
