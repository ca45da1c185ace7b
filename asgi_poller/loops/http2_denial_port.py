"""HTTP/2 below the response with which an application denies a WebSocket handshake."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from asgi_poller.asgi.error_response import error_fields
from asgi_poller.asgi.request_id import HEADER
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http2.responses import (
    DefaultFields,
    Field,
    ResponseBody,
    response_head,
)


class DeniedStream(Protocol):
    """The stream, as the response sees it."""

    def send_head(self, fields: list[Field]) -> None: ...

    def send_body(self, body: bytes, *, is_last: bool) -> None: ...

    def break_off(self) -> None: ...


class Http2DenialPort:
    """A ResponsePort for one response, after which the stream ends: `done` is called when it is
    complete or cannot be. Owned by the loop's thread.
    """

    __slots__ = ("_body", "_default_fields", "_done", "_request_id", "_stream")

    def __init__(
        self,
        stream: DeniedStream,
        default_fields: DefaultFields,
        done: Callable[[], None],
        request_id: bytes,
    ) -> None:
        self._stream = stream
        self._default_fields = default_fields
        self._done = done
        self._request_id = request_id
        self._body = ResponseBody(True, None)

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        fields, left = response_head(
            request,
            status,
            headers,
            default_fields=self._default_fields,
            body_bytes=None if more_body else len(body),
        )
        body = left.take(body, more_body)  # raises before anything is written
        if self._request_id and not any(name == HEADER for name, _ in fields):
            fields.append((HEADER, self._request_id))
        self._body = left
        self._stream.send_head(fields)
        self._write(body, more_body)

    def send_body(self, body: bytes, more_body: bool) -> None:
        self._write(self._body.take(body, more_body), more_body)

    def _write(self, body: bytes, more_body: bool) -> None:
        if body or not more_body:
            self._stream.send_body(body, is_last=not more_body)

    def send_trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """A denial has none (ASGI: Websocket Denial Response)."""

    def files(self) -> None:
        """The same."""

    def send_early_hint(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The same."""

    def end(self) -> None:
        self._done()

    def abort(self) -> None:
        self._stream.break_off()
        self._done()

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        extra = ((HEADER, self._request_id),) if self._request_id else ()
        fields, body = error_fields(status, detail, extra)
        self._stream.send_head(fields)
        self._stream.send_body(body, is_last=True)
        self._done()

    def send_continue(self) -> None:
        """A handshake has no body that could be waited for."""

    def set_reading(self, on: bool) -> None:
        """Nor one to read."""
