"""A file that is a response's body, or a piece of it (ASGI: Extensions, Path Send and Zero Copy
Send). What may wait for a disk is done in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from asgi_poller.asgi.response_port import FilePort, FileTransfer
from asgi_poller.asgi.types import Message
from asgi_poller.errors import ApplicationFault, ResponseBroken

#: Read at once where the kernel cannot send from the file by itself.
PIECE_BYTES = 131072
_HAS_PREAD = hasattr(os, "pread")  # Windows has none
# a pipe or terminal in the file's place must neither block nor become ours
_FLAGS = os.O_RDONLY
for _name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY"):
    _FLAGS |= getattr(os, _name, 0)


class FilePart:
    """`count` bytes of an open file from `offset` on. The descriptor is its own: `close` closes it,
    after a read that is under way. Owned by the loop's thread. `follows`: the file's position is to
    be behind what was sent.
    """

    __slots__ = ("_reading", "count", "fd", "follows", "offset")

    def __init__(self, fd: int, offset: int, count: int, *, follows: bool = False) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count
        self.follows = follows
        self._reading: asyncio.Future[bytes] | None = None

    async def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset` on; none at the file's end. Raises OSError."""
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(None, _read, self.fd, offset, count)
        self._reading = reading
        piece = await asyncio.shield(reading)
        self._reading = None
        return piece

    def sent(self) -> None:
        """All of it is sent."""
        if self.follows:
            os.lseek(self.fd, self.offset + self.count, os.SEEK_SET)

    def close(self) -> None:
        reading = self._reading
        if reading is None or reading.done():
            os.close(self.fd)
        else:  # its number may not become another file's meanwhile
            reading.add_done_callback(self._read_late)

    def _read_late(self, reading: asyncio.Future[bytes]) -> None:
        os.close(self.fd)
        if not reading.cancelled():
            reading.exception()  # nobody asks for it any more


class FileBody:
    """A part on its way to the peer. Owned by the loop's thread; `part` is closed by who has
    opened it.
    """

    __slots__ = ("_files", "_is_stopped", "_transfer", "part")

    def __init__(self, part: FilePart, files: FilePort) -> None:
        self.part = part
        self._files = files
        self._transfer: FileTransfer | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """The peer has left, or the response breaks off for another reason."""
        self._is_stopped = True
        if self._transfer is not None:
            self._transfer.stop()

    async def transmit(self, more_body: bool, drain: Callable[[], Awaitable[None]]) -> None:
        """Send all of it, or until `stop`: the kernel does what it can, the rest is read piece by
        piece while `drain` lets it. Raises what breaks the response off: OSError, ResponseBroken
        for a file that ends too early.
        """
        part, files = self.part, self._files
        if files.begin_file(part.count, more_body):
            at = await self._send_by_kernel()
            while at < part.count and not self._is_stopped:
                await drain()
                piece = await part.read(part.offset + at, min(PIECE_BYTES, part.count - at))
                if not piece:
                    raise ResponseBroken("A file has become shorter while it was sent.")
                if not self._is_stopped:
                    files.send_file_piece(piece)
                at += len(piece)
        if not self._is_stopped:
            part.sent()
            files.end_file(part.count, more_body)

    async def _send_by_kernel(self) -> int:
        """How many bytes it has sent."""
        part = self.part
        transfer = self._files.send_file(part.fd, part.offset, part.count)
        if transfer is None:
            return 0
        self._transfer = transfer
        try:
            await transfer.done
        finally:
            transfer.stop()
        return transfer.sent_bytes


async def open_path(path: object) -> FilePart:
    """All of the regular file at `path`. Raises OSError, and ApplicationFault for what cannot be a
    path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ApplicationFault(f"`path` is a string, not {type(path).__name__}")
    loop = asyncio.get_running_loop()
    opening = loop.run_in_executor(None, _open, path)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_opened_late)
        raise
    except ValueError as error:  # a NUL in it
        raise ApplicationFault(f"`path` is none: {error}") from error


def part_of(message: Message) -> FilePart:
    """What http.response.zerocopysend speaks of. Raises OSError, and ApplicationFault for what
    cannot be sent: the file remains the application's, which may close it when it is sent.
    """
    file = message.get("file")
    try:
        fd = file if isinstance(file, int) else file.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError) as error:
        raise ApplicationFault(f"`file` has no open descriptor: {error}") from error
    given_offset, given_count = _size(message, "offset"), _size(message, "count")
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ApplicationFault("`file` is not a regular file")
    offset = os.lseek(fd, 0, os.SEEK_CUR) if given_offset is None else given_offset
    left = max(0, status.st_size - offset)
    count = left if given_count is None else given_count
    if count > left:
        raise ApplicationFault(f"`count` is {count}, and the file has {left} bytes from there on")
    return FilePart(os.dup(fd), offset, count, follows=given_offset is None)


def headers_for(headers: Iterable[Any], count: int, *, is_all: bool) -> list[Any]:
    """An application's headers, with a Content-Length if they need one and `is_all` of the body is
    the file. Raises ApplicationFault where they speak of a body of another length.
    """
    try:
        fields = list(headers)
    except TypeError as error:
        raise ApplicationFault(f"headers are pairs of bytes: {error}") from error
    for name, value in fields:
        lower = name.lower() if isinstance(name, bytes) else b""
        if lower == b"content-length":
            length = int(value) if isinstance(value, bytes) and value.isdigit() else count
            if length < count or (length > count and is_all):
                raise ApplicationFault(f"the file has {count} bytes, not the {length} of its head")
            return fields
        if lower == b"transfer-encoding":
            return fields
    if is_all:
        fields.append((b"content-length", b"%d" % count))
    return fields


def _size(message: Message, key: str) -> int | None:
    value: object = message.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or value < 0:
        raise ApplicationFault(f"`{key}` is a number of bytes, not {value!r}")
    return value


def _open(path: str | os.PathLike[str]) -> FilePart:
    fd = os.open(path, _FLAGS)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    except BaseException:
        os.close(fd)
        raise
    return FilePart(fd, 0, status.st_size)


def _opened_late(opening: asyncio.Future[FilePart]) -> None:
    """Nobody waits for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _read(fd: int, offset: int, count: int) -> bytes:
    if _HAS_PREAD:
        return os.pread(fd, count, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, count)
