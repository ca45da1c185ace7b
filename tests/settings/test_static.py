"""Options of static files: what is refused in one line, what is kept, and that every form of the
server serves them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from tests.support.client import get
from tests.support.command import run_python
from tests.support.forms import FORMS, GUNICORN, WORKERS, served
from tests.support.processes import ROOT
from tests.support.static_site import write

APP = "tests.attacks.echo:app"


def config(*mounts: str, **options: Any) -> Config:
    return Config("main:app", static_path_mount=mounts, **options)


@pytest.mark.parametrize(
    ("mounts", "says"),
    [
        (["static:d"], "the prefix must begin with /, as in /static:d"),
        (["d"], "must be PREFIX:DIR such as /static:web/static, not 'd'"),
        (["/static"], "must be PREFIX:DIR such as /static:web/static, not '/static'"),
        (["/static:"], "the directory is missing: give /static:DIR"),
        (["/:d"], "/ would leave nothing to the application"),
        (["/a//b:d"], "the prefix must be a plain path such as /static, not '/a//b'"),
        (["/a/../b:d"], "the prefix must be a plain path"),
        (["/a%20b:d"], "the prefix must be a plain path"),
        (["/a?b:d"], "the prefix must be a plain path"),
        (["/a b:d"], "the prefix must be ASCII without spaces"),
        (["/größe:d"], "the prefix must be ASCII"),
        (["/s:d\n"], "must not contain control characters"),
        (["/s:a", "/s:b"], "the prefix /s is given twice: give each one directory"),
        (["/s:a", "/s/:b"], "the prefix /s is given twice"),
    ],
)
def test_a_wrong_mount_is_one_line(mounts: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config(*mounts)
    assert str(raised.value).startswith("--static-path-mount: ")
    assert says in str(raised.value)


def test_mounts_are_kept_in_one_form() -> None:
    assert config("/s/:d", "/s/t:a:b").static_path_mount == ("/s:d", "/s/t:a:b")
    assert config().static_path_mount == ()
    environ = {"ASGI_POLLER_STATIC_PATH_MOUNT": "/a:x, /b:y"}
    assert Config.from_sources("main:app", environ=environ).static_path_mount == ("/a:x", "/b:y")


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a\\b"])
def test_a_directory_s_file_is_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="--static-path-dir-to-file: must be a file's name"):
        config("/s:d", static_path_dir_to_file=name)


def test_options_that_do_nothing_are_noticed() -> None:
    assert config(static_path_expires="1h").notices == (
        "--static-path-expires does nothing without --static-path-mount",
    )
    assert config("/s:d", static_path_expires="1h").notices == ()


@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_a_server_whose_directory_is_missing_does_not_start(more: list[str]) -> None:
    command = [
        "-m",
        "asgi_poller",
        APP,
        "--port",
        "0",
        "--static-path-mount",
        "/s:missing/d",
        *more,
    ]
    done = run_python(*command)
    assert done.returncode == 2
    assert "--static-path-mount: there is no directory missing/d: /s:missing/d" in done.stderr
    assert "Traceback" not in done.stderr


def test_nor_does_one_of_gunicorn() -> None:
    worker = ("-k", "asgi_poller.gunicorn.PollerWorker", "-b", "127.0.0.1:0")
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ASGI_POLLER_STATIC_PATH_MOUNT": "/s:missing/d",
    }
    done = run_python("-m", "gunicorn", *worker, APP, env=environ)
    assert done.returncode == 2
    assert "--static-path-mount: there is no directory missing/d: /s:missing/d" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[] if form in (WORKERS, GUNICORN) else [pytest.mark.long])
        for form in FORMS
    ],
)
def test_every_form_of_the_server_serves_them(form: str, tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"a file")
    with (
        served(form, APP, static_path_mount=f"/static:{tmp_path}") as site,
        site.connect() as client,
    ):
        for path, body in (("/static/a.txt", b"a file"), ("/static/../b", b"Not Found")):
            client.sendall(get(path))
            assert client.response().body == body
        client.sendall(get("/"))
        assert client.response().status == 200
