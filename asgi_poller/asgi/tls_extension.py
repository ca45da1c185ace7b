"""The ASGI `tls` extension: what an application may know of the connection's TLS.

Source: ASGI TLS Extension 0.2. It is given for TLS connections only; `client_cert_error` is always
None, since a handshake whose client certificate does not verify is refused.
"""

from __future__ import annotations

import ssl
import sys
from typing import Any, TypedDict

from asgi_poller.tls import ServerContext


class TlsExtension(TypedDict):
    """The value of `scope["extensions"]["tls"]` (ASGI TLS Extension, TLS Connection Scope)."""

    server_cert: str | None
    client_cert_chain: list[str]
    client_cert_name: str | None
    client_cert_error: str | None
    tls_version: int | None
    cipher_suite: int | None


# RFC 8446, 4.2.1 and appendix D: the numbers on the wire, by OpenSSL's names.
_VERSIONS = {
    "TLSv1": 0x0301,
    "TLSv1.1": 0x0302,
    "TLSv1.2": 0x0303,
    "TLSv1.3": 0x0304,
}

# RFC 4514, 3, and the descriptors that RFC 4519 and RFC 2985 register, by OpenSSL's long names.
_DESCRIPTORS = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
    "surname": "sn",
}

_DER = 2  # _ssl.ENCODING_DER

Rdn = tuple[tuple[str, str], ...]


def tls_extension(connection: ssl.SSLObject | ssl.SSLSocket) -> TlsExtension:
    """Describe a finished handshake. Build it once for each connection; the loop's thread.

    `connection` is what a transport calls its `ssl_object`.
    """
    context = connection.context
    server_cert = None
    cipher_ids: dict[str, int] = {}
    if isinstance(context, ServerContext):
        server_cert, cipher_ids = context.server_cert_pem, context.cipher_ids
    cipher = connection.cipher()
    leaf = connection.getpeercert(binary_form=True)
    return {
        "server_cert": server_cert,
        "client_cert_chain": [] if leaf is None else _chain(connection, leaf),
        "client_cert_name": None if leaf is None else _subject(connection),
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(connection.version() or ""),
        "cipher_suite": None if cipher is None else cipher_ids.get(cipher[0]),
    }


def _chain(connection: ssl.SSLObject | ssl.SSLSocket, leaf: bytes) -> list[str]:
    """What the client sent, its own certificate first."""
    if sys.version_info >= (3, 13):
        chain = connection.get_unverified_chain()
    else:
        # There since 3.10, made public in 3.13. Without it the client's own certificate is given.
        private = getattr(getattr(connection, "_sslobj", None), "get_unverified_chain", None)
        chain = [] if private is None else [each.public_bytes(_DER) for each in private() or ()]
    return [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain or [leaf]]


def _subject(connection: ssl.SSLObject | ssl.SSLSocket) -> str:
    # Empty unless the certificate was verified, which a server's handshake always does.
    certificate: dict[str, Any] = connection.getpeercert() or {}
    return distinguished_name(certificate.get("subject", ()))


def distinguished_name(subject: tuple[Rdn, ...]) -> str:
    """A subject as `getpeercert()` gives it, in one string: the last RDN first (RFC 4514, 2.1)."""
    return ",".join(
        "+".join(f"{_DESCRIPTORS.get(name, name)}={_value(name, value)}" for name, value in rdn)
        for rdn in reversed(subject)
    )


def _value(name: str, value: str) -> str:
    """An attribute's value, escaped (RFC 4514, 2.4)."""
    if name[:1].isdigit():
        # 2.3 and 2.4: an attribute known by its number alone has its BER encoding for a value. The
        # string type is lost in Python's ssl; UTF8String has room for all of them.
        octets = value.encode()
        return "#0C" + (_ber_length(len(octets)) + octets).hex().upper()
    escaped = "".join(_escape(character) for character in value)
    if escaped.startswith(("#", " ")):
        escaped = "\\" + escaped
    if value.endswith(" ") and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped


def _escape(character: str) -> str:
    if character in '"+,;<>\\':
        return "\\" + character
    if character.isprintable():
        return character
    # 2.4 asks this of NUL and allows it for all: control characters have no business in a log.
    return "".join(f"\\{octet:02X}" for octet in character.encode())


def _ber_length(length: int) -> bytes:
    # ITU-T X.690, 8.1.3
    if length < 0x80:
        return bytes([length])
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets
