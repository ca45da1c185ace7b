"""The access log: a line for each HTTP response, and two for each WebSocket (at its opening and at
its end).
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote


class AccessLog:
    """Writes to the logger `asgi_poller.access`. Made only where that logger is on, so that silence
    costs nothing.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def response(self, scope: dict[str, Any], status: int) -> None:
        """An HTTP response has begun."""
        self._logger.info(
            '%s - "%s %s HTTP/%s" %d',
            _client(scope),
            scope["method"],
            _path(scope),
            scope["http_version"],
            status,
        )

    def channel_opened(self, scope: dict[str, Any]) -> None:
        """A WebSocket was accepted."""
        self._logger.info('%s - "WebSocket %s" [accepted]', _client(scope), _path(scope))

    def channel_denied(self, scope: dict[str, Any], status: int) -> None:
        """A WebSocket handshake was answered with an HTTP status."""
        self._logger.info('%s - "WebSocket %s" %d', _client(scope), _path(scope), status)

    def for_denials(self) -> AccessLog:
        """The same, for responses to WebSocket handshakes."""
        return _DenialLog(self._logger)

    def channel_closed(
        self,
        scope: dict[str, Any],
        *,
        code: int,
        by: str,
        seconds: float,
        received: tuple[int, int],
        sent: tuple[int, int],
    ) -> None:
        """A WebSocket has ended: `by` is who closed it, `received` and `sent` are (messages, octets
        on the wire).
        """
        self._logger.info(
            '%s - "WebSocket %s" [closed %d by %s] %.3fs in=%d/%dB out=%d/%dB',
            _client(scope),
            _path(scope),
            code,
            by,
            seconds,
            *received,
            *sent,
        )


class _DenialLog(AccessLog):
    __slots__ = ()

    def response(self, scope: dict[str, Any], status: int) -> None:
        self.channel_denied(scope, status)


def _client(scope: dict[str, Any]) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else ""


def _path(scope: dict[str, Any]) -> str:
    # quoted anew: a decoded path may hold line ends, which must not forge a log line
    path = quote(scope["path"])
    query: bytes = scope["query_string"]
    return f"{path}?{query.decode('ascii', 'backslashreplace')}" if query else path
