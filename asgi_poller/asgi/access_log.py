"""The access log: a line for each HTTP response, and two for each WebSocket (at its opening and at
its end).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import quote

from asgi_poller.asgi.response_port import ResponsePort
from asgi_poller.asgi.types import Scope
from asgi_poller.logs import ACCESS_HTTP, ACCESS_WEBSOCKET, Outcome

_ACCEPTED = Outcome(101, "[accepted]")  # RFC 9110, 15.2.2

_log = logging.getLogger("asgi_poller.error")


class Entry:
    """What the log needs of a request. Taken when it begins: from then on the scope is the
    application's, which may put anything into it.
    """

    __slots__ = ("client", "http_version", "method", "path", "query")

    def __init__(self, scope: Scope) -> None:
        self.client: tuple[str, int | None] | None = scope.get("client")
        self.method: str = scope.get("method", "GET")  # an opening handshake is a GET
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.http_version: str = scope["http_version"]


Measure: TypeAlias = "Callable[[Entry, ResponsePort], ResponsePort]"
"""Puts something that measures before the port of the request that an entry is of."""


class AccessLog:
    """Writes to the logger `asgi_poller.access`. Made only where that logger is on, so that silence
    costs nothing. Raises nothing: what a handler or filter raises is logged.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    @property
    def measure(self) -> Measure | None:
        """For a log that is written when the response is complete."""
        return None

    def entry(self, scope: Scope) -> Entry:
        """A request has come, or an opening handshake: what its lines will say of it."""
        return Entry(scope)

    def response(self, entry: Entry, status: int) -> None:
        """An HTTP response has begun."""
        self._info(
            ACCESS_HTTP,
            client_of(entry),
            entry.method,
            _path(entry),
            entry.http_version,
            status,
        )

    def has_read(self, entry: Entry, read_bytes: int) -> None:
        """So much of the request's body has come; said only where there is a `measure`."""

    def broke_off(self, entry: Entry) -> None:
        """The response was broken off, or the client left before it began."""

    def websocket_opened(self, entry: Entry) -> None:
        """A WebSocket was accepted."""
        self._log_websocket(entry, _ACCEPTED)

    def websocket_denied(self, entry: Entry, status: int) -> None:
        """A WebSocket handshake was answered with an HTTP status."""
        self._log_websocket(entry, status)

    def for_denials(self, entry: Entry) -> AccessLog:
        """The same, for the response to the WebSocket handshake of `entry`."""
        return _DenialLog(self, entry)

    def websocket_closed(
        self,
        entry: Entry,
        *,
        code: int,
        by: str,
        seconds: float,
        received: tuple[int, int],
        sent: tuple[int, int],
    ) -> None:
        """A WebSocket has ended: `by` is who closed it, `received` and `sent` are (messages, bytes
        on the wire).
        """
        outcome = self._outcome_of_close(code, by, seconds, received=received, sent=sent)
        self._log_websocket(entry, outcome)

    @staticmethod
    def _outcome_of_close(
        code: int, by: str, seconds: float, *, received: tuple[int, int], sent: tuple[int, int]
    ) -> Outcome:
        traffic = f"in={received[0]}/{received[1]}B out={sent[0]}/{sent[1]}B"
        return Outcome(code, f"[closed {code} by {by}] {seconds:.3f}s {traffic}")

    def _log_websocket(self, entry: Entry, outcome: int) -> None:
        self._info(
            ACCESS_WEBSOCKET,
            client_of(entry),
            "WebSocket",
            _path(entry),
            entry.http_version,
            outcome,
        )

    def _info(
        self, template: str, *arguments: object, extra: Mapping[str, object] | None = None
    ) -> None:
        logger = self._logger
        try:
            # not info(), which looks for its caller each time: a fifth of what a line costs
            if logger.isEnabledFor(logging.INFO):
                record = logger.makeRecord(
                    logger.name,
                    logging.INFO,
                    __file__,
                    0,
                    template,
                    arguments,
                    None,
                    extra=extra,
                )
                logger.handle(record)
        except Exception:  # a user's handler or filter: a connection must not pay for it
            _log.exception("An access log line could not be written.")


class _DenialLog(AccessLog):
    __slots__ = ("_entry", "_log")

    def __init__(self, log: AccessLog, entry: Entry) -> None:
        super().__init__(log._logger)
        self._log = log
        self._entry = entry

    def entry(self, scope: Scope) -> Entry:
        return self._entry

    def response(self, entry: Entry, status: int) -> None:
        self._log.websocket_denied(entry, status)


def client_of(entry: Entry) -> str:
    """Address and port, empty where a client has none."""
    return f"{entry.client[0]}:{entry.client[1]}" if entry.client else ""


def _path(entry: Entry) -> str:
    path = path_of(entry)
    return f"{path}?{query_of(entry)}" if entry.query else path


def path_of(entry: Entry) -> str:
    """The path, quoted again: decoded it may hold line ends, which must not forge a log line."""
    return quote(entry.path)


def query_of(entry: Entry) -> str:
    """The query string as text."""
    return entry.query.decode("ascii", "backslashreplace")
