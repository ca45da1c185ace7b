"""Becoming somebody else: the right order, nothing left behind, and no way back."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_poller.errors import ConfigError
from asgi_poller.privileges import Identity, drop, library_problem, own_socket_file, resolve
from tests.support.command import run_python

if sys.platform == "win32":
    pytest.skip("there are no such accounts on Windows", allow_module_level=True)

import grp
import pwd

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
ME = pwd.getpwuid(os.getuid())
NOBODY = pwd.getpwnam("nobody")
UNUSED_ID = 3_999_999_999


def test_neither_option_changes_nothing() -> None:
    assert resolve(None, None) is None
    drop(None)


def test_names_and_numbers() -> None:
    by_name = resolve("nobody", None)
    assert by_name == Identity(NOBODY.pw_uid, NOBODY.pw_gid, "nobody")
    assert resolve(str(NOBODY.pw_uid), None) == by_name
    group = grp.getgrgid(ME.pw_gid)
    assert resolve(None, group.gr_name) == Identity(None, group.gr_gid, None)
    assert resolve("nobody", str(group.gr_gid)) == Identity(NOBODY.pw_uid, group.gr_gid, "nobody")
    assert resolve(str(UNUSED_ID), "0") == Identity(UNUSED_ID, 0, None)
    assert resolve(None, str(UNUSED_ID)) == Identity(None, UNUSED_ID, None)


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "^--user: there is no user 'no-such-user'$"),
        ("nobody", "no-such-group", "^--group: there is no group 'no-such-group'$"),
        ("", None, "^--user: there is no user ''$"),
        (str(UNUSED_ID), None, "^--user: .* give --group too$"),
        ("4294967295", "0", "^--user: 4294967295 is no number"),
        (None, "99999999999", "^--group: 99999999999 is no number"),
        ("-1", None, "^--user: there is no user '-1'$"),
        ("٣", "0", "^--user: "),
    ],
)
def test_a_wrong_name_is_one_clear_line(user: str | None, group: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(user, group)
    assert "\n" not in str(caught.value)


def test_being_it_already_takes_no_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 100)
    monkeypatch.setattr(os, "getegid", lambda: 100)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 27])
    monkeypatch.setattr(os, "getgroups", lambda: [27, 100])
    drop(Identity(1000, 100, "somebody"))
    monkeypatch.setattr(os, "getgroups", lambda: [100])
    drop(Identity(None, 100, None))


def test_being_it_already_with_groups_of_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSystem(monkeypatch)
    system.uid, system.gid = 1000, 100

    def denied(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "initgroups", denied)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 27])
    monkeypatch.setattr(os, "getgroups", lambda: [0, 6, 27, 100])
    with pytest.raises(ConfigError) as caught:
        drop(Identity(1000, 100, "somebody"))
    assert str(caught.value) == (
        "--user: uid 1000 is in supplementary groups that only root can give up: 0, 6;"
        " start as root, or leave the option out"
    )


class FakeSystem:
    """Records what is called; root is kept by those who `keep` it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, keeps_root: bool = False) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.uid = self.gid = 0
        self._keeps_root = keeps_root
        for name in ("initgroups", "setgroups", "setgid", "setuid", "seteuid"):
            monkeypatch.setattr(os, name, getattr(self, name))
        monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid])
        for name in ("getuid", "geteuid"):
            monkeypatch.setattr(os, name, lambda: self.uid)
        for name in ("getgid", "getegid"):
            monkeypatch.setattr(os, name, lambda: self.gid)

    def initgroups(self, name: str, gid: int) -> None:
        self.calls.append(("initgroups", name, gid))

    def setgroups(self, groups: list[int]) -> None:
        self.calls.append(("setgroups", groups))

    def setgid(self, gid: int) -> None:
        self.calls.append(("setgid", gid))
        self.gid = gid

    def setuid(self, uid: int) -> None:
        self.calls.append(("setuid", uid))
        if self.uid != 0 and not self._keeps_root:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.uid = uid

    def seteuid(self, uid: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")


def test_groups_go_first_and_the_user_last(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSystem(monkeypatch)
    drop(Identity(1000, 100, "somebody"))
    assert system.calls == [
        ("initgroups", "somebody", 100),
        ("setgid", 100),
        ("setuid", 1000),
        ("setuid", 0),  # the attempt to come back
    ]


def test_a_user_without_an_account_keeps_none_of_roots_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = FakeSystem(monkeypatch)
    drop(Identity(1000, 100, None))
    assert system.calls[0] == ("setgroups", [100])


def test_a_group_alone_leaves_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSystem(monkeypatch)
    drop(Identity(None, 100, None))
    assert system.calls == [("setgroups", [100]), ("setgid", 100)]


def test_root_that_can_be_regained_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSystem(monkeypatch, keeps_root=True)
    with pytest.raises(ConfigError, match=r"^--user: root can be regained"):
        drop(Identity(1000, 100, "somebody"))


@pytest.mark.parametrize(
    ("call", "message"), [("setuid", "^--user: the user is still"), ("setgid", "^--group: the")]
)
def test_a_change_that_does_not_hold_is_fatal(
    monkeypatch: pytest.MonkeyPatch, call: str, message: str
) -> None:
    FakeSystem(monkeypatch)
    monkeypatch.setattr(os, call, lambda number: None)
    with pytest.raises(ConfigError, match=message):
        drop(Identity(1000, 100, "somebody"))


def test_an_unreadable_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library_problem() is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    problem = library_problem()
    assert problem is not None
    assert problem.startswith("--user: ")
    assert "\n" not in problem


def run_as(code: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", "from asgi_poller.privileges import *\nimport os, socket\n" + code)


@needs_root
def test_for_real_root_is_gone_and_the_bound_port_stays() -> None:
    done = run_as(
        """
bound = socket.create_server(("127.0.0.1", 0))
drop(resolve("nobody", None))
print(os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups()))
print(open("/proc/self/status").read() if os.path.exists("/proc/self/status") else "")
client = socket.socket()
client.connect(bound.getsockname())
bound.accept()
for attempt in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: open("/etc/shadow")):
    try:
        attempt()
    except PermissionError:
        print("refused")
drop(resolve("nobody", None))
"""
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    numbers = [NOBODY.pw_uid] * 2 + [NOBODY.pw_gid] * 2
    groups = sorted(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert first == " ".join(map(str, numbers)) + f" {groups}"
    assert rest.count("refused") == 3
    for line in rest:
        if line.startswith(("CapPrm", "CapEff")):
            assert int(line.split()[1], 16) == 0


@needs_root
def test_for_real_every_thread_is_dropped() -> None:
    done = run_as(
        """
import threading
ready, go = threading.Event(), threading.Event()
seen = []
def work():
    ready.set()
    go.wait(30)
    seen.append(os.geteuid())
thread = threading.Thread(target=work)
thread.start()
ready.wait(30)
drop(resolve("nobody", None))
go.set()
thread.join(30)
print(seen)
"""
    )
    assert done.stdout == f"[{NOBODY.pw_uid}]\n", done.stderr


@needs_root
def test_for_real_without_root_it_is_one_clear_line() -> None:
    done = run_as(
        """
drop(resolve("nobody", None))
try:
    drop(resolve("0", None))
except ConfigError as error:
    print(error)
"""
    )
    assert done.stdout.startswith(f"--user: cannot become uid 0 as uid {NOBODY.pw_uid}: ")
    assert "start as root" in done.stdout


def bind_unix(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    return bound


def test_owner_of_a_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path):
        own_socket_file(str(path), -1, os.getgid())
        assert path.stat().st_gid == os.getgid()
        if IS_ROOT:
            own_socket_file(str(path), NOBODY.pw_uid, NOBODY.pw_gid)
            assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_text("secret")
    link = tmp_path / "s"
    link.symlink_to(target)
    owner = target.stat().st_uid, target.stat().st_gid
    for path in (target, link):
        with pytest.raises(OSError, match=r"it is no socket$"):
            own_socket_file(str(path), NOBODY.pw_uid, NOBODY.pw_gid)
    assert (target.stat().st_uid, target.stat().st_gid) == owner
    with pytest.raises(FileNotFoundError):
        own_socket_file(str(tmp_path / "missing"), -1, -1)
