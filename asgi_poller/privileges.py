"""Users and groups: `--user` and `--group`, and the owners of unix sockets.

Ports below 1024 take root, the application does not. `resolve` belongs before binding, so that a
misspelt name is found while nothing has happened yet; `become` after binding and after everything
else that takes privilege, before any application code. There is no way back, and `drop` makes sure
of that: it tries one.

The C library changes all threads of the process (nptl(7)), so it does not matter which one calls.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError

_log = logging.getLogger("asgi_poller.error")

USER, GROUP = "--user", "--group"
_HIGHEST_ID = 0xFFFFFFFE  # the one above means "leave it" to chown(2) and setresuid(2)
_LEAVE = -1  # for chown(2): this part of the owner stays


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom to become. `uid` None: the user stays. `name` is the account whose groups are taken
    over, None where the user stays or has no entry in the password database.
    """

    uid: int | None
    gid: int
    name: str | None


def resolve(user: str | None, group: str | None) -> Identity | None:
    """The identity that `--user` and `--group` mean, names or numbers; None if neither is given.

    Raises ConfigError for a name that does not exist, and where there are no such accounts.
    """
    gid = None if group is None else _group_id(GROUP, group)
    if user is None:
        return None if gid is None else Identity(None, gid, None)
    uid, own_gid, name = _account(USER, user)
    gid = own_gid if gid is None else gid
    if gid is None:
        problem = f"uid {user} has no entry in the password database: give --group too"
        raise ConfigError(USER, problem)
    return Identity(uid, gid, name)


def owner_ids(option: str, owner: str) -> tuple[int, int]:
    """USER, USER:GROUP or :GROUP, as names or numbers, for `own_socket_file`. Raises ConfigError
    that names `option`.
    """
    user, _, group = owner.partition(":")
    uid = _account(option, user)[0] if user else _LEAVE
    return uid, _group_id(option, group) if group else _LEAVE


def _account(option: str, user: str) -> tuple[int, int | None, str | None]:
    """(uid, gid, name) of a user; the last two are None for a number without an account."""
    try:
        import pwd
    except ImportError:
        raise ConfigError(option, "this system has no users and groups of that kind") from None
    try:
        entry = pwd.getpwuid(_number(option, user)) if _is_number(user) else pwd.getpwnam(user)
    except KeyError as error:
        if _is_number(user):
            return int(user), None, None
        raise ConfigError(option, f"there is no user {user!r}") from error
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _group_id(option: str, group: str) -> int:
    try:
        import grp
    except ImportError:
        raise ConfigError(option, "this system has no users and groups of that kind") from None
    if _is_number(group):
        return _number(option, group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(option, f"there is no group {group!r}") from error


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _number(option: str, text: str) -> int:
    number = int(text)
    if number > _HIGHEST_ID:
        raise ConfigError(option, f"{text} is no number of a user or group")
    return number


def become(
    config: Config,
    identity: Identity | None,
    *,
    socket_paths: Iterable[str] = (),
    reads_keys_again: bool = False,
) -> None:
    """Everything that --user and --group take, once the addresses are bound: the unix sockets at
    `socket_paths`, which we have made, change their owner, and this process becomes `identity`.

    `reads_keys_again`: later workers, started as that user, must be able to read certificate and
    key. Raises ConfigError.
    """
    if identity is None:
        return
    if config.uds_owner is None:
        for path in socket_paths:
            _own(path, identity)
    if config.poller_nice < 0:
        # poller threads start later, and take their nice value then
        platform.permit_nice(config.poller_nice)
    drop(identity)
    problem = library_problem()
    if problem is not None:
        _log.warning("%s", problem)
    if reads_keys_again:
        _check_keys(config)


def _own(path: str, identity: Identity) -> None:
    try:
        own_socket_file(path, _LEAVE if identity.uid is None else identity.uid, identity.gid)
    except OSError as error:
        problem = f"cannot set the owner of {path!r}: {error.strerror}"
        raise ConfigError("--uds", problem) from error


def _check_keys(config: Config) -> None:
    for option, path in (
        ("--ssl-keyfile", config.ssl_keyfile),
        ("--ssl-certfile", config.ssl_certfile),
        ("--ssl-ca-certs", config.ssl_ca_certs),
    ):
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigError(
                option, f"uid {os.geteuid()} must be able to read {path}, for later workers"
            )


def drop(identity: Identity | None) -> None:
    """Become `identity`, with its groups and no others, for good. None: nothing happens, and
    nothing is needed where the process is just that already.

    Raises ConfigError if that is not permitted, or if root can be regained afterwards; the process
    must not go on then.
    """
    if identity is None:
        return
    extra = _extra_groups(identity)
    if _is_already(identity) and not extra:
        return
    option = GROUP if identity.uid is None else USER
    try:
        # The order matters: without root neither groups nor gid can be changed any more.
        if identity.name is None:
            os.setgroups([identity.gid])
        else:
            os.initgroups(identity.name, identity.gid)
        os.setgid(identity.gid)
        if identity.uid is not None:
            os.setuid(identity.uid)
    except OSError as error:
        who = f"uid {identity.uid}" if identity.uid is not None else f"gid {identity.gid}"
        problem = f"cannot become {who} as uid {os.geteuid()}: {error.strerror}"
        if extra and _is_already(identity):
            groups = ", ".join(map(str, sorted(extra)))
            problem = f"{who} is in supplementary groups that only root can give up: {groups}"
        if os.geteuid() != 0:
            problem += "; start as root, or leave the option out"
        raise ConfigError(option, problem) from error
    _verify(identity)


def _extra_groups(identity: Identity) -> set[int]:
    """Supplementary groups of this process that `identity` does not have."""
    own = {identity.gid}
    if identity.name is not None:
        own.update(os.getgrouplist(identity.name, identity.gid))
    return set(os.getgroups()) - own


def _is_already(identity: Identity) -> bool:
    uid = os.geteuid() if identity.uid is None else identity.uid
    return (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) == (
        uid,
        uid,
        identity.gid,
        identity.gid,
    ) and (uid != 0 or identity.uid is None)


def _verify(identity: Identity) -> None:
    if os.getegid() != identity.gid or os.getgid() != identity.gid:
        raise ConfigError(GROUP, f"the group is still {os.getegid()}, not {identity.gid}")
    if identity.uid is None or identity.uid == 0:
        return
    if os.geteuid() != identity.uid or os.getuid() != identity.uid:
        raise ConfigError(USER, f"the user is still {os.geteuid()}, not {identity.uid}")
    for regain in (os.setuid, os.seteuid):
        try:
            regain(0)
        except OSError:
            continue  # refused, as it must be
        raise ConfigError(USER, "root can be regained: a capability (CAP_SETUID) was left behind")


def library_problem() -> str | None:
    """What is wrong if Python's own library cannot be read any more; for a warning after `drop`.

    An interpreter under a home directory is the usual case. What is loaded works on, and
    the first import of something else fails in the middle of a request.
    """
    library = os.path.dirname(os.__file__)
    if os.access(os.__file__, os.R_OK):
        return None
    return (
        f"{USER}: uid {os.geteuid()} may not read Python's library in {library}: imports will fail"
    )


def own_socket_file(path: str, uid: int, gid: int) -> None:
    """Give a unix socket's file an owner; -1 leaves a part alone. Raises OSError.

    The directory may be writable for others: what has been put in its place and is no socket, links
    among it, is left alone. The file that was looked at is the one that is changed (O_PATH).
    """
    if sys.platform != "linux":
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.ENOTSOCK, "it is no socket")
        os.chown(path, uid, gid, follow_symlinks=False)
        return
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, "it is no socket")
        os.chown(f"/proc/self/fd/{fd}", uid, gid)
    finally:
        os.close(fd)
