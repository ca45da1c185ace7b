"""From a request's path to a file below a directory, and what it is answered with. Runs in threads:
these calls wait for a disk.

Nothing above the directory can be reached, whatever links and races there are: each component is
opened by itself, relative to the one before it and without following a link (openat and O_NOFOLLOW,
open(2)), and what is sent is what was opened. Between a check and its use there is no name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mimetypes
import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import quote_from_bytes

from asgi_poller.asgi.error_response import RETRY_AFTER_S
from asgi_poller.errors import HttpFault
from asgi_poller.protocols.content_coding import preferred
from asgi_poller.protocols.preconditions import Validators, select

Headers = list[tuple[bytes, bytes]]

#: What is not longer is read at once, so that no descriptor stays open for it.
PIECE_BYTES = 128 * 1024
#: What the kernel is asked to send at once.
STEP_BYTES = 4 * PIECE_BYTES

# O_PATH (Linux): to go through a directory takes the right to search it, not to read it
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | os.O_CLOEXEC
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# O_NONBLOCK: what has become a FIFO since it was looked at must not block
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | _NO_LINK

_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)

_NAME_BYTES = 255  # of a component, in any file system
_NEVER_IN_NAMES = re.compile(rb"[\x00-\x1f\x7f/\\]")
_SETTLED_NS = 2_000_000_000
_NOT_THERE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,  # a link
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EILSEQ,  # a name that is no UTF-8, where the file system wants that
        errno.ENXIO,  # a socket
        errno.ENODEV,
    }
)
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

#: Of everything below a mount: what is said to be text is never taken for a script.
NOSNIFF = (b"x-content-type-options", b"nosniff")
#: Content codings, the preferred first, and the files that have them.
_CODINGS = ((b"br", b".br"), (b"zstd", b".zst"), (b"gzip", b".gz"))

# What browsers insist on; the machine's own tables differ, or lack them.
_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    # a compressed file is sent as what it is, not as what is in it
    ".br": "application/octet-stream",
    ".bz2": "application/x-bzip2",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".xz": "application/x-xz",
    ".z": "application/octet-stream",
    ".zst": "application/zstd",
}


class OpenFile:
    """An open file that is on its way to a client. Closing it makes room for another one. Any
    thread: a read that is under way when it is closed ends first, and nobody waits for that.
    """

    __slots__ = ("_is_closed", "_is_read", "_lock", "_room", "fd")

    def __init__(self, fd: int, room: threading.Semaphore) -> None:
        self.fd = fd
        self._room = room
        self._lock = threading.Lock()
        self._is_read = False
        self._is_closed = False

    def read(self, first: int, count: int) -> bytes:
        """`count` bytes from `first` on; fewer at the file's end. One read at a time."""
        with self._lock:
            if self._is_closed:
                return b""
            self._is_read = True
        try:
            return _read(self.fd, first, count)
        finally:
            with self._lock:
                self._is_read = False
                is_left = self._is_closed
            if is_left:
                self._end()

    def is_in_memory(self, first: int, count: int) -> bool:
        """Whether a part could be read without waiting for a disk, as far as its ends tell. Never
        waits itself (preadv2(2): RWF_NOWAIT).
        """
        if _NO_WAIT is None:
            return False
        last = first + count - 1
        try:
            ends = [os.preadv(self.fd, [bytearray(1)], at, _NO_WAIT) for at in (first, last)]
        except OSError:  # it would wait, or this file system cannot tell
            return False
        return ends == [1, 1]

    def close(self) -> None:
        """More than once does nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._is_read:
                return
        self._end()

    def _end(self) -> None:
        os.close(self.fd)
        self._room.release()


@dataclass(slots=True)
class Answer:
    """A response. Its body is `body`, and where there is a `file` its `count` bytes from `first` on
    instead; who gets it closes the file.
    """

    status: int
    headers: Headers
    body: bytes = b""
    file: OpenFile | None = None
    first: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a request counts. `names` are the components below the mount: the last one is empty
    for a path that ends with a slash, and there is none for the mount itself without one.
    `raw_path` is the request's, for a redirect; `query` what follows it.
    """

    directory: str
    names: tuple[bytes, ...]
    method: str
    headers: Iterable[tuple[bytes, bytes]]
    raw_path: bytes
    query: bytes


def may_be_served(name: bytes) -> bool:
    """Whether a file of this name may be: not a hidden one, .. among them, nor what could be
    understood as a path.
    """
    return (
        0 < len(name) <= _NAME_BYTES
        and not name.startswith(b".")
        and _NEVER_IN_NAMES.search(name) is None
    )


class Lookup:
    """How files are answered. Any thread. `index` is a directory's file, None without one. At most
    `open_limit` files are open on their way to clients.
    """

    def __init__(self, *, index: str | None, expires_s: float, open_limit: int) -> None:
        self._index = None if index is None else os.fsencode(index)
        self._cache_control = b"max-age=%d" % expires_s if expires_s >= 1 else b"no-cache"
        self._room = threading.Semaphore(open_limit)

    def answer(self, wanted: Wanted) -> Answer:
        """What a GET or HEAD is answered with. Raises HttpFault for what is not served, and OSError
        where the disk fails.
        """
        try:
            return self._answer(wanted)
        except OSError as error:
            if error.errno in _NOT_THERE:
                raise _not_found() from None
            if error.errno in _FORBIDDEN:
                raise HttpFault(403, "Forbidden") from None
            if error.errno in _EXHAUSTED:
                raise _busy() from None
            raise

    def _answer(self, wanted: Wanted) -> Answer:
        if not wanted.names:
            return self._redirected(wanted, wanted.directory, ())
        *folders, name = wanted.names
        with _below(wanted.directory, folders) as parent:
            if not name:
                if self._index is None:
                    raise _not_found()
                return self._file(wanted, parent, self._index)
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return self._redirected(wanted, parent, (name,))
            return self._file(wanted, parent, name)

    def _redirected(self, wanted: Wanted, root: str | int, names: tuple[bytes, ...]) -> Answer:
        """To the directory's own address, so that links in its file lead into it; only where it has
        such a file: else nobody learns that there is a directory.
        """
        index = self._index
        if index is None:
            raise _not_found()
        with _below(root, names) as directory:
            if _regular(index, directory) is None:
                raise _not_found()
        # written again, so that nothing of the client's own spelling is in it
        location = quote_from_bytes(wanted.raw_path, safe="/%").encode() + b"/"
        if wanted.query:
            location += b"?" + wanted.query
        # not 301: browsers remember that for ever, and a file of this name may come
        return Answer(307, [(b"location", location), (b"content-length", b"0"), NOSNIFF])

    def _file(self, wanted: Wanted, parent: int, name: bytes) -> Answer:
        plain = _regular(name, parent)
        if plain is None:
            raise _not_found()
        available = [
            (coding, name + ending)
            for coding, ending in _CODINGS
            if (variant := _variant(name + ending, parent)) is not None
            and variant.st_mtime_ns >= plain.st_mtime_ns
        ]
        coding = preferred(
            _field(wanted.headers, b"accept-encoding"), [coding for coding, _ in available]
        )
        fd = None
        if coding is not None:
            with contextlib.suppress(OSError):  # gone since, or not to be read: the file itself is
                fd = _opened(dict(available)[coding], parent)
        if fd is None:
            coding, fd = None, _opened(name, parent)
        if fd is None:
            raise _not_found()
        fields = [(b"content-type", _content_type(name)), NOSNIFF]
        if available:
            fields.append((b"vary", b"accept-encoding"))
        if coding is not None:
            fields.append((b"content-encoding", coding))
        fields.append((b"cache-control", self._cache_control))
        try:
            answer, is_kept = self._representation(wanted, fd, fields, coding)
        except BaseException:
            os.close(fd)
            raise
        if not is_kept:
            os.close(fd)
        return answer

    def _representation(
        self, wanted: Wanted, fd: int, fields: Headers, coding: bytes | None
    ) -> tuple[Answer, bool]:
        """The answer, and whether it keeps the descriptor."""
        info = os.fstat(fd)
        size = info.st_size
        validators = _validators(info, coding)
        status, first, count = select(wanted.method, wanted.headers, validators, size)
        if status == 412:
            raise HttpFault(412, "Precondition Failed")
        if status == 416:
            raise HttpFault(
                416, "Range Not Satisfiable", ((b"content-range", b"bytes */%d" % size),)
            )
        fields.append((b"etag", validators.etag))
        if validators.modified_s is not None:
            date = formatdate(validators.modified_s, usegmt=True).encode()
            fields.append((b"last-modified", date))
        if status == 304:
            return Answer(304, fields), False
        fields += [(b"accept-ranges", b"bytes"), (b"content-length", b"%d" % count)]
        if status == 206:
            part = b"bytes %d-%d/%d" % (first, first + count - 1, size)
            fields.append((b"content-range", part))
        if wanted.method == "HEAD" or not count:
            return Answer(status, fields), False
        if count <= PIECE_BYTES:
            body = _read(fd, first, count)
            if len(body) < count:  # it has become shorter since fstat
                raise _busy()
            return Answer(status, fields, body), False
        if not self._room.acquire(blocking=False):
            raise _busy()
        file = OpenFile(fd, self._room)
        return Answer(status, fields, file=file, first=first, count=count), True


def _read(fd: int, first: int, count: int) -> bytes:
    pieces: list[bytes] = []
    while count and (piece := os.pread(fd, count, first)):
        pieces.append(piece)
        first += len(piece)
        count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _not_found() -> HttpFault:
    return HttpFault(404, "Not Found")


def _busy() -> HttpFault:
    retry = (b"retry-after", b"%d" % RETRY_AFTER_S)
    return HttpFault(503, "Service Unavailable", (retry,))


@contextlib.contextmanager
def _below(root: str | int, names: Iterable[bytes]) -> Iterator[int]:
    """The descriptor of a directory below `root`, a path or a descriptor, which stays open. Raises
    OSError.
    """
    at = os.dup(root) if isinstance(root, int) else os.open(root, _DIRECTORY)
    try:
        for name in names:
            above, at = at, os.open(name, _DIRECTORY | _NO_LINK, dir_fd=at)
            os.close(above)
        yield at
    finally:
        os.close(at)


def _regular(name: bytes, parent: int) -> os.stat_result | None:
    """What a regular file is like; None for anything else. Raises OSError if there is nothing."""
    info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return info if stat.S_ISREG(info.st_mode) else None


def _variant(name: bytes, parent: int) -> os.stat_result | None:
    try:
        return _regular(name, parent)
    except OSError:
        return None


def _opened(name: bytes, parent: int) -> int | None:
    """A descriptor of a regular file; None for anything else. Raises OSError."""
    # asked first: to open a device, or the end of a FIFO, has effects
    if _regular(name, parent) is None:
        return None
    fd = os.open(name, _FILE, dir_fd=parent)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _field(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    values = [value for each, value in headers if each == name]
    return b",".join(values) if values else None


def _content_type(name: bytes) -> bytes:
    ending = os.path.splitext(os.fsdecode(name))[1].lower()
    kind = _TYPES.get(ending) or mimetypes.guess_type(f"x{ending}", strict=False)[0]
    if kind is None or not kind.isascii():
        return b"application/octet-stream"
    return f"{kind}; charset=utf-8".encode() if kind.startswith("text/") else kind.encode()


def _validators(info: os.stat_result, coding: bytes | None) -> Validators:
    """The ETag is made of what changes when the file does. The time of the inode's change is in it,
    as nobody can set it: in an image whose files all bear one date, a new file of the same size
    would else pass for the old one.

    It is strong once the file has been left alone for two seconds: before, it may be written to
    again within one tick of the file system's clock (RFC 9110, 8.8.1).
    """
    state = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, coding)
    tag = hashlib.blake2b(repr(state).encode(), digest_size=12).hexdigest().encode()
    now_ns = time.time_ns()
    is_strong = max(info.st_mtime_ns, info.st_ctime_ns) + _SETTLED_NS <= now_ns
    modified_s: int | None = info.st_mtime_ns // 1_000_000_000
    if info.st_mtime_ns > now_ns:  # RFC 9110, 8.8.2.1: not later than Date
        modified_s = None
    return Validators(b'"%b"' % tag if is_strong else b'W/"%b"' % tag, modified_s, is_strong)
