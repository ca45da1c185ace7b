"""When the system refuses something about the socket file: one line each, nothing left behind."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from asgi_poller import platform
from asgi_poller.errors import ListenError, OperatorFault
from asgi_poller.listeners.unix_socket import Access, bind_unix

pytestmark = pytest.mark.skipif(not platform.HAS_UNIX_SOCKETS, reason="no unix sockets")

OPEN = Access(0o666, None)


def denied(*args: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied")


def refuse(path: Path, access: Access = OPEN) -> str:
    """The one line that asking for `path` gives."""
    with pytest.raises(OperatorFault) as caught:
        bind_unix(str(path), option="--uds", access=access)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o666, 0o640, 0o600])
def test_the_file_is_made_with_its_permissions(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is changed by name afterwards: it could be a link to something else by then."""
    path = tmp_path / "s"
    for name in ("chmod", "chown", "lchown"):
        monkeypatch.setattr(os, name, denied)
    before = os.umask(0o027)
    try:
        bound, made = bind_unix(str(path), option="--uds", access=Access(mode, None))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    bound.close()
    made.unlink()
    made.unlink()
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_a_link_in_the_place_of_the_socket_keeps_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put there between bind() and whatever comes after it."""
    victim = tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    path = tmp_path / "s"
    look = os.lstat

    def swap(target: str) -> os.stat_result:
        found = look(target)
        if stat.S_ISSOCK(found.st_mode):
            path.unlink()
            path.symlink_to(victim)
        return found

    monkeypatch.setattr(os, "lstat", swap)
    assert "it is no socket" in refuse(path, Access(0o666, "65534:65534"))
    monkeypatch.undo()
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert victim.stat().st_uid == 0


def test_an_owner_that_may_not_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    monkeypatch.setattr(os, "chown", denied)
    line = refuse(path, Access(0o666, "0:0"))
    assert line == f"--uds-owner: cannot set it on {path}: Permission denied"
    assert not path.exists()


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refuse(tmp_path / "file" / "s").startswith("--uds: cannot look at ")


def test_a_socket_that_may_not_be_asked_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    monkeypatch.setattr(socket.socket, "connect", denied)
    assert refuse(path).startswith(f"--uds: cannot tell whether {path} is in use: ")
    assert path.exists()


def test_a_stale_file_that_may_not_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    monkeypatch.setattr(os, "unlink", denied)
    assert refuse(path) == f"--uds: cannot make the socket {path}: Address already in use"


def test_a_system_without_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pwd", None)
    line = refuse(tmp_path / "s", Access(0o666, "root"))
    assert line == "--uds-owner: this system has no users and groups of that kind"


def test_a_system_without_unix_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "HAS_UNIX_SOCKETS", False)
    assert refuse(tmp_path / "s").startswith("--uds: this system ")


def test_the_fault_is_a_listen_error(tmp_path: Path) -> None:
    with pytest.raises(ListenError):
        bind_unix(str(tmp_path / "no" / "s"), option="--uds", access=OPEN)
