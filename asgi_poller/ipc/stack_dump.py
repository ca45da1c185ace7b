"""Stack dump of a blocked worker, by faulthandler and a pipe.

The worker registers faulthandler for a signal: it writes from the signal handler itself, in C, and
so works while a C function holds the GIL and no Python code runs at all. It writes into a pipe that
the supervisor reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import re
import signal

#: Sent to a worker: it writes its stacks.
STACK_SIGNAL: int = getattr(signal, "SIGUSR2", 0)  # 0: Windows, which has no workers

_READ_BYTES = 65536
_FIRST_S = 2.0  # to wait for the first byte: a stopped process writes nothing
_QUIET_S = 0.2  # without a byte: that was all
# Thread 0x00007f… (most recent call first):, with a name before the bracket in Python 3.14
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)\b.*$", re.MULTILINE)


def write_stacks_to(fd: int) -> None:
    """In the worker: write every thread's stack to `fd` whenever STACK_SIGNAL comes."""
    os.set_blocking(fd, False)  # if the pipe is not read, the handler must not wait
    faulthandler.register(STACK_SIGNAL, file=fd, all_threads=True, chain=False)


class StackPipe:
    """The supervisor's end. Owned by its main thread. `worker_end` is for the worker: close it
    here, with `close_worker_end`, once the worker has it.
    """

    def __init__(self) -> None:
        self._fd, self.worker_end = os.pipe()
        os.set_blocking(self._fd, False)

    def close_worker_end(self) -> None:
        """The worker has its copy. Idempotent."""
        if self.worker_end >= 0:
            os.close(self.worker_end)
            self.worker_end = -1

    def close(self) -> None:
        """Give the descriptors back. Idempotent."""
        self.close_worker_end()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def read(self) -> str:
        """What the worker writes after a signal; empty if nothing comes."""
        loop = asyncio.get_running_loop()
        pieces: list[bytes] = []
        limit_s = _FIRST_S
        while self._fd >= 0:
            readable = asyncio.Event()
            loop.add_reader(self._fd, readable.set)
            try:
                await asyncio.wait_for(readable.wait(), limit_s)
            except TimeoutError:
                break
            finally:
                if self._fd >= 0:
                    loop.remove_reader(self._fd)
            with contextlib.suppress(BlockingIOError, OSError):  # closed meanwhile: the end
                piece = os.read(self._fd, _READ_BYTES)
                if not piece:
                    break
                pieces.append(piece)
            limit_s = _QUIET_S
        return b"".join(pieces).decode(errors="replace")


def stack_of(thread: int, dump: str) -> str:
    """The part of faulthandler's `dump` that is about one thread; all of it if that is not found.

    `thread` is what `threading.get_ident()` gave there.
    """
    heads = list(_THREAD.finditer(dump))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        if int(head[1], 16) == thread:
            end = following.start() if following is not None else len(dump)
            return dump[head.start() : end].strip()
    return dump.strip()
