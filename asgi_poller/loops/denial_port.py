"""HTTP/1.1 below the response with which an application denies a WebSocket handshake."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.request_id import HEADER
from asgi_poller.loops.identified_responses import IdentifiedHeaders
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import DefaultHeaders, ResponseEncoder


class DenialPort:
    """A ResponsePort for one response, after which the connection closes: `done` is called when it
    is complete or cannot be. Owned by the loop's thread.
    """

    __slots__ = ("_done", "_encoder", "_headers", "_request_id", "_write")

    def __init__(
        self,
        write: Callable[[bytes], None],
        default_headers: DefaultHeaders,
        done: Callable[[], None],
        request_id: bytes = b"",
    ) -> None:
        self._write = write
        self._request_id = request_id
        self._headers = IdentifiedHeaders(default_headers)
        self._encoder = ResponseEncoder(self._headers)
        self._done = done

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        if self._request_id:
            headers = self._headers.identify(self._request_id, headers)
        self._write(self._encoder.head(request, status, headers, body=body, more_body=more_body))

    def send_body(self, body: bytes, more_body: bool) -> None:
        encoded = self._encoder.body(body, more_body)
        if encoded:
            self._write(encoded)

    def send_trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """A denial has none (ASGI: Websocket Denial Response)."""

    def files(self) -> None:
        """The same."""

    def send_early_hint(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The same."""

    def end(self) -> None:
        self._done()

    def abort(self) -> None:
        self._done()

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        extra = ((HEADER, self._request_id),) if self._request_id else ()
        self._write(error_response(status, detail, extra))
        self._done()

    def send_continue(self) -> None:
        """A handshake has no body that could be waited for."""

    def set_reading(self, on: bool) -> None:
        """Nor one to read."""
