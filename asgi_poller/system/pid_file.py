"""The pid file (`--pid`).

Written as a whole or not at all, never over a server that runs, never over a file that is something
else, and removed only by the process that it names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
from pathlib import Path

from asgi_poller.errors import ConfigError
from asgi_poller.platform import process_is_alive

_LIMIT_BYTES = 32  # more than any number needs: a longer file is no pid file
_ATTEMPTS_COUNT = 20
_OPTION = "--pid"
_NO_SURPRISE: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class PidFile:
    """One pid file of this process. Owned by the main thread. Raises ConfigError from `write`
    only.
    """

    __slots__ = ("_path", "_pid", "_predecessor")

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._pid: int | None = None  # in the file, once written
        self._predecessor: int | None = None

    def write(self, *, successor_of: int | None = None) -> None:
        """Write this process's number, unless another process that is alive holds the file: any but
        `successor_of`, which knows and will end.
        """
        pid = os.getpid()
        self._predecessor = successor_of
        try:
            self._write(pid)
        except OSError as error:
            raise ConfigError(_OPTION, f"cannot write {self._path}: {error.strerror}") from error
        self._pid = pid

    def remove(self) -> None:
        """Remove the file if it still names this process, and this process wrote it. Idempotent.

        A forked worker has a copy of this object, and another server may have taken the file over.
        """
        pid, self._pid = self._pid, None
        if pid is None or pid != os.getpid():
            return
        # Removed already, or the directory is not writable any more (--user): what is left names
        # a dead process, and the next start replaces it.
        with contextlib.suppress(OSError, ValueError):
            fd = _open(self._path)
            try:
                if _number(fd) == pid:
                    self._path.unlink()
            finally:
                os.close(fd)

    def _write(self, pid: int) -> None:
        # A name that cannot be guessed, and O_EXCL: no link is followed where others may write.
        fd, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        new = Path(name)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
                if sys.platform != "win32":
                    os.fchmod(fd, 0o644)
            for _ in range(_ATTEMPTS_COUNT):
                try:
                    # Fails if the file exists: of several that start at once one gets it.
                    os.link(new, self._path)
                except FileExistsError:
                    if self._take_over(new, pid):
                        return
                else:
                    return
        finally:
            new.unlink(missing_ok=True)
        raise ConfigError(_OPTION, f"{self._path} is replaced again and again")

    def _take_over(self, new: Path, pid: int) -> bool:
        """Put `new` in the place of a dead process's file; ConfigError if it is not to be had.

        False if the file was replaced or removed meanwhile: look again.
        """
        try:
            old = _open(self._path)
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise self._no_pid_file() from error
        try:
            # Between reading and replacing, no other process may do the same with this file.
            if not _lock(old):
                raise ConfigError(_OPTION, f"another process is writing {self._path}")
            try:
                if not os.path.samestat(os.fstat(old), os.lstat(self._path)):
                    return False
            except FileNotFoundError:
                return False
            self._refuse_live(old, pid)
            os.replace(new, self._path)
            return True
        finally:
            os.close(old)

    def _refuse_live(self, old: int, pid: int) -> None:
        try:
            other = _number(old)
        except ValueError as error:
            raise self._no_pid_file() from error
        if other not in (None, pid, self._predecessor) and process_is_alive(other):
            problem = f"process {other} is running; remove {self._path} if that is another program"
            raise ConfigError(_OPTION, problem)

    def _no_pid_file(self) -> ConfigError:
        return ConfigError(_OPTION, f"{self._path} exists and is no pid file; choose another path")


def _open(path: Path) -> int:
    """Open a pid file for reading; the descriptor is the caller's. ValueError for what is none: a
    link is not followed, and a FIFO is not waited for.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _NO_SURPRISE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("a link") from error
        raise
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # reading a directory is an error of its own
        return fd
    os.close(fd)
    raise ValueError("no file")


def _number(fd: int) -> int | None:
    """The number in the file, None if it is empty. ValueError if it holds anything else."""
    content = os.read(fd, _LIMIT_BYTES + 1).strip()
    if not content:
        return None
    if len(content) > _LIMIT_BYTES or not content.isdigit():
        raise ValueError("no number")
    return int(content)


def _lock(fd: int) -> bool:
    """Lock a file until it is closed; False if another process has it locked."""
    if sys.platform == "win32":
        return True  # no lock of this kind; two servers cannot have the same port anyway
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: the check still holds for all but the same instant
    return True
