"""What proxies in front say about the client: X-Forwarded-For, X-Forwarded-Proto, Forwarded.

The rules are those of uvicorn's ProxyHeadersMiddleware, applied while the scope is built instead of
in a layer of its own. Every proxy appends the peer that it saw, so the header is read from the
right: the first address that is not one of our own proxies is the client, and whatever stands left
of it is the client's own claim and is not looked at. Only a peer that is itself a trusted proxy is
listened to at all.

Where we differ from uvicorn, on purpose:

- an IPv4 peer of an IPv6 listener (::ffff:a.b.c.d) is the IPv4 address;
- `unix` in the list trusts peers of unix sockets (uvicorn can trust them by `*` only);
- an entry that looks like an address and is none is an error at start, not a literal nobody has;
- empty elements are skipped (RFC 9110, 5.6.1), and a client that the trusted proxy describes in
  characters that belong in no address becomes ("unknown", 0): never the proxy's own address, which
  applications may trust, and nothing that could forge a log line.

`Forwarded` (RFC 7239) is read only if there is no X-Forwarded header: a proxy that maintains the
one passes the other through as the client sent it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from asgi_poller.errors import ConfigError

Address = tuple[str, int | None]
Headers = Iterable[tuple[bytes, bytes]]

UNKNOWN: Address = ("unknown", 0)  # RFC 7239, 6.2
TRUST_EVERYONE = "*"
TRUST_UNIX = "unix"

# Unit: addresses. Beyond it all are forgotten. Bounds what a scan from many addresses
# can make us remember; the peers that matter, the proxies, are few.
_REMEMBERED_LIMIT_COUNT = 4096
_HOST_LIMIT_BYTES = 253  # RFC 1035, 2.3.4: a name; an address is shorter

_HOST = re.compile(r"[A-Za-z0-9._:%/-]{1,253}")
_PORT = re.compile(r"[0-9]{1,5}")
_LIKE_ADDRESS = re.compile(r"[0-9.]+(/.*)?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%[^/]*)?(/.*)?")

# RFC 7239, 4: forwarded-pair = token "=" value; value = token / quoted-string (RFC 9110, 5.6.4)
# Colons and brackets belong into quotes (section 4, note); where they stand without, nothing else
# can be meant.
_TOKEN = r"!#$%&'*+.^_`|~0-9A-Za-z-"
_PAIR = re.compile(rf'([{_TOKEN}]+)=(?:([{_TOKEN}:\[\]]+)|"((?:[^"\\]|\\.)*)")')
_SPACE = re.compile(r"[ \t]*")
_ESCAPE = re.compile(r"\\(.)")

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedHosts:
    """Which peers are proxies of ours. Read by any thread; what it remembers is written atomically.

    `value` is a list with commas: addresses, networks, `unix`, `*` for everyone, and literals (a
    peer that is not an address, such as a test client's). Raises ConfigError for an entry that
    looks like an address but is none.
    """

    __slots__ = ("_addresses", "_literals", "_networks", "_remembered", "always")

    def __init__(self, value: str) -> None:
        self._addresses: set[_IPAddress] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._literals: set[str] = set()
        self._remembered: dict[str | None, bool] = {}
        entries = [entry.strip() for entry in value.split(",")]
        self.always = TRUST_EVERYONE in entries
        for entry in entries:
            if entry and entry != TRUST_EVERYONE:
                self._add(entry)

    def _add(self, entry: str) -> None:
        try:
            if "/" in entry and not entry.startswith("/"):
                self._networks.append(ipaddress.ip_network(entry))
            else:
                self._addresses.add(_plain(ipaddress.ip_address(entry)))
        except ValueError as error:
            if _LIKE_ADDRESS.fullmatch(entry):
                raise ConfigError(
                    "--forwarded-allow-ips",
                    f"{entry!r} is no address or network: {_why(entry, error)}",
                ) from error
            self._literals.add(entry)

    def __contains__(self, host: str | None) -> bool:
        """Whether `host` is trusted. None is the peer of a unix socket, which has no address."""
        if self.always:
            return True
        trusted = self._remembered.get(host)
        if trusted is None:
            trusted = self._look_up(host)
        return trusted

    def _look_up(self, host: str | None) -> bool:
        if host is None:
            trusted = TRUST_UNIX in self._literals
        elif len(host) > _HOST_LIMIT_BYTES:
            return False  # no address and no name, and not worth remembering
        else:
            trusted = host in self._literals or self._has_address(host)
        if len(self._remembered) >= _REMEMBERED_LIMIT_COUNT:
            self._remembered = {}
        self._remembered[host] = trusted
        return trusted

    def _has_address(self, host: str) -> bool:
        try:
            address = _plain(ipaddress.ip_address(host))
        except ValueError:
            return False  # a name or garbage: not an address we trust
        return address in self._addresses or any(address in network for network in self._networks)


def _plain(address: _IPAddress) -> _IPAddress:
    # ::ffff:a.b.c.d is how a listener on :: sees a.b.c.d (RFC 4291, 2.5.5.2)
    return address if address.version == 4 else address.ipv4_mapped or address


def _why(entry: str, error: ValueError) -> str:
    if "/" in entry:
        try:
            return f"it has host bits set; write {ipaddress.ip_network(entry, strict=False)}"
        except ValueError:
            pass  # not a network either way: the first error says why
    return str(error)


class ProxyHeaders:
    """Replaces a connection's client and scheme by what a trusted proxy says. Any thread.

    `rfc7239` says whether `Forwarded` is read too.
    """

    __slots__ = ("_names", "trusted")

    def __init__(self, trusted: TrustedHosts, *, rfc7239: bool = True) -> None:
        self.trusted = trusted
        names = {b"x-forwarded-for", b"x-forwarded-proto"}
        self._names = frozenset(names | {b"forwarded"} if rfc7239 else names)

    def apply(
        self, headers: Headers, client: Address | None, scheme: str
    ) -> tuple[Address | None, str]:
        """The scope's `client` and `scheme`, given those of the connection.

        Header names are in lower case, as in the scope. `scheme` is http, https, ws or wss; the
        answer stays with HTTP or WebSockets, whichever it was. Never raises.
        """
        if (None if client is None else client[0]) not in self.trusted:
            return client, scheme
        names = self._names
        found = [header for header in headers if header[0] in names]
        if not found:
            return client, scheme
        return self._from_headers(found, client, scheme)

    def _from_headers(
        self, found: list[tuple[bytes, bytes]], client: Address | None, scheme: str
    ) -> tuple[Address | None, str]:
        values: dict[bytes, list[str]] = {}
        for name, value in found:
            values.setdefault(name, []).append(value.decode("latin-1"))
        forwarded = values.pop(b"forwarded", None)
        if not values and forwarded is not None:
            return self._from_forwarded(", ".join(forwarded), client, scheme)
        protocols = values.get(b"x-forwarded-proto")
        if protocols:
            scheme = _scheme(protocols[-1].strip(), scheme)
        hosts = values.get(b"x-forwarded-for")
        if hosts:
            elements = [element.strip() for element in ",".join(hosts).split(",")]
            client = self._client([element for element in elements if element]) or client
        return client, scheme

    def _client(self, elements: list[str]) -> Address | None:
        """The right-most element that is not a proxy of ours; None if there are none at all."""
        if self.trusted.always:
            return _host_port(elements[0]) if elements else None
        for element in reversed(elements):
            address = _host_port(element)
            if address[0] not in self.trusted:
                return address
        # Only proxies: the first of them is the client.
        return _host_port(elements[0]) if elements else None

    def _from_forwarded(
        self, value: str, client: Address | None, scheme: str
    ) -> tuple[Address | None, str]:
        elements = parse_forwarded(value)
        if elements is None:
            # Not RFC 7239: the client may have seen to that, so nothing in it is believed.
            return UNKNOWN, scheme
        chosen: dict[str, str] | None = None
        for chosen in reversed(elements[:1] if self.trusted.always else elements):
            if "for" not in chosen or _host_port(chosen["for"])[0] not in self.trusted:
                # Our proxy wrote this one. If it does not say for whom, nothing left of it is its
                # own.
                break
        if chosen is None:
            return client, scheme
        if "for" in chosen:
            client = _host_port(chosen["for"])
        return client, _scheme(chosen.get("proto", ""), scheme)


def parse_forwarded(value: str) -> list[dict[str, str]] | None:
    """The elements of a Forwarded header, names in lower case; None if it is malformed.

    Source: RFC 7239, 4. Several header lines are joined by ", " before. Empty elements are skipped.
    """
    elements: list[dict[str, str]] = []
    pairs: dict[str, str] = {}
    position, end = 0, len(value)
    while True:
        position = _after_space(value, position)
        match = _PAIR.match(value, position)
        if match is not None:
            name = match[1].lower()
            if name in pairs:
                return None  # 4: "each parameter MUST NOT occur more than once per field-value"
            pairs[name] = match[2] if match[2] is not None else _ESCAPE.sub(r"\1", match[3])
            position = _after_space(value, match.end())
        if position == end or value[position] == ",":
            if pairs:
                elements.append(pairs)
                pairs = {}
            if position == end:
                return elements
        elif value[position] != ";":
            return None
        position += 1


def _after_space(value: str, position: int) -> int:
    match = _SPACE.match(value, position)
    return position if match is None else match.end()


def _scheme(said: str, scheme: str) -> str:
    """`said` by the proxy, in terms of HTTP or WebSockets as `scheme` is; `scheme` if it is
    none.
    """
    match said.lower():
        case "https" | "wss":
            return "wss" if scheme.startswith("ws") else "https"
        case "http" | "ws":
            return "ws" if scheme.startswith("ws") else "http"
        case _:
            return scheme


def _host_port(element: str) -> Address:
    """A node as proxies write it: address, address:port, [IPv6], [IPv6]:port, or an identifier.

    Source: RFC 7239, 6; X-Forwarded-For has the same forms, and IPv6 without brackets.
    """
    host, port = element, ""
    if element.startswith("["):
        host, bracket, rest = element[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return UNKNOWN
        port = rest[1:]
    elif element.count(":") == 1:
        host, _, port = element.partition(":")
    if not _HOST.fullmatch(host):
        return UNKNOWN
    # A port may be obfuscated ("_x1", 6.3): as good as none.
    number = int(port) if _PORT.fullmatch(port) else 0
    return host, number if number <= 65535 else 0
