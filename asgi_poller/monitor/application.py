"""The ASGI application on the monitor's port: what it answers, and to whom."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.errors import ClientDisconnected, HttpFault
from asgi_poller.metrics.snapshot import Source
from asgi_poller.monitor.access import Access, Audience, header
from asgi_poller.monitor.as_json import as_json
from asgi_poller.monitor.exposition import exposition
from asgi_poller.monitor.health import illness, obstacle

_log = logging.getLogger("asgi_poller.error")

_TEXT = b"text/plain; charset=utf-8"
_METHODS = ("GET", "HEAD")
# What is shown is of this moment, and a browser is to take it for nothing else than it is.
_ON_ALL = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. `headers` are those besides type and length."""

    body: bytes
    content_type: bytes = _TEXT
    status: int = 200
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A path: for whom it is, and what answers. `answer` may raise HttpFault. `refuse` makes the
    answer to a client that gives no token or a wrong one; None: a line of text.
    """

    audience: Audience
    answer: Callable[[Scope], Response]
    refuse: Callable[[HttpFault], Response] | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """A WebSocket's path: for whom it is, and what it says once it has been let in (the first
    message of `receive` is still websocket.connect).
    """

    audience: Audience
    serve: Callable[[Receive, Send], Awaitable[None]]


class MonitorApplication:
    """Answers GET and HEAD for `pages`, and WebSockets for `lives`, by path. Owned by the monitor's
    loop. Whatever fails in it is answered with 500 and is one line in the log.
    """

    def __init__(
        self, access: Access, pages: Mapping[str, Page], lives: Mapping[str, Live]
    ) -> None:
        self._access = access
        self._pages = pages
        self._lives = lives
        self._last_failure = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        is_websocket = scope["type"] == "websocket"
        try:
            if is_websocket:
                await self._admitted(scope).serve(receive, send)
                return
            response = self._response(scope)
        except HttpFault as fault:
            response = _refusal(fault)
        except ClientDisconnected:
            return
        except Exception as error:  # whatever it is: the server goes on
            self._note_failure(scope["path"], error)
            response = Response(b"This could not be shown; the log says why.\n", status=500)
        await _send_response(send, response, "websocket.http" if is_websocket else "http")

    def _response(self, scope: Scope) -> Response:
        if scope["method"] not in _METHODS:
            allowed = ((b"allow", b"GET, HEAD"), (b"connection", b"close"))
            raise HttpFault(405, "This port only shows: use GET.", allowed)
        page = self._pages.get(scope["path"])
        if page is None:
            paths = ", ".join(sorted(self._pages))
            raise HttpFault(404, f"There is nothing here. This port has {paths}.")
        try:
            cookie = self._access.login(scope)
            if cookie is not None:
                headers = ((b"location", scope["path"].encode()), (b"set-cookie", cookie.encode()))
                return Response(b"", status=303, headers=headers)
            self._access.check(scope, page.audience)
        except HttpFault as fault:
            if fault.status == 401 and page.refuse is not None:
                return page.refuse(fault)
            raise
        return page.answer(scope)

    def _admitted(self, scope: Scope) -> Live:
        live = self._lives.get(scope["path"])
        if live is None:
            raise HttpFault(404, "There is no WebSocket here.")
        self._access.check(scope, live.audience)
        self._access.check_origin(scope)
        return live

    def _note_failure(self, path: str, error: Exception) -> None:
        """Once, until another one comes: this port is asked every few seconds."""
        failure = f"{path} of --metrics cannot be shown: {error!r}"
        if failure != self._last_failure:
            self._last_failure = failure
            _log.error("%s", failure)


def pages_of(source: Source, blocked_limit_s: float) -> dict[str, Page]:
    """The pages that programs read. `blocked_limit_s` is for `health.illness`."""
    expose = exposition(source)

    def metrics(scope: Scope) -> Response:
        text, content_type = expose(header(scope, b"accept"))
        return Response(text, content_type.encode())

    def status(scope: Scope) -> Response:
        return Response(status_text(source).encode(), b"application/json")

    def healthz(scope: Scope) -> Response:
        return _verdict(illness(source(), blocked_limit_s))

    def readyz(scope: Scope) -> Response:
        return _verdict(obstacle(source(), blocked_limit_s))

    return {
        "/metrics": Page(Audience.SCRAPERS, metrics),
        "/status.json": Page(Audience.OPERATORS, status),
        "/healthz": Page(Audience.EVERYBODY, healthz),
        "/readyz": Page(Audience.EVERYBODY, readyz),
    }


def status_text(source: Source) -> str:
    """What /status.json has now."""
    return json.dumps(as_json(source()), separators=(",", ":"))


def _verdict(problem: str | None) -> Response:
    if problem is None:
        return Response(b"ok\n")
    return Response(f"{problem}\n".encode(), status=503)


def _refusal(fault: HttpFault) -> Response:
    return Response(f"{fault.detail}\n".encode(), status=fault.status, headers=fault.headers)


async def _send_response(send: Send, response: Response, kind: str) -> None:
    """`kind` is "http", or "websocket.http" for a handshake that is denied."""
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", b"%d" % len(response.body)),
        *_ON_ALL,
        *response.headers,
    ]
    start = {"type": f"{kind}.response.start", "status": response.status, "headers": headers}
    try:
        await send(start)
        await send({"type": f"{kind}.response.body", "body": response.body})
    except ClientDisconnected:
        pass  # nobody is left to read it
