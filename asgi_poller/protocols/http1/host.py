"""The host that a request is for: of its Host header, and of a target in absolute form."""

from __future__ import annotations

import re

from asgi_poller.errors import HttpFault

# RFC 3986, 3.2.2 and 3.2.3: an address in brackets or a registered name, and perhaps a port
_HOST = re.compile(rb"(\[[0-9A-Za-z.:%_~-]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(:[0-9]*)?")
_END_OF_AUTHORITY = re.compile(rb"[/?#]")  # RFC 3986, 3.2
KNOWN_HOSTS: set[bytes] = set()  # that were found valid: there are few, and each comes often
_KNOWN_HOSTS_LIMIT = 1024  # a client that makes hosts up must not fill the memory


def learn_host(value: bytes) -> None:
    """RFC 9112, 3.2: an invalid Host is answered 400; applications build links from it. Raises
    HttpFault.
    """
    if not _HOST.fullmatch(value):
        raise HttpFault(400, "the Host header is not a host")
    if len(KNOWN_HOSTS) < _KNOWN_HOSTS_LIMIT:
        KNOWN_HOSTS.add(value)


def host_of_target(target: bytes) -> bytes | None:
    """The host of a target in absolute form (RFC 9112, 3.2.2), None for other forms. Raises
    HttpFault.
    """
    scheme, separator, rest = target.partition(b"://")
    if not separator or not scheme.isalpha():
        return None
    host = _END_OF_AUTHORITY.split(rest, maxsplit=1)[0].rpartition(b"@")[2]
    learn_host(host)
    return host


def take_host_of_target(target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """RFC 9112, 3.2.2: the host of a target in absolute form replaces the Host header, or what is
    allowed for one would be served as the other. Raises HttpFault.
    """
    host = host_of_target(target)
    if host is not None:
        headers[:] = [(b"host", host), *(field for field in headers if field[0] != b"host")]
