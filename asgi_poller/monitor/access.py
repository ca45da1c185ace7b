"""Who may see what on the monitor's port.

Without a token, all of it is for this machine: a browser's page from elsewhere that has made its
name lead here (DNS rebinding) gives itself away by its Host. Beyond loopback only numbers about the
whole server are open. With a token, everything but health wants it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from enum import Enum, auto
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote

from asgi_poller.asgi.types import Scope
from asgi_poller.errors import HttpFault

_COOKIE = "asgi_poller_monitor"
_PORT = re.compile(r":\d*$")
_WHAT_IS_OPEN = (
    "This page is shown beyond this machine only with a token: start the server with"
    " --metrics-token. /metrics, /healthz and /readyz are open."
)
_TOKEN_WANTED = (
    "This wants the token of --metrics-token: as 'Authorization: Bearer TOKEN', or once as"
    " ?token=TOKEN in a browser."
)
_WRONG_HOST = "On loopback only the hosts 127.0.0.1, localhost and [::1] are answered."


class Audience(Enum):
    """Whom something is for."""

    EVERYBODY = auto()  # health: balancers and orchestrators, by whatever name
    SCRAPERS = auto()  # the metrics
    OPERATORS = auto()  # addresses, process ids, events


class Access:
    """Decides for one monitor. Immutable, any thread. `hosts` are the addresses it listens on;
    `port` is in the cookie's name, as browsers send cookies to every port of a host.
    """

    def __init__(self, hosts: Sequence[str], port: int, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._is_local = all(map(is_loopback, hosts))
        self._cookie_name = f"{_COOKIE}_{port}"
        # not the token itself: applications on other ports of this host are sent the cookie too
        self._cookie = (
            ""
            if self._token is None
            else hmac.new(self._token, b"asgi-poller monitor cookie", hashlib.sha256).hexdigest()
        )

    def check(self, scope: Scope, audience: Audience) -> None:
        """Raises HttpFault for a client that may not see it."""
        if audience is Audience.EVERYBODY:
            return
        if self._token is not None:
            if not self._knows_token(scope):
                raise HttpFault(401, _TOKEN_WANTED, ((b"www-authenticate", b"Bearer"),))
        elif self._is_local:
            host = header(scope, b"host")
            if host and not is_loopback(_PORT.sub("", host)):
                raise HttpFault(403, _WRONG_HOST)
        elif audience is Audience.OPERATORS:
            raise HttpFault(403, _WHAT_IS_OPEN)

    def check_origin(self, scope: Scope) -> None:
        """Raises HttpFault for a WebSocket of another site's page. Programs give no Origin."""
        origin = header(scope, b"origin")
        if origin and origin.partition("://")[2].lower() != header(scope, b"host").lower():
            raise HttpFault(403, "The Origin is not this host.")

    def login(self, scope: Scope) -> str | None:
        """The cookie to set for a client that gives the token in the query; None: it gives none.
        Raises HttpFault for a wrong one.
        """
        for part in scope["query_string"].split(b"&"):
            name, _, value = part.partition(b"=")
            if name == b"token" and self._token is not None:
                given = unquote(value.decode("latin-1")).encode()
                if not hmac.compare_digest(given, self._token):
                    raise HttpFault(401, _TOKEN_WANTED, ((b"www-authenticate", b"Bearer"),))
                return f"{self._cookie_name}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"
        return None

    def _knows_token(self, scope: Scope) -> bool:
        assert self._token is not None
        scheme, _, given = header(scope, b"authorization").partition(" ")
        if scheme.lower() == "bearer":
            return hmac.compare_digest(given.strip().encode(), self._token)
        try:
            cookie = SimpleCookie(header(scope, b"cookie")).get(self._cookie_name)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(
            cookie.value.encode(), self._cookie.encode()
        )


def header(scope: Scope, name: bytes) -> str:
    """The first field of that name; empty: there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


def is_loopback(host: str) -> bool:
    """Whether a name or address can only mean this machine. (No other name leads to an address
    that stands in place of a name.)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
