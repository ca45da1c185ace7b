"""Allow-lists for Host and Origin, precompiled: which names we answer to, which pages may connect.

A Host list keeps an application from being asked under a name that is not its own (DNS rebinding,
poisoned links). An Origin list is the defence against cross-site WebSocket hijacking: a browser
sends cookies with a WebSocket opened by *any* page, and there is no same-origin policy for
WebSockets but the server's own (RFC 6455, 10.2). A client that is no browser sends no Origin and
could send any: by default it is let in, since the list protects browsers' users, not the server
from scripts.

Matching is one set look-up for exact entries and one `endswith` for all wildcards. Everything is
compared in lower case, a wildcard stands for one or more labels and never for the bare domain, and
a value that is not well formed matches nothing but `*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from asgi_poller.errors import ConfigError

ANY = "*"
OPAQUE_ORIGIN = "null"  # RFC 6454, 6.1: sandboxed frames, file: pages, some redirects

_DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}

_NAME = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_LITERAL = r"\[[0-9a-f:.]+\]"  # RFC 3986, 3.2.2
# A name may end in the dot of the root; it is the same name.
_HOST = re.compile(rf"({_NAME}|{_LITERAL})\.?(?::([0-9]{{1,5}}))?")
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://({_NAME}|{_LITERAL})(?::([0-9]{{1,5}}))?")
_HOST_PATTERN = re.compile(rf"(\*\.)?({_NAME}|{_LITERAL})\.?(?::([0-9]{{1,5}}|\*))?")
_ORIGIN_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)")


class HostMatcher:
    """The names in `--allow-hosts`. Immutable: any thread.

    Entries: `example.com` (any port), `example.com:8000` (that port), `*.example.com`, an IPv6
    literal in brackets, `*`. Raises ConfigError for anything else.
    """

    __slots__ = ("_any", "_exact", "_suffixes")

    def __init__(self, patterns: Iterable[str], *, option: str = "--allow-hosts") -> None:
        exact: set[str] = set()
        suffixes: set[str] = set()
        self._any = False
        for pattern in patterns:
            if pattern == ANY:
                self._any = True
                continue
            match = _HOST_PATTERN.fullmatch(_ascii(pattern, option))
            if match is None or (match[1] and match[2].startswith("[")):
                problem = f"{pattern!r} is no host name; write example.com or *.example.com"
                raise ConfigError(option, problem)
            port = "" if match[3] in (None, "*") else f":{match[3]}"
            if match[1]:
                suffixes.add(f".{match[2]}{port}")
            else:
                exact.add(match[2] + port)
        self._exact = frozenset(exact)
        self._suffixes = tuple(suffixes)

    def allows(self, host: bytes | None) -> bool:
        """Whether a request with this Host header is for us; None: it had none (HTTP/1.0).

        Several Host headers are the HTTP parser's business: it refuses them. Never raises.
        """
        if self._any:
            return True
        if host is None:
            return False
        match = _HOST.fullmatch(host.decode("latin-1").lower())
        if match is None:
            return False
        name, port = match[1], match[2]
        if name in self._exact or name.endswith(self._suffixes):
            return True
        if port is None:
            return False
        name = f"{name}:{port}"
        return name in self._exact or name.endswith(self._suffixes)


class OriginMatcher:
    """The origins in `--ws-allow-origins`. Immutable: any thread.

    Entries: `https://example.com` (the scheme's own port), `https://example.com:8443`,
    `https://*.example.com`, a port of `*` for any (`http://localhost:*`), `null`, `*`, and `same`
    for pages from the host that the request itself names. Raises ConfigError for anything else.
    `missing` says what becomes of requests without Origin.
    """

    __slots__ = ("_any", "_any_port", "_exact", "_missing", "_same", "_suffixes")

    def __init__(
        self,
        patterns: Iterable[str],
        *,
        missing: bool = True,
        option: str = "--ws-allow-origins",
    ) -> None:
        self._any = self._same = False
        self._missing = missing
        exact: set[str] = set()
        any_port: set[str] = set()
        # By what must stand in front: scheme and "://", port included in the suffix.
        suffixes: dict[tuple[str, bool], set[str]] = {}
        for pattern in patterns:
            match pattern:
                case "*":
                    self._any = True
                case "same":
                    self._same = True
                case "null":
                    exact.add(OPAQUE_ORIGIN)
                case _:
                    scheme, wildcard, host, port = _origin_pattern(pattern, option)
                    if wildcard:
                        place = suffixes.setdefault((scheme, port == "*"), set())
                        place.add(f".{host}" if port == "*" else f".{host}:{port}")
                    elif port == "*":
                        any_port.add(f"{scheme}://{host}")
                    else:
                        exact.add(f"{scheme}://{host}:{port}")
        self._exact = frozenset(exact)
        self._any_port = frozenset(any_port)
        self._suffixes = {key: tuple(values) for key, values in suffixes.items()}

    def allows(self, origin: bytes | None, host: bytes | None = None) -> bool:
        """Whether a page of this Origin may open a WebSocket; None: the request has no Origin.

        `host` is the request's Host header, looked at for `same` only. Where a request has several
        Origin headers, pass them joined by commas: that is no origin, and refused. Never raises.
        """
        if self._any:
            return True
        if origin is None:
            return self._missing
        text = origin.decode("latin-1").lower()
        if text == OPAQUE_ORIGIN:
            return text in self._exact
        match = _ORIGIN.fullmatch(text)
        if match is None:
            return False
        scheme, name = match[1], match[2]
        port = match[3] or _DEFAULT_PORTS.get(scheme, "")
        full = f"{name}:{port}"
        return (
            f"{scheme}://{full}" in self._exact
            or f"{scheme}://{name}" in self._any_port
            or full.endswith(self._suffixes.get((scheme, False), ()))
            or name.endswith(self._suffixes.get((scheme, True), ()))
            or (self._same and host is not None and _is_same_host(scheme, full, host))
        )


def _is_same_host(scheme: str, origin_host: str, host: bytes) -> bool:
    # Schemes are not compared: behind a proxy that ends TLS we would be taken for http.
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    if match is None:
        return False
    return origin_host == f"{match[1]}:{match[2] or _DEFAULT_PORTS.get(scheme, '')}"


def _origin_pattern(pattern: str, option: str) -> tuple[str, bool, str, str]:
    """(scheme, whether subdomains are meant, host, port or `*`) of one entry."""
    text = _ascii(pattern, option)
    match = _ORIGIN_PATTERN.fullmatch(text)
    if match is None:
        problem = f"{pattern!r} has no scheme; write https://{pattern} or http://{pattern}"
        raise ConfigError(option, problem)
    scheme, rest = match[1], match[2]
    if "/" in rest:
        problem = f"{pattern!r} has a path; an origin ends with its host: {scheme}://"
        raise ConfigError(option, problem + rest.partition("/")[0])
    host = _HOST_PATTERN.fullmatch(rest)
    if host is None or (host[1] and host[2].startswith("[")):
        problem = f"{pattern!r} is no origin; write https://example.com or https://*.example.com"
        raise ConfigError(option, problem)
    return scheme, bool(host[1]), host[2], host[3] or _DEFAULT_PORTS.get(scheme, "")


def _ascii(pattern: str, option: str) -> str:
    """In lower case, and as browsers write it: names in other scripts as xn-- (RFC 5890)."""
    if pattern.isascii():
        return pattern.lower()
    head, separator, tail = pattern.lower().rpartition("://")
    try:
        labels = [label.encode("idna").decode() if label else "" for label in tail.split(".")]
    except UnicodeError as error:
        raise ConfigError(option, f"{pattern!r} is no host name: {error}") from error
    return head + separator + ".".join(labels)
