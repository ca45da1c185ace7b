"""Memory that processes share: anonymous if they are forked, else with a descriptor."""

from __future__ import annotations

import mmap
import os

from asgi_poller import platform

CELL_BYTES = 8  # of a cell in `cells`: a signed integer


class SharedMemory:
    """`size_bytes` of zeros that every process sees which inherits it by fork or attaches to `fd`.

    `fd` is -1 unless it was made for processes that are started afresh (`named`), and after
    `close`.
    """

    __slots__ = ("fd", "memory")

    def __init__(self, size_bytes: int, *, named: str | None = None) -> None:
        self.fd = -1 if named is None else platform.shared_memory(named, size_bytes)
        self.memory = mmap.mmap(self.fd, size_bytes)

    @classmethod
    def attach(cls, fd: int) -> SharedMemory:
        """What another process made, by a descriptor of it, which this object owns from now on."""
        shared = cls.__new__(cls)
        shared.fd = fd
        shared.memory = mmap.mmap(fd, os.fstat(fd).st_size)
        return shared

    @property
    def cells(self) -> memoryview[int]:
        """All of it as integers of 8 bytes."""
        return memoryview(self.memory).cast("q")

    def close(self) -> None:
        """Give the descriptor and the memory back. What still has a view of it keeps it mapped
        until that is gone. Idempotent.
        """
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        try:
            self.memory.close()
        except BufferError:
            pass  # there is a view: it is unmapped with the last of them
