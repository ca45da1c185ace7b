"""Static files: what the server answers by itself below the prefixes of --static-path-mount.

An ASGI layer before the application, which never sees these requests: the exchange, and with it the
access log, the counters, HTTP/2 and TLS, are those of any response.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from asgi_poller import platform
from asgi_poller.asgi.static_lookup import (
    NOSNIFF,
    PIECE_BYTES,
    STEP_BYTES,
    Answer,
    Headers,
    Lookup,
    OpenFile,
    Wanted,
    may_be_served,
)
from asgi_poller.asgi.types import Application, Receive, Scope, Send
from asgi_poller.config import Config
from asgi_poller.errors import (
    ApplicationFault,
    ClientDisconnected,
    ConfigError,
    HttpFault,
    ResponseBroken,
)
from asgi_poller.settings.rules import cpu_count
from asgi_poller.settings.static import mount_parts

T = TypeVar("T")
_log = logging.getLogger("asgi_poller.error")
_OPTION = "--static-path-mount"
# Of a loop. A disk that hangs holds so many requests for files, and nothing else.
_THREADS = 4
_LEAST_OPEN = 8
_OPEN_UNLIMITED = 65536
_OPEN_SHARE = 8  # an eighth of all descriptors: while the kernel sends a file it has up to three
_METHODS = b"GET, HEAD"
_BODY, _ZERO_COPY = "http.response.body", "http.response.zerocopysend"
_SHORTER = "A static file has become shorter while it was sent."


class Mount(NamedTuple):
    """`prefix` as in a request's path, such as /static; `directory` without links in it."""

    prefix: str
    directory: str


def static_mounts(config: Config) -> tuple[Mount, ...]:
    """The mounts, the longest prefix first, their directories as they are now. Raises ConfigError
    for one that cannot be served.
    """
    mounts = []
    for each in config.static_path_mount:
        prefix, directory = mount_parts(each)
        if os.open not in os.supports_dir_fd:
            raise ConfigError(_OPTION, "needs Linux, macOS or BSD: leave it out")
        if not os.path.isdir(directory):
            what = f"{directory} is no directory" if os.path.exists(directory) else ""
            raise ConfigError(_OPTION, f"{what or f'there is no directory {directory}'}: {each}")
        mounts.append(Mount(prefix, os.path.realpath(directory)))
    return tuple(sorted(mounts, key=lambda mount: -len(mount.prefix)))


def static_files(config: Config) -> StaticFiles | None:
    """What answers below the mounts; None where there are none. Raises ConfigError."""
    if not config.static_path_mount:
        return None
    return StaticFiles(static_mounts(config), config)


class StaticFiles:
    """Owned by one loop's thread. Has threads of its own, until it is closed."""

    def __init__(self, mounts: tuple[Mount, ...], config: Config) -> None:
        self._mounts = mounts
        self._root_path = config.root_path
        limit = platform.descriptor_limit() or _OPEN_UNLIMITED
        loop_count = config.loops if isinstance(config.loops, int) else cpu_count()
        self._lookup = Lookup(
            index=config.static_path_dir_to_file,
            expires_s=config.static_path_expires,
            open_limit=max(_LEAST_OPEN, limit // _OPEN_SHARE // loop_count),
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="StaticFiles")

    def close(self) -> None:
        """What waits for a thread is cancelled; what a thread does, it finishes."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def before(self, application: Application) -> Application:
        """`application`, but for the paths that are ours."""
        find, answer = self._mount_of, self._answer

        # no coroutine of its own: what is the application's costs a look at its path
        def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            if scope["type"] != "lifespan":
                mount = find(scope["path"])
                if mount is not None:
                    return answer(mount, scope, receive, send)
            return application(scope, receive, send)

        return call

    def _mount_of(self, path: str) -> Mount | None:
        path = path[len(self._root_path) :]
        for mount in self._mounts:
            prefix = mount.prefix
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return mount
        return None

    async def _answer(self, mount: Mount, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await _send(send, _refusal(HttpFault(404, "Not Found")), prefix="websocket.")
            return
        answer = await self._response(mount, scope)
        if answer.file is None:
            await _send(send, answer)
        else:
            await self._send_file(answer, answer.file, scope, send)

    async def _response(self, mount: Mount, scope: Scope) -> Answer:
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise HttpFault(405, "Method Not Allowed", ((b"allow", _METHODS),))
            wanted = self._wanted(mount, scope)
            return await self._in_thread(
                functools.partial(self._lookup.answer, wanted), _close_late
            )
        except HttpFault as fault:
            return _refusal(fault)
        except OSError as error:
            _log.error("A static file below %s cannot be read: %s", mount.directory, error)
            return _refusal(HttpFault(500, "Internal Server Error"))

    def _wanted(self, mount: Mount, scope: Scope) -> Wanted:
        """Raises HttpFault for a path that leads to no file. Split before it is unquoted: %2F is no
        slash.
        """
        raw = scope["raw_path"][len(self._root_path.encode()) :].split(b"/")
        names = [unquote_to_bytes(name) for name in raw]
        above = mount.prefix.encode().split(b"/")
        if names[: len(above)] != above:  # it only looks so with its %2F as slashes
            raise HttpFault(404, "Not Found")
        below = names[len(above) :]
        # what ends with a slash is a directory; no other name is empty
        files = below[:-1] if below and not below[-1] else below
        if not all(map(may_be_served, files)):
            raise HttpFault(404, "Not Found")
        return Wanted(
            mount.directory,
            tuple(below),
            scope["method"],
            scope["headers"],
            scope["raw_path"],
            scope["query_string"],
        )

    async def _send_file(self, answer: Answer, file: OpenFile, scope: Scope, send: Send) -> None:
        """A file that is too large to be read at once: what is in memory the kernel sends by
        itself, where it can; what is not, a thread reads, so that no disk holds the loop.
        """
        has_kernel = _has_kernel(scope)
        try:
            await send(_start(answer))
            first, end = answer.first, answer.first + answer.count
            while first < end:
                count = min(end - first, STEP_BYTES)
                if has_kernel and file.is_in_memory(first, count):
                    await _send_by_kernel(send, file, first, count, is_last=first + count == end)
                    first += count
                    continue
                piece = await self._read(file, first, min(count, PIECE_BYTES))
                first += len(piece)
                await send({"type": _BODY, "body": piece, "more_body": first < end})
        finally:
            file.close()

    async def _read(self, file: OpenFile, first: int, count: int) -> bytes:
        """At least a byte. Raises ResponseBroken."""
        try:
            piece = await self._in_thread(functools.partial(file.read, first, count))
        except OSError as error:
            raise ResponseBroken(f"A static file can no longer be read: {error}") from None
        if not piece:
            raise ResponseBroken(_SHORTER)
        return piece

    async def _in_thread(
        self, work: Callable[[], T], late: Callable[[Future[T]], object] | None = None
    ) -> T:
        """What `work` returns. If nobody waits for it any longer, `late` gets its future."""
        future = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if late is not None:
                future.add_done_callback(late)
            raise


def _has_kernel(scope: Scope) -> bool:
    """Whether files are sent by the kernel (sendfile); elsewhere zero-copy messages are read, too,
    but by threads that the application needs.
    """
    extensions = scope.get("extensions", {})
    is_plain = "tls" not in extensions and scope["http_version"] != "2"
    return is_plain and _ZERO_COPY in extensions


async def _send_by_kernel(
    send: Send, file: OpenFile, first: int, count: int, *, is_last: bool
) -> None:
    """ASGI: Extensions, Zero Copy Send. Raises ResponseBroken."""
    message = {"type": _ZERO_COPY, "file": file.fd, "offset": first, "count": count}
    try:
        await send({**message, "more_body": not is_last})
    except ApplicationFault:  # it was longer when it was looked at
        raise ResponseBroken(_SHORTER) from None
    except ClientDisconnected:
        raise
    except OSError as error:
        raise ResponseBroken(f"A static file can no longer be sent: {error}") from None


def _start(answer: Answer) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": answer.status,
        "headers": answer.headers,
    }


async def _send(send: Send, answer: Answer, *, prefix: str = "") -> None:
    """A whole response."""
    start = _start(answer)
    await send({**start, "type": prefix + start["type"]})
    await send({"type": prefix + _BODY, "body": answer.body})


def _refusal(fault: HttpFault) -> Answer:
    body = fault.detail.encode()
    headers: Headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        NOSNIFF,
        *fault.headers,
    ]
    return Answer(fault.status, headers, body)


def _close_late(future: Future[Answer]) -> None:
    """The request has ended before its file was open."""
    if not future.cancelled() and future.exception() is None:
        file = future.result().file
        if file is not None:
            file.close()
