"""PROXY headers: whole, byte by byte, cut anywhere, wrong, and random."""

from __future__ import annotations

import itertools
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_poller.errors import ProxyProtocolFault
from asgi_poller.protocols.proxy_protocol import (
    V1_LIMIT_BYTES,
    V2_LIMIT_BYTES,
    V2_SIGNATURE,
    Family,
    Parsed,
    parse,
)

PROXY, LOCAL = 0x21, 0x20
TCP4, TCP6, UNIX_STREAM = 0x11, 0x21, 0x31
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def v2(command: int, family: int, block: bytes) -> bytes:
    return V2_SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def inet(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    hosts = socket.inet_pton(socket.AF_INET, source) + socket.inet_pton(socket.AF_INET, destination)
    return hosts + struct.pack("!HH", source_port, destination_port)


def inet6(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    packed = [socket.inet_pton(socket.AF_INET6, host) for host in (source, destination)]
    return b"".join(packed) + struct.pack("!HH", source_port, destination_port)


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 4960, appendix B describes it; the parser has a table."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value ^ 0xFFFFFFFF


def unix(source: bytes, destination: bytes) -> bytes:
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


BLOCK4 = inet("192.0.2.1", "198.51.100.7", 56324, 443)
SSL_VERIFIED = tlv(
    0x20,
    struct.pack("!BI", 0x07, 0)
    + tlv(0x21, b"TLSv1.3")
    + tlv(0x22, "Müller".encode())
    + tlv(0x23, b"TLS_AES_256_GCM_SHA384"),
)
# Captured from HAProxy 2.6.12: `send-proxy-v2 proxy-v2-options crc32c`, and the same with
# `ssl,cert-cn,ssl-cipher` behind a TLS bind that asked for the client's certificate.
HAPROXY_CRC32C = bytes.fromhex(
    "0d0a0d0a000d0a515549540a211100137f0000017f000001908e471a030004c48a238e"
)
HAPROXY_TLS = bytes.fromhex(
    "0d0a0d0a000d0a515549540a2111004e7f0000017f000001ad9e471b03000481327b39200038070000000021000754"
    "4c5376312e3322000d416c696365204dc3bc6c6c6572230016544c535f4145535f3235365f47434d5f534841333834"
)

# what BLOCK4 says
FROM4 = Family.INET, ("192.0.2.1", 56324), ("198.51.100.7", 443)
NOBODY = Family.UNSPEC, None, None
GOOD: dict[str, tuple[bytes, Parsed]] = {
    "v1 TCP4": (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        Parsed(Family.INET, ("192.168.0.1", 56324), ("192.168.0.11", 443), 47),
    ),
    "v1 TCP6": (
        b"PROXY TCP6 2001:DB8::1 ::1 1 65535\r\n",
        Parsed(Family.INET6, ("2001:db8::1", 1), ("::1", 65535), 36),
    ),
    "v1 TCP6 that holds IPv4": (
        b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:c633:6407 0 80\r\n",
        Parsed(Family.INET6, ("192.0.2.9", 0), ("198.51.100.7", 80), 51),
    ),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", Parsed(*NOBODY, 15)),
    "v1 UNKNOWN, longest": (
        b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
        Parsed(*NOBODY, 107),
    ),
    "v2 TCP4": (v2(PROXY, TCP4, BLOCK4), Parsed(*FROM4, 28)),
    "v2 UDP4: a proxy that ends QUIC": (v2(PROXY, 0x12, BLOCK4), Parsed(*FROM4, 28)),
    "v2 TCP6": (
        v2(PROXY, TCP6, inet6("2001:db8::1", "::1", 1, 2)),
        Parsed(Family.INET6, ("2001:db8::1", 1), ("::1", 2), 52),
    ),
    "v2 TCP6 that holds IPv4": (
        v2(PROXY, TCP6, inet6("::ffff:192.0.2.1", "::1", 1, 2)),
        Parsed(Family.INET6, ("192.0.2.1", 1), ("::1", 2), 52),
    ),
    "v2 unix": (
        v2(PROXY, UNIX_STREAM, unix(b"/run/client", b"/run/server")),
        Parsed(Family.UNIX, ("/run/client", 0), ("/run/server", None), 232),
    ),
    "v2 unix, unnamed and abstract": (
        v2(PROXY, UNIX_STREAM, unix(b"", b"\0server")),
        Parsed(Family.UNIX, None, ("@server", None), 232),
    ),
    "v2 unix, a name of 108 bytes that would split a log line": (
        v2(PROXY, UNIX_STREAM, unix(b"/\n" + b"a" * 106, b"/b")),
        Parsed(Family.UNIX, ("/\\n" + "a" * 106, 0), ("/b", None), 232),
    ),
    "v2 LOCAL": (v2(LOCAL, 0, b""), Parsed(*NOBODY, 16)),
    "v2 LOCAL: the block is discarded, its nonsense too": (
        v2(LOCAL, 0xFF, b"\xff" * 9),
        Parsed(*NOBODY, 25),
    ),
    "v2 UNSPEC": (v2(PROXY, 0, b"\xff" * 40), Parsed(*NOBODY, 56)),
    "v2 INET over an unknown transport": (v2(PROXY, 0x10, BLOCK4), Parsed(*NOBODY, 28)),
    "v2 with TLVs to skip": (
        v2(PROXY, TCP4, BLOCK4 + tlv(1, b"http/1.1") + tlv(4, b"") + tlv(0xEA, b"vpce-1")),
        Parsed(*FROM4, 51),
    ),
    "v2 over TLS": (
        v2(PROXY, TCP4, BLOCK4 + SSL_VERIFIED),
        Parsed(*FROM4, 28 + len(SSL_VERIFIED), True),
    ),
    "v2 over TLS, no client certificate": (
        v2(PROXY, TCP4, BLOCK4 + tlv(0x20, struct.pack("!BI", 0x01, 0) + tlv(0x21, b"TLSv1.2"))),
        Parsed(*FROM4, 46, True),
    ),
    "v2 with the TLS field of a plain connection": (
        v2(PROXY, TCP4, BLOCK4 + tlv(0x20, struct.pack("!BI", 0x00, 1))),
        Parsed(*FROM4, 36),
    ),
    "v2 with a checksum": (
        HAPROXY_CRC32C,
        Parsed(Family.INET, ("127.0.0.1", 37006), ("127.0.0.1", 18202), 35),
    ),
    "v2 with a checksum, over TLS with a client certificate": (
        HAPROXY_TLS,
        Parsed(Family.INET, ("127.0.0.1", 44446), ("127.0.0.1", 18203), 94, True),
    ),
}

BAD: dict[str, bytes] = {
    "HTTP": REQUEST,
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01",
    "lower case": b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 no family": b"PROXY \r\n",
    "v1 bare LF": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    "v1 never ends": b"PROXY TCP4 " + b"1" * 200,
    "v1 ends one byte too late": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "v1 UDP": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 UNKNOWNX": b"PROXY UNKNOWNX\r\n",
    "v1 two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 tab": b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 five fields": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "v1 seven fields": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    "v1 trailing space": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
    "v1 CR inside": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n",
    "v1 IPv6 as TCP4": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "v1 IPv4 as TCP6": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 octal": b"PROXY TCP4 010.2.3.4 1.2.3.4 1 2\r\n",
    "v1 three numbers": b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
    "v1 a name": b"PROXY TCP4 localhost 1.2.3.4 1 2\r\n",
    "v1 a zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "v1 a network": b"PROXY TCP4 1.2.3.4/32 1.2.3.4 1 2\r\n",
    "v1 not ASCII": "PROXY TCP4 1.2.3.٤ 1.2.3.4 1 2\r\n".encode(),
    "v1 port too large": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "v1 port with a zero": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "v1 port with a sign": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "v1 port negative": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n",
    "v1 port with an underscore": b"PROXY TCP4 1.2.3.4 1.2.3.4 1_0 2\r\n",
    "v1 port empty": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
    "v2 version 1": v2(0x11, TCP4, BLOCK4),
    "v2 version 3": v2(0x31, TCP4, BLOCK4),
    "v2 unassigned command": v2(0x22, TCP4, BLOCK4),
    "v2 unassigned family": v2(PROXY, 0x41, BLOCK4),
    "v2 unassigned transport": v2(PROXY, 0x13, BLOCK4),
    "v2 addresses cut short": v2(PROXY, TCP4, BLOCK4[:-1]),
    "v2 IPv6 addresses cut short": v2(PROXY, TCP6, BLOCK4),
    "v2 unix paths cut short": v2(PROXY, UNIX_STREAM, BLOCK4),
    "v2 no addresses": v2(PROXY, TCP4, b""),
    "v2 TLV cut short": v2(PROXY, TCP4, BLOCK4 + b"\x01\x00"),
    "v2 TLV longer than the header": v2(PROXY, TCP4, BLOCK4 + b"\x01\xff\xff" + b"a"),
    "v2 TLS field cut short": v2(PROXY, TCP4, BLOCK4 + tlv(0x20, b"\x01\0\0\0")),
    "v2 TLS sub-field longer than its field": v2(
        PROXY, TCP4, BLOCK4 + tlv(0x20, b"\x01\0\0\0\0\x21\0\x09TLS") + tlv(4, b"abcdef")
    ),
    "v2 checksum wrong": HAPROXY_CRC32C[:-1] + b"\0",
    "v2 address changed under the checksum": HAPROXY_CRC32C.replace(
        b"\x7f\0\0\x01", b"\x0a\0\0\x01"
    ),
    "v2 checksum of 3 bytes": v2(PROXY, TCP4, BLOCK4 + tlv(3, b"abc")),
    "v2 larger than the limit": v2(PROXY, TCP4, BLOCK4 + bytes(V2_LIMIT_BYTES)),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("trailing", [b"", REQUEST, b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n"])
def test_header_is_parsed_and_nothing_after_it_is_touched(name: str, trailing: bytes) -> None:
    header, parsed = GOOD[name]
    assert parse(header + trailing) == parsed
    assert parsed.consumed_bytes == len(header)


@pytest.mark.parametrize("name", GOOD)
def test_every_proper_prefix_asks_for_more(name: str) -> None:
    header, _ = GOOD[name]
    for cut in range(len(header)):
        assert parse(header[:cut]) is None, cut


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("trailing", [b"", REQUEST])
def test_malformed_header_is_a_fault(name: str, trailing: bytes) -> None:
    with pytest.raises(ProxyProtocolFault):
        parse(BAD[name] + trailing)


@pytest.mark.parametrize("name", BAD)
def test_malformed_header_never_passes_octet_by_octet(name: str) -> None:
    """Once a fault, always a fault; and before it nothing but "read more"."""
    data = BAD[name]
    faulted = False
    for cut in range(len(data) + 1):
        try:
            assert parse(data[:cut]) is None
            assert not faulted
        except ProxyProtocolFault:
            faulted = True
    assert faulted


def test_two_checksums_are_refused_although_both_are_right() -> None:
    """Each checksum costs a walk over the header; hundreds of them would be an attack."""
    block = BLOCK4 + tlv(3, bytes(4)) + tlv(3, bytes(4))
    with pytest.raises(ProxyProtocolFault, match="wrong"):
        parse(v2(PROXY, TCP4, block))
    first = crc32c(v2(PROXY, TCP4, block))
    block = BLOCK4 + tlv(3, first.to_bytes(4, "big")) + tlv(3, bytes(4))
    with pytest.raises(ProxyProtocolFault, match="not one checksum"):
        parse(v2(PROXY, TCP4, block))


def test_a_length_over_the_limit_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(ProxyProtocolFault, match="the limit is 4096"):
        parse(V2_SIGNATURE + b"\x21\x11\xff\xff")
    with pytest.raises(ProxyProtocolFault, match="the limit is 27"):
        parse(v2(PROXY, TCP4, BLOCK4)[:16], limit_bytes=27)
    assert parse(v2(PROXY, TCP4, BLOCK4), limit_bytes=28) is not None
    largest = v2(PROXY, TCP4, BLOCK4 + tlv(4, bytes(V2_LIMIT_BYTES - 28 - 3)))
    assert len(largest) == V2_LIMIT_BYTES
    assert parse(largest) is not None


def test_a_line_without_end_is_refused_at_107_octets() -> None:
    line = b"PROXY UNKNOWN " + b"a" * 200
    assert parse(line[: V1_LIMIT_BYTES - 1]) is None
    with pytest.raises(ProxyProtocolFault, match="107"):
        parse(line[:V1_LIMIT_BYTES])


def test_faults_of_a_first_octet_come_at_once() -> None:
    """A plain client on a PROXY port is turned away with its first byte, not at a deadline."""
    expected = {b"P"[0], b"\r"[0]}
    for byte in range(256):
        if byte in expected:
            assert parse(bytes([byte])) is None
        else:
            with pytest.raises(ProxyProtocolFault):
                parse(bytes([byte]))


HEADERS = [header for header, _ in GOOD.values()] + list(BAD.values())
MUTATED = st.builds(
    lambda header, place, piece: (
        header[: place % len(header)] + piece + header[place % len(header) :][1:]
    ),
    st.sampled_from(HEADERS),
    st.integers(0, 300),
    st.binary(max_size=3),
)


@given(
    st.one_of(
        st.binary(max_size=300),
        MUTATED,
        st.binary(max_size=120).map(lambda tail: b"PROXY TCP4 " + tail),
        st.builds(v2, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300)),
        st.binary(max_size=200).map(lambda tail: v2(PROXY, TCP4, BLOCK4 + tail)),
        st.binary(max_size=80).map(lambda sub: v2(PROXY, TCP4, BLOCK4 + tlv(0x20, b"\1" + sub))),
    ),
    st.binary(max_size=20),
)
@example(b"", b"")
@example(V2_SIGNATURE, b"")
def test_any_octets_give_a_result_or_a_fault_and_more_octets_never_change_it(
    data: bytes, more: bytes
) -> None:
    try:
        parsed = parse(data)
    except ProxyProtocolFault:
        with pytest.raises(ProxyProtocolFault):
            parse(data + more)
        return
    if parsed is None:
        assert len(data) < V2_LIMIT_BYTES
        return
    assert 15 <= parsed.consumed_bytes <= len(data)
    assert parse(data + more) == parsed
    assert parse(data[: parsed.consumed_bytes]) == parsed


ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
PORTS = st.integers(0, 65535)


@given(ADDRESSES, PORTS, PORTS)
def test_both_versions_agree(
    addresses: tuple[IPv4Address | IPv6Address, ...], source_port: int, destination_port: int
) -> None:
    version, (source, destination) = addresses[0].version, map(str, addresses)
    family = "TCP4" if version == 4 else "TCP6"
    line = f"PROXY {family} {source} {destination} {source_port} {destination_port}\r\n".encode()
    pack = inet if version == 4 else inet6
    block = pack(source, destination, source_port, destination_port)
    first, second = parse(line), parse(v2(PROXY, TCP4 if version == 4 else TCP6, block))
    assert first is not None
    assert second is not None
    assert (first.source, first.destination) == (second.source, second.destination)
    if version == 4:
        assert first.source == (source, source_port)


def test_no_signature_is_a_prefix_of_the_other() -> None:
    starts = {header[:6] for header, _ in GOOD.values()}
    for one, other in itertools.combinations(starts, 2):
        assert not one.startswith(other)
