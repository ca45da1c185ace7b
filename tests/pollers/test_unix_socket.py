"""The socket file when the system says no: one line each, and nothing is left behind."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from asgi_poller import platform
from asgi_poller.errors import ListenError, OperatorFault
from asgi_poller.pollers.unix_socket import Access, bind_unix

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


def test_nobody_can_connect_before_the_permissions_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    set_mode = os.chmod

    def check_first(target: str, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(target)
        set_mode(target, mode)

    monkeypatch.setattr(os, "chmod", check_first)
    bound, made = bind_unix(str(path), option="--uds", access=Access(0o640, None))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    bound.close()
    made.unlink()
    made.unlink()
    assert not path.exists()


def test_an_owner_that_may_not_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    monkeypatch.setattr(os, "chown", denied)
    line = refuse(path, Access(0o666, "0:0"))
    assert line == f"--uds-mode/--uds-owner: cannot set them on {path}: Permission denied"
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
    monkeypatch.setitem(sys.modules, "grp", None)
    line = refuse(tmp_path / "s", Access(0o666, "root"))
    assert line == "--uds-owner: this system has no owners of that kind"


def test_a_system_without_unix_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "HAS_UNIX_SOCKETS", False)
    assert refuse(tmp_path / "s").startswith("--uds: this system ")


def test_the_fault_is_a_listen_error(tmp_path: Path) -> None:
    with pytest.raises(ListenError):
        bind_unix(str(tmp_path / "no" / "s"), option="--uds", access=OPEN)
