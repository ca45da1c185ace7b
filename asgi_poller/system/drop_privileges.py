"""--user and --group in a process that binds and serves: what takes root comes first."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.listeners.listeners import Listener
from asgi_poller.privileges import Identity, drop, library_problem, own_socket_file, resolve

_log = logging.getLogger("asgi_poller.error")


def prepare_user(config: Config) -> Identity | None:
    """Whom to become; before anything is bound, so that a misspelt name is found first. Raises
    ConfigError.
    """
    return resolve(config.user, config.group)


def own_socket_files(
    config: Config, identity: Identity | None, listeners: Sequence[Listener]
) -> None:
    """Give the unix sockets that we made to whom we become, unless --uds-owner says otherwise."""
    if identity is None or config.uds_owner is not None:
        return
    for listener in listeners:
        if listener.file is not None:
            uid = -1 if identity.uid is None else identity.uid
            try:
                own_socket_file(listener.file.path, uid, identity.gid)
            except OSError as error:
                problem = f"cannot set the owner of {listener.file.path!r}: {error.strerror}"
                raise ConfigError("--uds", problem) from error


def check_files(config: Config, identity: Identity | None) -> None:
    """Workers are started again and again: whom we have become must be able to read what they read.

    After `become`. Raises ConfigError.
    """
    if identity is None:
        return
    for option, path in (
        ("--ssl-keyfile", config.ssl_keyfile),
        ("--ssl-certfile", config.ssl_certfile),
        ("--ssl-ca-certs", config.ssl_ca_certs),
    ):
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigError(
                option, f"uid {os.geteuid()} must be able to read {path}, for later workers"
            )


def become(config: Config, identity: Identity | None) -> None:
    """Become somebody else for good: after binding, before application code. Raises ConfigError.

    Poller threads start later, and may still take their nice value then, where root may raise
    RLIMIT_NICE (CAP_SYS_RESOURCE).
    """
    if identity is None:
        return
    if config.poller_nice < 0:
        platform.permit_nice(config.poller_nice)
    drop(identity)
    problem = library_problem()
    if problem is not None:
        _log.warning("%s", problem)
