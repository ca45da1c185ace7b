"""What can be said of the addresses without listening on them: for `asgi-poller check`.

That a port is free only binding it would tell.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError, ListenError, OperatorFault
from asgi_poller.privileges import owner_ids
from asgi_poller.settings.addresses import parse_bind


def address_faults(config: Config) -> Iterator[OperatorFault]:
    """A fault for each address that cannot be listened on, as far as that shows beforehand."""
    texts = [("--bind", text) for text in config.bind]
    texts += [("--bind-tls", text) for text in config.bind_tls]
    if config.uds is not None:
        texts.append(("--uds", f"unix:{config.uds}"))
    if config.fd is not None:
        texts.append(("--fd", f"fd://{config.fd}"))
    for option, text in texts:
        yield from _faults(option, text)
    if not texts:
        yield from _faults_of_host("--host", config.host)
    if config.metrics is not None:
        yield from _faults("--metrics", config.metrics)
    if config.uds_owner is not None:
        try:
            owner_ids("--uds-owner", config.uds_owner)
        except ConfigError as error:
            yield ListenError(str(error))


def _faults(option: str, text: str) -> Iterator[OperatorFault]:
    address = parse_bind(text)  # checked when the option was read
    if address.kind == "unix":
        yield from _faults_of_path(option, address.path)
    elif address.kind == "tcp":
        yield from _faults_of_host(option, address.host)
    else:
        try:
            is_socket = stat.S_ISSOCK(os.fstat(address.fd).st_mode)
        except OSError as error:
            yield ListenError(f"{option}: descriptor {address.fd}: {error.strerror}")
        else:
            if not is_socket:
                yield ListenError(f"{option}: descriptor {address.fd} is not a socket")


def _faults_of_host(option: str, host: str) -> Iterator[OperatorFault]:
    try:
        socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        yield ListenError(f"{option}: cannot find the host {host!r}: {reason}")


def _faults_of_path(option: str, path: str) -> Iterator[OperatorFault]:
    try:
        platform.require_unix_sockets(option)
        mode = os.lstat(path).st_mode
    except OperatorFault as fault:
        yield fault
    except FileNotFoundError:
        directory = os.path.dirname(path) or "."
        if not os.path.isdir(directory):
            yield ListenError(f"{option}: there is no directory {directory} for the socket {path}")
    except OSError as error:
        yield ListenError(f"{option}: cannot look at {path}: {error.strerror}")
    else:
        if not stat.S_ISSOCK(mode):
            problem = f"{path} exists and is not a socket; choose another path"
            yield ListenError(f"{option}: {problem}")
