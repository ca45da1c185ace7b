"""The opening handshake, server side, from a parsed request head to what is agreed (RFC 6455, 4.2),
and to the 101 of HTTP/1.1. In HTTP/2 it is an extended CONNECT and a 200 (RFC 8441, 5).
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterable

from asgi_poller.errors import ApplicationFault, HttpFault
from asgi_poller.protocols.http1.headers import encode_headers
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import DefaultHeaders
from asgi_poller.protocols.websocket.permessage_deflate import Deflate, negotiate

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_ALLOW = ((b"allow", b"GET"),)  # RFC 9110, 15.5.6
_VERSION = b"13"
_SUPPORTED = (b"sec-websocket-version", _VERSION)  # RFC 6455, 4.4
_NO_VERSION = "no Sec-WebSocket-Version"
_OTHER_VERSION = "WebSocket version 13 is spoken here"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_NAMES = frozenset(
    b"sec-websocket-" + name for name in (b"key", b"version", b"protocol", b"extensions")
)
_OUR_NAMES = frozenset(b"sec-websocket-" + name for name in (b"accept", b"protocol", b"extensions"))
_OURS = tuple(name + b": " for name in _OUR_NAMES)
_NOT_YOURS = "Sec-WebSocket-* headers are set by the server; use `subprotocol`"
Field = tuple[bytes, bytes]


class Handshake:
    """A valid opening handshake that waits for the application's answer. Dropped once it is
    answered.
    """

    __slots__ = ("_offers", "accepted_at", "key", "request_id", "subprotocols")

    def __init__(self, key: bytes, subprotocols: list[str], offers: str) -> None:
        #: When the system gave us the connection, in monotonic seconds; 0.0: nobody asks.
        self.accepted_at = 0.0
        self.key = key  # empty in HTTP/2
        self._offers = offers
        self.request_id = b""  # with --request-id
        self.subprotocols = subprotocols

    def accept(
        self,
        *,
        subprotocol: object = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        default_headers: DefaultHeaders,
        deflate: str = "off",
    ) -> tuple[bytes, Deflate | None]:
        """The 101 response, and the compression that was agreed.

        `default_headers` gives whole header lines. `deflate` is `off`, `on` or `takeover`. Raises
        ApplicationFault as `agree` does, and for headers that are ours to set.
        """
        if subprotocol is None and not headers and (deflate == "off" or not self._offers):
            token = _accept_token(self.key)
            return b"".join((_SWITCHING, token, default_headers({}), b"\r\n")), None
        agreed, compression = self.agree(subprotocol, deflate)
        lines = [_SWITCHING + _accept_token(self.key)]
        lines += [b"%b: %b\r\n" % field for field in agreed]
        own_count = len(lines)
        given = encode_headers(headers, lines)
        if any(line.lower().startswith(_OURS) for line in lines[own_count:]):
            raise ApplicationFault(_NOT_YOURS)
        lines += (default_headers(given), b"\r\n")
        return b"".join(lines), compression

    def agree(self, subprotocol: object, deflate: str) -> tuple[list[Field], Deflate | None]:
        """The fields that say what is agreed, and the compression. `deflate` is as for `accept`.

        Raises ApplicationFault for a subprotocol that the client did not offer (RFC 6455, 4.2.2).
        """
        agreed: list[Field] = []
        if subprotocol is not None:
            if not isinstance(subprotocol, str) or subprotocol not in self.subprotocols:
                raise ApplicationFault(
                    f"subprotocol {subprotocol!r} was not offered: {self.subprotocols}"
                )
            agreed.append((b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
        if deflate == "off":
            return agreed, None
        negotiated = negotiate(self._offers, takeover=deflate == "takeover")
        if negotiated is None:
            return agreed, None
        agreed.append((b"Sec-WebSocket-Extensions", negotiated[0].encode()))
        return agreed, negotiated[1]


def check_own_fields(fields: Iterable[Field]) -> None:
    """Raises ApplicationFault if the application gives a field (in lower case) that is ours."""
    if any(name in _OUR_NAMES for name, _ in fields):
        raise ApplicationFault(_NOT_YOURS)


def check_handshake(head: RequestHead) -> Handshake:
    """RFC 6455, 4.2.1. Raises HttpFault 400, 405 or 426."""
    if head.method != "GET":
        raise HttpFault(405, "a WebSocket handshake is a GET request", _ALLOW)
    if head.http_version != "1.1":
        raise HttpFault(400, "a WebSocket handshake needs HTTP/1.1")
    if head.has_body:  # its octets would be taken for frames
        raise HttpFault(400, "a WebSocket handshake has no body")
    handshake, version = _read(head)
    if version is None:
        raise HttpFault(400, _NO_VERSION)
    if version != _VERSION:
        raise HttpFault(426, _OTHER_VERSION, (_SUPPORTED, (b"upgrade", b"websocket")))
    if not handshake.key:
        raise HttpFault(400, "no Sec-WebSocket-Key")
    if not _is_key(handshake.key):
        raise HttpFault(400, "Sec-WebSocket-Key is not 16 octets in base64")
    return handshake


def check_connect(head: RequestHead) -> Handshake:
    """The same for an extended CONNECT, which needs no key (RFC 8441, 5). Raises HttpFault 400."""
    handshake, version = _read(head)
    if version is None:
        raise HttpFault(400, _NO_VERSION)
    if version != _VERSION:  # 426 needs Upgrade, which HTTP/2 does not have
        raise HttpFault(400, _OTHER_VERSION, (_SUPPORTED,))
    return handshake


def _read(head: RequestHead) -> tuple[Handshake, bytes | None]:
    """What both versions of HTTP have, and the WebSocket version."""
    key = version = None
    subprotocols: list[str] = []
    offers = ""
    for name, value in head.headers:
        if name not in _NAMES:
            continue
        if name == b"sec-websocket-key":
            if key is not None:
                raise HttpFault(400, "more than one Sec-WebSocket-Key")
            key = value
        elif name == b"sec-websocket-version":
            version = value
        elif name == b"sec-websocket-protocol":
            subprotocols += [
                part.strip() for part in value.decode("latin-1").split(",") if part.strip()
            ]
        elif name == b"sec-websocket-extensions":
            # more than one field is the same as one joined by commas (RFC 6455, 9.1)
            offers = f"{offers},{value.decode('latin-1')}" if offers else value.decode("latin-1")
    return Handshake(key or b"", subprotocols, offers), version


def _accept_token(key: bytes) -> bytes:
    """What shows that we have read the handshake (RFC 6455, 4.2.2), as the end of a line."""
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest)[:-1] + b"\r\n"


def _is_key(key: bytes) -> bool:
    if len(key) != 24:
        return False
    try:
        return len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False
