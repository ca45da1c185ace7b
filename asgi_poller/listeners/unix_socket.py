"""The file of a unix socket: replaced if nobody listens on it, never stolen, removed if ours."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass

from asgi_poller import platform
from asgi_poller.errors import ConfigError, ListenError
from asgi_poller.privileges import own_socket_file, owner_ids


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A socket file that this process has made: `identity` is its device and inode."""

    path: str
    identity: tuple[int, int]

    def unlink(self) -> None:
        """Remove the file, if it is still the one that we made."""
        try:
            if _identity(self.path) == self.identity:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or the directory is no longer ours: nothing is left to do


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect to the sockets that are made: permission bits, and USER[:GROUP] or None."""

    mode: int
    owner: str | None


def bind_unix(path: str, *, option: str, access: Access) -> tuple[socket.socket, SocketFile]:
    """Make the socket file `path`, bound but not listening yet.

    The file is made with its permissions (unix(7): 0777 without the umask's), so that nothing is
    changed by its name afterwards, which others may have put something else under. (The umask is
    the process's: files that other threads make in this moment get it too.) Raises ListenError
    naming `option`; a live socket and a file that is no socket are left alone.
    """
    platform.require_unix_sockets(option)
    _remove_stale(path, option)
    owner = _owner_ids(access.owner)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        umask = os.umask(0o777 & ~access.mode)
        try:
            connection.bind(path)
        finally:
            os.umask(umask)
        made = SocketFile(path, _identity(path))
    except OSError as error:
        connection.close()
        raise ListenError(f"{option}: cannot make the socket {path}: {_reason(error)}") from error
    try:
        if owner is not None:
            own_socket_file(path, *owner)
    except OSError as error:
        connection.close()
        made.unlink()
        raise ListenError(f"--uds-owner: cannot set it on {path}: {_reason(error)}") from error
    return connection, made


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_stale(path: str, option: str) -> None:
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"{option}: cannot look at {path}: {_reason(error)}") from error
    if not stat.S_ISSOCK(before.st_mode):
        raise ListenError(f"{option}: {path} exists and is not a socket; choose another path")
    if _is_live(path, option):
        raise ListenError(f"{option}: {path} is in use: another server listens on it")
    SocketFile(path, (before.st_dev, before.st_ino)).unlink()


def _is_live(path: str, option: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue must not hang the start
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True  # somebody listens, and is busy
        except OSError as error:
            raise ListenError(f"{option}: cannot tell whether {path} is in use: {error}") from error
    return True


def _owner_ids(owner: str | None) -> tuple[int, int] | None:
    try:
        return None if owner is None else owner_ids("--uds-owner", owner)
    except ConfigError as error:
        raise ListenError(str(error)) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
