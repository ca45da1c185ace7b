"""The access log with all that it can know (`record.access`), for JSON and `--access-log-format`.

Where a handler's formatter wants sizes or durations, the line of a response is written when the
response is complete or breaks off; else at its beginning, as by default.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from asgi_poller.asgi.access_log import (
    AccessLog,
    Entry,
    Measure,
    client_of,
    path_of,
    query_of,
)
from asgi_poller.asgi.request_id import parsed_traceparent, request_id_of
from asgi_poller.asgi.response_port import FilePort, FileTransfer, ResponsePort
from asgi_poller.asgi.types import Scope
from asgi_poller.logs import ACCESS_HTTP, ACCESS_WEBSOCKET, Access, Outcome
from asgi_poller.protocols.http1.parser import RequestHead

_BODILESS = frozenset({204, 304})  # RFC 9110, 6.4.1
_CONTROL = dict.fromkeys((*range(32), 127), "?")


class DetailedEntry(Entry):
    """What the line of a request, or those of a WebSocket, will say."""

    __slots__ = (
        "began_s",
        "is_written",
        "request_bytes",
        "request_id",
        "response_bytes",
        "span_id",
        "status",
        "trace_id",
        "user_agent",
    )

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.began_s = time.monotonic()
        self.is_written = False
        self.request_bytes = 0
        self.response_bytes = 0
        self.status: int | None = None
        self.user_agent: str | None = None
        self.request_id = request_id_of(scope)
        self.trace_id: str | None = None
        self.span_id: str | None = None
        for name, value in scope["headers"]:
            if name == b"traceparent":
                self.trace_id, self.span_id = parsed_traceparent(value) or (None, None)
            elif name == b"user-agent":
                self.user_agent = value.decode("utf-8", "backslashreplace").translate(_CONTROL)


class DetailedAccessLog(AccessLog):
    """Made where a formatter wants more than the default line has. `is_measured`: that is known at
    the response's end.
    """

    __slots__ = ("_is_measured",)

    def __init__(self, logger: logging.Logger, *, is_measured: bool) -> None:
        super().__init__(logger)
        self._is_measured = is_measured

    @property
    def measure(self) -> Measure | None:
        return self._measured_port if self._is_measured else None

    def _measured_port(self, entry: Entry, port: ResponsePort) -> ResponsePort:
        return _MeasuredPort(port, self, _detailed(entry))

    def entry(self, scope: Scope) -> Entry:
        return DetailedEntry(scope)

    def response(self, entry: Entry, status: int) -> None:
        if not self._is_measured:
            self._log_response(_detailed(entry), status, {})

    def has_read(self, entry: Entry, read_bytes: int) -> None:
        _detailed(entry).request_bytes = read_bytes

    def completed(self, entry: DetailedEntry) -> None:
        """All of the response is handed over."""
        self._end(entry, complete=True)

    def broke_off(self, entry: Entry) -> None:
        if self._is_measured:
            self._end(_detailed(entry), complete=False)

    def _end(self, entry: DetailedEntry, *, complete: bool) -> None:
        if entry.is_written:
            return
        entry.is_written = True
        known = {
            "complete": complete,
            "duration_s": _rounded(time.monotonic() - entry.began_s),
            "request_bytes": entry.request_bytes,
            "response_bytes": entry.response_bytes,
        }
        self._log_response(entry, entry.status, known)

    def _log_response(
        self, entry: DetailedEntry, status: int | None, known: dict[str, Any]
    ) -> None:
        # a number, for the record's template; 0 where the client has left before the response
        self._log(ACCESS_HTTP, entry, status or 0, {"status": status, **known})

    def websocket_opened(self, entry: Entry) -> None:
        outcome = Outcome(101, "[accepted]")
        self._log(ACCESS_WEBSOCKET, entry, outcome, {"status": 101})

    def websocket_denied(self, entry: Entry, status: int) -> None:
        self._log(ACCESS_WEBSOCKET, entry, status, {"status": status})

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
        known = {
            "duration_s": _rounded(seconds),
            "received_messages": received[0],
            "received_bytes": received[1],
            "sent_messages": sent[0],
            "sent_bytes": sent[1],
            "close_code": code,
            "closed_by": by,
        }
        outcome = self._outcome_of_close(code, by, seconds, received=received, sent=sent)
        self._log(ACCESS_WEBSOCKET, entry, outcome, known)

    def _log(self, template: str, entry: Entry, status: int, known: dict[str, Any]) -> None:
        method = entry.method if template is ACCESS_HTTP else "WebSocket"
        detailed = _detailed(entry)
        access = Access(
            client=client_of(entry),
            method=method,
            path=path_of(entry),
            query=query_of(entry),
            http_version=entry.http_version,
            request_id=detailed.request_id,
            user_agent=detailed.user_agent,
            trace_id=detailed.trace_id,
            span_id=detailed.span_id,
            **known,
        )
        target = f"{access.path}?{access.query}" if access.query else access.path
        arguments = (access.client, method, target, entry.http_version, status)
        self._info(template, *arguments, extra={"access": access})


class _MeasuredPort:
    """Before a ResponsePort: the response of one exchange, measured on its way. Owned by the loop's
    thread.
    """

    __slots__ = ("_entry", "_files", "_has_body", "_log", "_port")

    def __init__(self, port: ResponsePort, log: DetailedAccessLog, entry: DetailedEntry) -> None:
        self._port = port
        self._log = log
        self._entry = entry
        self._files: FilePort | None = None
        self._has_body = True

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        self._port.send_head(request, status, headers, body=body, more_body=more_body)
        self._has_body = request.method != "HEAD" and status not in _BODILESS
        self._entry.status = status
        self._count(body)

    def send_body(self, body: bytes, more_body: bool) -> None:
        self._port.send_body(body, more_body)
        self._count(body)

    def send_trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._port.send_trailers(headers)

    def files(self) -> FilePort | None:
        self._files = self._port.files()
        return None if self._files is None else self

    # FilePort

    def begin_file(self, count: int, more_body: bool) -> bool:
        assert self._files is not None
        return self._files.begin_file(count, more_body)

    def send_file(
        self, fd: int, offset: int, count: int, *, note: Callable[[int], None] | None = None
    ) -> FileTransfer | None:
        assert self._files is not None
        return self._files.send_file(fd, offset, count, note=self._count_bytes)

    def send_file_piece(self, data: bytes) -> None:
        assert self._files is not None
        self._files.send_file_piece(data)
        self._count(data)

    def end_file(self, count: int, more_body: bool) -> None:
        assert self._files is not None
        self._files.end_file(count, more_body)

    # ResponsePort again

    def send_early_hint(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._port.send_early_hint(headers)

    def end(self) -> None:
        self._log.completed(self._entry)
        self._port.end()

    def abort(self) -> None:
        self._log.broke_off(self._entry)
        self._port.abort()

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        self._entry.status = status
        self._has_body = request.method != "HEAD"
        self._count(detail.encode("ascii", "replace"))
        self._log.completed(self._entry)
        self._port.refuse(request, status, detail)

    def send_continue(self) -> None:
        self._port.send_continue()

    def set_reading(self, on: bool) -> None:
        self._port.set_reading(on)

    def _count(self, body: bytes) -> None:
        if self._has_body:
            self._entry.response_bytes += len(body)

    def _count_bytes(self, count: int) -> None:
        self._entry.response_bytes += count


def access_log_for(logger: logging.Logger) -> AccessLog:
    """The kind of log that the formatters of `logger`'s handlers want."""
    wanted = [
        handler.formatter
        for handler in _handlers(logger)
        if getattr(handler.formatter, "has_fields", False)
    ]
    if not wanted:
        return AccessLog(logger)
    is_measured = any(getattr(formatter, "is_measured", False) for formatter in wanted)
    return DetailedAccessLog(logger, is_measured=is_measured)


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    """All that its records reach."""
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None


def _detailed(entry: Entry) -> DetailedEntry:
    assert isinstance(entry, DetailedEntry)  # made by `entry`
    return entry


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
