"""The URL of the service that joins the topics of several machines (`--topics`)."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

_REDIS: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster")
UNIX: Final = "unix"
REDIS_SCHEMES: Final = (*_REDIS, UNIX)
NATS_SCHEMES: Final = ("nats", "tls")
_SCHEMES: Final = (*REDIS_SCHEMES, *NATS_SCHEMES)
_HINT = "must be a URL such as redis://HOST:6379 or rediss://:PASSWORD@HOST:6379/0"


def split_service(url: str) -> SplitResult:
    """Its parts. Raises ValueError, which never shows the URL: it may hold a password."""
    try:
        parts = urlsplit(url.strip())
        has_host = bool(parts.hostname)
        parts.port  # noqa: B018  # raises ValueError for what is none
    except ValueError:
        raise ValueError(f"{_HINT}: host or port is wrong") from None
    if parts.scheme not in _SCHEMES:
        schemes = ", ".join(f"{each}://" for each in _SCHEMES)
        raise ValueError(f"{_HINT}; it begins with one of {schemes}")
    if parts.scheme == UNIX:
        if not parts.path:
            raise ValueError("must have the path of a socket, such as unix:///run/redis.sock")
    elif not has_host:
        raise ValueError(f"{_HINT}: the host is missing")
    return parts


def shown_service(url: str) -> str:
    """For logs and errors: without user, password and query."""
    parts = split_service(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
