"""ASGI scopes from request heads (ASGI: HTTP & WebSocket, Connection Scope)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

from asgi_poller.asgi.request_id import identify, note_in
from asgi_poller.asgi.topics_port import EXTENSION
from asgi_poller.asgi.types import ASGI_VERSION, HTTP_SPEC_VERSION, WEBSOCKET_SPEC_VERSION
from asgi_poller.protocols.http1.parser import Headers, RequestHead

Address = tuple[str, int | None]


_SLASH = ord("/")
_KEPT_TARGET_BYTES = 256
_TARGETS_LIMIT = 1024
# One for all scopes: it is the same for each, and 200 octets of every idle WebSocket otherwise.
_HTTP = {"version": ASGI_VERSION, "spec_version": HTTP_SPEC_VERSION}
_WEBSOCKET = {"version": ASGI_VERSION, "spec_version": WEBSOCKET_SPEC_VERSION}
_TOPIC: dict[str, object] = {}
# Each scope has a copy, for applications and what is around them may add to it.
_EXTENSIONS_1_0: dict[str, Any] = {
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
    "http.response.debug": {},
}
_EXTENSIONS: dict[str, Any] = {"http.response.early_hint": {}, **_EXTENSIONS_1_0}
_TRAILERS: dict[str, object] = {}


class Hosts(Protocol):
    """A set of hosts, such as TrustedHosts; None stands for the peers of unix sockets."""

    def __contains__(self, host: str | None, /) -> bool: ...


class Forwarding(Protocol):
    """Who may say on whose behalf it speaks, and what it says (`proxy_headers.py`)."""

    def apply(
        self, headers: Headers, client: Address | None, scheme: str
    ) -> tuple[Address | None, str]: ...


class Peer:
    """The two ends of one connection as scopes name them. `scheme` is http or https.
    `accepted_at` is when it was accepted, in monotonic seconds; 0.0: nobody asks.
    """

    __slots__ = ("accepted_at", "client", "scheme", "server", "tls")

    def __init__(
        self,
        client: Address | None,
        server: Address | None,
        scheme: str = "http",
        tls: dict[str, Any] | None = None,
        *,
        accepted_at: float = 0.0,
    ) -> None:
        self.accepted_at = accepted_at
        self.client = client
        self.server = server
        self.scheme = scheme
        self.tls = tls  # the ASGI `tls` extension, or None


@dataclass(slots=True)
class ScopeMaker:
    """What the scopes of one loop have in common. Owned by the loop's thread.

    `state` is the lifespan's state; every scope gets a shallow copy (ASGI: Lifespan State).
    """

    root_path: str = ""
    trusted: Hosts | None = None  # who may send names with _; None: everybody
    forwarding: Forwarding | None = None
    id_proxies: Hosts | None = None  # whose request ids are taken; None: there are no ids
    state: dict[str, Any] = field(default_factory=dict)
    _targets: dict[bytes, tuple[str, bytes, bytes]] = field(default_factory=dict)

    def _drop_underscores(self, head: RequestHead, peer: Peer) -> None:
        """Names with `_` look like others to applications that read CGI's names."""
        host = None if peer.client is None else peer.client[0]
        if self.trusted is not None and host not in self.trusted:
            head.headers[:] = [field for field in head.headers if b"_" not in field[0]]

    def http(self, head: RequestHead, peer: Peer) -> dict[str, Any]:
        """The scope of one request."""
        client, scheme = peer.client, peer.scheme
        if head.has_underscores:
            self._drop_underscores(head, peer)
        if head.is_forwarded and self.forwarding is not None:
            client, scheme = self.forwarding.apply(head.headers, client, scheme)
        path, raw_path, query = self._targets.get(head.target) or self._target(head.target)
        extensions = (_EXTENSIONS if head.http_version != "1.0" else _EXTENSIONS_1_0).copy()
        if head.accepts_trailers:
            extensions["http.response.trailers"] = _TRAILERS
        if peer.tls is not None:
            extensions["tls"] = peer.tls
        scope = {
            "type": "http",
            "asgi": _HTTP,
            "http_version": head.http_version,
            "server": peer.server,
            "client": client,
            "scheme": scheme,
            "method": head.method,
            "root_path": self.root_path,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": head.headers,
            "state": self.state.copy(),
            "extensions": extensions,
        }
        if self.id_proxies is not None:
            note_in(scope, self._identify(head, peer, self.id_proxies))
        return scope

    def _identify(self, head: RequestHead, peer: Peer, proxies: Hosts) -> bytes:
        host = None if peer.client is None else peer.client[0]
        return identify(head, is_trusted=host in proxies)

    def websocket(self, head: RequestHead, peer: Peer, subprotocols: list[str]) -> dict[str, Any]:
        """The scope of one WebSocket handshake."""
        client, scheme = peer.client, peer.scheme
        if head.has_underscores:
            self._drop_underscores(head, peer)
        if head.is_forwarded and self.forwarding is not None:
            client, scheme = self.forwarding.apply(head.headers, client, scheme)
        path, raw_path, query = self._targets.get(head.target) or self._target(head.target)
        extensions: dict[str, Any] = {"websocket.http.response": {}, EXTENSION: _TOPIC}
        if peer.tls is not None:
            extensions["tls"] = peer.tls
        scope = {
            "type": "websocket",
            "asgi": _WEBSOCKET,
            "http_version": head.http_version,
            "scheme": "wss" if scheme in ("https", "wss") else "ws",
            "server": peer.server,
            "client": client,
            "root_path": self.root_path,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": head.headers,
            "subprotocols": subprotocols,
            "state": self.state.copy(),
            "extensions": extensions,
        }
        if self.id_proxies is not None:
            note_in(scope, self._identify(head, peer, self.id_proxies))
        return scope

    def _target(self, target: bytes) -> tuple[str, bytes, bytes]:
        """Path, raw path and query of a request target (RFC 9112, 3.2)."""
        # a fragment is not for the server (RFC 9110, 4.2.5), not even one with a question mark
        raw_path, _, query = target.partition(b"#")[0].partition(b"?")
        if target[0] != _SLASH:
            raw_path = _strip_authority(raw_path)
        path = raw_path.decode("latin-1")
        if "%" in path:
            path = unquote(path)
        if self.root_path:
            path, raw_path = self.root_path + path, self.root_path.encode() + raw_path
        # most requests are for the same few targets: those without a query, not long, are kept
        if not query and len(target) <= _KEPT_TARGET_BYTES:
            if len(self._targets) >= _TARGETS_LIMIT:
                self._targets.clear()
            self._targets[target] = path, raw_path, query
        return path, raw_path, query


def _strip_authority(raw_path: bytes) -> bytes:
    """The path of an absolute-form target; other forms (`*`) stay as they are."""
    scheme, separator, rest = raw_path.partition(b"://")
    if not separator or not scheme.isalpha():
        return raw_path
    _, slash, path = rest.partition(b"/")
    return slash + path if slash else b"/"
