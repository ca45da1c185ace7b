"""`asgi-poller check`, as a process: what it finds, what it says, and that it leaves no trace."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.support.command import run_python, running
from tests.support.tls import write_pair

APPLICATION = """
import pathlib
pathlib.Path("imported").touch()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        pathlib.Path("lifespan").touch()
"""
#: Typed options and the line that they get, by the exit code that serving has for them.
FAULTS = {
    2: [
        (("--prot", "1"), "--prot"),
        (("--port", "x"), "--port: must be a whole number"),
        (("--ssl-keyfile", "key.pem"), "--ssl-keyfile: needs a certificate"),
        (("--ssl-certfile", "missing.pem"), "--ssl-certfile: cannot read 'missing.pem'"),
        (("--user", "nobody-of-that-name"), "--user: there is no user 'nobody-of-that-name'"),
        (("--log-config", "missing.json"), "--log-config: there is no file missing.json"),
        (("--log-config", "broken.json"), "--log-config: cannot be used"),
        (("--reload", "--reload-dir", "missing"), "--reload-dir: there is no directory 'missing'"),
        (("--allow-hosts", "a b"), "--allow-hosts: "),
        (("--forwarded-allow-ips", "10.0.0.300"), "--forwarded-allow-ips: '10.0.0.300'"),
        (("--env-file", "missing.env"), "--env-file: there is no file missing.env"),
        (("--pid", "missing/pid"), "--pid: there is no directory missing"),
        (
            ("--static-path-mount", "/static:missing"),
            "--static-path-mount: there is no directory missing: /static:missing",
        ),
        (
            ("--static-path-mount", "/static:web.py"),
            "--static-path-mount: web.py is no directory: /static:web.py",
        ),
        (("--config", "missing.toml"), "--config: missing.toml cannot be read"),
    ],
    1: [
        (("--fd", "987"), "--fd: descriptor 987: Bad file descriptor"),
        (("--fd", "0"), "--fd: descriptor 0 is not a socket"),
        (("--uds", "missing/socket"), "--uds: there is no directory missing"),
        (("--bind", "unix:web.py"), "--bind: web.py exists and is not a socket"),
        (("--host", "there.is.no.such.host.invalid"), "--host: cannot find the host"),
        (("--metrics", "there.is.no.such.host.invalid:1"), "--metrics: cannot find the host"),
        (("--uds", "s", "--uds-owner", "nobody-of-that-name"), "--uds-owner: there is no user"),
    ],
    3: [
        (("--factory",), "'web:app' is no factory"),
        (("--app-dir", "missing"), "--app-dir: there is no directory 'missing'"),
    ],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With an application, web:app, that leaves traces."""
    (tmp_path / "web.py").write_text(APPLICATION)
    (tmp_path / "broken.json").write_text('{"version": 2}')
    return tmp_path


def check(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python(
        "-m", "asgi_poller", "check", *arguments, cwd=directory, stdin=subprocess.DEVNULL
    )


def test_an_application_that_can_be_served(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # the server that it stands beside
        port = taken.getsockname()[1]
        done = check(directory, "web:app", "--port", str(port), "--workers", "2", "--uds", "s")
    assert (done.returncode, done.stdout) == (0, "web:app can be served: 1 warning\n")
    assert done.stderr == (
        "asgi-poller: warning: --port is not used, as --uds says where to listen: add --bind\n"
    )
    assert (directory / "imported").exists()
    assert not (directory / "lifespan").exists()
    assert not (directory / "s").exists()


@pytest.mark.parametrize(
    ("code", "typed", "line"), [(code, *fault) for code, some in FAULTS.items() for fault in some]
)
def test_a_fault_is_one_line_with_serving_s_exit_code(
    directory: Path, code: int, typed: tuple[str, ...], line: str
) -> None:
    found = check(directory, "web:app", *typed)
    assert found.returncode == code, found.stderr
    assert found.stderr.count("error: ") == 1
    assert line in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "typed",
    [
        ("--ssl-certfile", "missing.pem"),
        ("--fd", "987"),
        ("--factory",),
        ("--log-config", "missing.json"),
        ("--user", "nobody-of-that-name"),
    ],
)
def test_the_exit_code_is_the_one_of_serving(directory: Path, typed: tuple[str, ...]) -> None:
    serving = run_python("-m", "asgi_poller", "web:app", "--port", "0", *typed, cwd=directory)
    assert check(directory, "web:app", *typed).returncode == serving.returncode


def test_all_faults_are_found_at_once(directory: Path) -> None:
    done = check(directory, "wbe:app", "--ssl-certfile", "missing.pem", "--uds", "missing/socket")
    assert done.returncode == 1, "the first decides"
    lines = done.stderr.splitlines()
    assert [line.split(": ")[2] for line in lines[:2]] == ["--uds", "--ssl-certfile"]
    assert "there is no module 'wbe'; did you mean 'web'?" in lines[2]
    assert done.stdout == "wbe:app cannot be served: 3 errors, 0 warnings\n"


def test_where_a_module_fails_is_shown(directory: Path) -> None:
    (directory / "web.py").write_text("import os\nraise KeyError('DATABASE')\n")
    done = check(directory, "web:app")
    assert done.returncode == 3
    assert 'web.py", line 2' in done.stderr
    assert "'web' cannot be imported: KeyError: 'DATABASE'" in done.stderr.splitlines()[-1]


def test_a_certificate_and_its_key(directory: Path) -> None:
    authority = trustme.CA()
    ours, other = (
        write_pair(directory, name, authority.issue_cert("localhost")) for name in ("a", "b")
    )
    good = ("--ssl-certfile", ours.certificate, "--ssl-keyfile", ours.key)
    assert check(directory, "web:app", *good).returncode == 0
    done = check(directory, "web:app", *good[:3], other.key)
    assert done.returncode == 2
    assert "does not belong to the certificate" in done.stderr


def test_a_thread_of_the_application_does_not_hold_the_end_up(directory: Path) -> None:
    thread = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    (directory / "web.py").write_text(thread + APPLICATION)
    done = check(directory, "web:app")
    assert (done.returncode, done.stdout) == (0, "web:app can be served: 0 warnings\n")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such users here")
def test_what_only_root_can_do_is_a_warning(directory: Path) -> None:
    done = check(directory, "web:app", "--user", "nobody")
    assert done.returncode == 0
    assert ("take root" in done.stderr) == (os.geteuid() != 0)


def test_a_file_of_the_server_that_runs_is_checked_beside_it(tmp_path: Path) -> None:
    """The same file, the same address: check does not need it."""
    file = tmp_path / "server.toml"
    with running(workers=2) as command:
        host, port = command.address
        file.write_text(f'app = "tests.supervisor.app:app"\nhost = "{host}"\nport = {port}\n')
        done = run_python("-m", "asgi_poller", "check", "--config", str(file))
        assert done.returncode == 0, done.stderr
        assert len(command.workers) == 2
