"""gunicorn's access log: its logger, its format (`--access-logformat`), for HTTP and WebSockets.

A request is one line, when its response is complete. A WebSocket is two: `GET` and 101 when it is
accepted (or the status that denied it), and `WEBSOCKET` and the close code (RFC 6455, 7.4.1) at its
end, with octets and duration. For the latter the format's environ atoms know more:
`%({websocket.closed_by}e)s`, `%({websocket.messages_in}e)s`, `..messages_out..`, `..octets_in..`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from asgi_poller.asgi.access_log import AccessLog, Entry
from asgi_poller.asgi.types import Application, Message, Receive, Scope, Send

_log = logging.getLogger("asgi_poller.error")

_SWITCHING_PROTOCOLS = 101  # RFC 9110, 15.2.2
_ENVIRON_OF_FIELD = {
    b"referer": "HTTP_REFERER",
    b"user-agent": "HTTP_USER_AGENT",
    b"authorization": "HTTP_AUTHORIZATION",  # gunicorn takes the user's name from it
}


@dataclass(slots=True)
class Response:
    """What gunicorn's log reads of a response. `sent` is octets, None where they are not known."""

    status: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    sent: int | None = None


class _GunicornEntry(Entry):
    """What gunicorn's log reads of a request. `key` finds its run."""

    __slots__ = ("environ", "headers", "key")

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.key = id(scope)
        self.environ = _environ(scope)
        self.headers = _as_text(scope["headers"])


@dataclass(slots=True)
class _Run:
    """A request that the application is at. `started_s` is of the performance counter."""

    started_s: float
    entry: _GunicornEntry | None = None  # with `status`
    status: int | None = None  # once the head is written
    headers: list[tuple[str, str]] = field(default_factory=list)
    octets: int = 0
    is_over: bool = False  # the application has returned or raised


class GunicornAccessLog(AccessLog):
    """Writes to `log`, gunicorn's logger. Shared by the loops of a process: any thread with a loop.

    The application must be wrapped with `around`: the duration of a response and its octets are
    measured there. What the server answers before the application is asked is logged without.
    """

    __slots__ = ("_log", "_runs")

    def __init__(self, log: Any) -> None:
        super().__init__(log.access_log)
        self._log = log
        self._runs: dict[int, _Run] = {}  # by the identity of the scope

    def around(self, application: Application) -> Application:
        """The application, measured."""

        async def measured(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            key = id(scope)
            run = self._runs[key] = _Run(time.perf_counter())

            async def send_measured(message: Message) -> None:
                if message["type"] == "http.response.start":
                    run.headers = _as_text(message.get("headers", ()))
                elif message["type"] == "http.response.body":
                    run.octets += len(message.get("body", b""))
                await send(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    self._finish(key, run)

            try:
                await application(scope, receive, send_measured)
            finally:
                run.is_over = True
                if run.status is not None:
                    self._finish(key, run)
                else:
                    # If the server answers for an application that did not, it does so in this very
                    # step, and the answer still finds its run.
                    asyncio.get_running_loop().call_soon(self._forget, key, run)

        return measured

    def entry(self, scope: Scope) -> Entry:
        return _GunicornEntry(scope)

    def response(self, entry: Entry, status: int) -> None:
        assert isinstance(entry, _GunicornEntry)  # made by `entry`
        run = self._runs.get(entry.key)
        if run is None:
            self._write(entry, Response(str(status)), 0.0)
            return
        run.status = status
        run.entry = entry
        if run.is_over:
            run.octets = 0  # what the application sent was not what the peer got
            self._finish(entry.key, run)

    def websocket_opened(self, entry: Entry) -> None:
        self._write(entry, Response(str(_SWITCHING_PROTOCOLS)), 0.0)

    def websocket_denied(self, entry: Entry, status: int) -> None:
        self._write(entry, Response(str(status)), 0.0)

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
        more = {
            "REQUEST_METHOD": "WEBSOCKET",
            "websocket.closed_by": by,
            "websocket.messages_in": str(received[0]),
            "websocket.octets_in": str(received[1]),
            "websocket.messages_out": str(sent[0]),
        }
        self._write(entry, Response(str(code), sent=sent[1]), seconds, more)

    def _finish(self, key: int, run: _Run) -> None:
        if run.status is not None and run.entry is not None and self._forget(key, run):
            response = Response(str(run.status), run.headers, run.octets)
            self._write(run.entry, response, time.perf_counter() - run.started_s)

    def _forget(self, key: int, run: _Run) -> bool:
        """Whether it was still known."""
        if self._runs.get(key) is not run:
            return False
        del self._runs[key]
        return True

    def _write(
        self,
        entry: Entry,
        response: Response,
        seconds: float,
        more: Mapping[str, str] | None = None,
    ) -> None:
        assert isinstance(entry, _GunicornEntry)  # made by `entry`
        environ = {**entry.environ, **(more or {})}
        try:
            self._log.access(response, entry.headers, environ, timedelta(seconds=seconds))
        except Exception:  # a user's logger or format: a connection must not pay for it
            _log.exception("An access log line could not be written.")


def _environ(scope: Scope) -> dict[str, str]:
    """The part of a WSGI environ that gunicorn's log reads."""
    query = scope["query_string"].decode("latin-1")
    target = scope["raw_path"].decode("latin-1")
    environ = {
        "REQUEST_METHOD": scope.get("method", "GET"),  # an opening handshake is a GET
        "RAW_URI": f"{target}?{query}" if query else target,
        "PATH_INFO": scope["path"],
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
    }
    if scope["client"]:
        environ["REMOTE_ADDR"] = scope["client"][0]
    for name, value in scope["headers"]:
        if name in _ENVIRON_OF_FIELD:
            environ[_ENVIRON_OF_FIELD[name]] = value.decode("latin-1")
    return environ


def _as_text(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
