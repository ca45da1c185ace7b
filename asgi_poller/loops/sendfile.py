"""From a file into a socket without a copy (sendfile(2)), beside the transport that has the socket.

The transport's own bytes come first: nothing is sent while it has any. Event loops let nobody wait
for a transport's descriptor, so a duplicate of it is waited for. (`loop.sendfile` is not in uvloop,
and asyncio's takes the transport away from its protocol.)

sendfile waits for the disk where the file is not in memory, and with it would all of the loop: so a
thread reads such a part first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

CAN_SENDFILE = hasattr(os, "sendfile")

#: At once: then others have their turn.
STEP_BYTES = 524288
_READ_BYTES = 131072
# preadv2(2): fail rather than wait; only Linux has it, and not on every file system
_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)


class SocketTransfer:
    """`count` bytes of the file `fd` on their way. Owned by the loop's thread; `fd` is the caller's
    and must stay open until `done`.

    `done` is set when all is with the kernel, when no more can be sent this way (`sent_bytes` tells
    how many were), or after `stop`, which who began it must call once the connection is lost.
    `note` is called with each number of bytes.
    """

    __slots__ = (
        "_count",
        "_fd",
        "_has_yielded",
        "_loop",
        "_note",
        "_offset",
        "_ready_to",
        "_transport",
        "_watched",
        "done",
        "sent_bytes",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        note: Callable[[int], None] | None,
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._note = note
        self._fd = -1
        self._offset = 0
        self._count = 0
        self._has_yielded = False
        self._ready_to = 0  # up to here the file is in memory
        self._watched = -1  # the duplicate that is waited for
        self.sent_bytes = 0
        self.done: asyncio.Future[None] = loop.create_future()

    @property
    def left_bytes(self) -> int:
        """What the peer has still to take."""
        return 0 if self.done.done() else self._count - self.sent_bytes

    def start(self, fd: int, offset: int, count: int) -> None:
        self._fd, self._offset, self._count = fd, offset, count
        self._step()

    def stop(self) -> None:
        """Nothing more is sent. More than once does no harm."""
        self._unwatch()
        if not self.done.done():
            self.done.set_result(None)

    def _step(self) -> None:
        transport = self._transport
        if self.done.done():
            return
        if transport.is_closing():  # its descriptor is not ours any more; `stop` will come
            self._unwatch()
            return
        if transport.get_write_buffer_size():
            self._wait()
            return
        left = self._count - self.sent_bytes
        at = self._offset + self.sent_bytes
        if at >= self._ready_to:
            end = at + min(left, STEP_BYTES)
            if not is_in_memory(self._fd, at, end):
                self._read_ahead(at, end)
                return
            self._ready_to = end
        try:
            out = self._watched if self._watched >= 0 else _descriptor(transport)
            sent = os.sendfile(out, self._fd, at, self._ready_to - at)
        except BlockingIOError:
            self._wait()
            return
        except ConnectionError:
            self._unwatch()
            transport.abort()
            return
        except OSError:  # not from this file, or not here: reading tells why, or does it
            self.stop()
            return
        self.sent_bytes += sent
        if sent and self._note is not None:
            self._note(sent)
        if not sent or sent == left:
            self.stop()
        else:
            self._wait()

    def _read_ahead(self, at: int, end: int) -> None:
        """Let a thread bring the next part into memory, and go on."""
        self._unwatch()
        try:
            fd = os.dup(self._fd)  # the caller may close its own meanwhile
        except OSError:  # there are no descriptors left
            self.stop()
            return
        reading = self._loop.run_in_executor(None, _read_through, fd, at, end)
        reading.add_done_callback(self._was_read)

    def _was_read(self, reading: asyncio.Future[int]) -> None:
        if reading.cancelled() or reading.exception() is not None:
            self.stop()  # who reads what is left finds out why
        else:
            self._ready_to = reading.result()
            self._step()

    def _wait(self) -> None:
        """Until the socket takes more. For its transport too, which then writes what it has."""
        if self._watched >= 0:
            return
        if not self._has_yielded:  # uvloop writes at the end of a turn
            self._has_yielded = True
            self._loop.call_soon(self._step)
            return
        try:
            self._watched = os.dup(_descriptor(self._transport))
        except OSError:  # there are no descriptors left
            self.stop()
            return
        self._loop.add_writer(self._watched, self._step)

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, -1
        if watched >= 0:
            self._loop.remove_writer(watched)
            os.close(watched)


def is_in_memory(fd: int, first: int, end: int) -> bool:
    """Whether these bytes of a file can be read without waiting, as far as the first and the last
    tell; False where the file system cannot tell. Never waits itself.
    """
    if _NO_WAIT is None:
        return False
    try:
        return all(os.preadv(fd, [bytearray(1)], at, _NO_WAIT) == 1 for at in (first, end - 1))
    except OSError:
        return False


def _read_through(fd: int, first: int, end: int) -> int:
    """Read them and close `fd`; gives `end`. Raises OSError."""
    try:
        room = bytearray(_READ_BYTES)
        for at in range(first, end, _READ_BYTES):
            os.preadv(fd, [room], at)
        return end
    finally:
        os.close(fd)


def can_send_files(transport: asyncio.Transport) -> bool:
    """Whether the kernel may write beside this transport."""
    return CAN_SENDFILE and transport.get_extra_info("sslcontext") is None


def _descriptor(transport: asyncio.Transport) -> int:
    descriptor: int = transport.get_extra_info("socket").fileno()
    return descriptor
