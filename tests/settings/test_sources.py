"""The environment, the TOML file and the --env-file, with real files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from asgi_poller.errors import ConfigError
from asgi_poller.settings import sources
from asgi_poller.settings.table import OPTIONS

# A text that each option accepts in the environment, where its default as text is not one.
SAMPLES = {"bind": "[::1]:1", "bind_tls": "unix:/x", "headers": "A: b", "uds_owner": "root:root"}
SAMPLES |= {"allow_hosts": "a.example", "ws_allow_origins": "https://a.example"}
SAMPLES |= {"static_path_mount": "/static:web"}


def test_every_option_can_be_set_in_the_environment() -> None:
    for option in OPTIONS.values():
        text = SAMPLES.get(option.name) or (
            "none" if option.default is None else option.shown_default
        )
        values, notices = sources.from_environment({option.variable: text})
        assert list(values) == [option.name], option.name
        assert notices == []


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("ASGI_POLLER_PORT", "80", "port", 80),
        ("ASGI_POLLER_WS_MAX_SIZE", "1MiB", "ws_max_size", 1024**2),
        ("ASGI_POLLER_WS_PING_INTERVAL", "none", "ws_ping_interval", None),
        ("ASGI_POLLER_ACCESS_LOG", "off", "access_log", False),
        ("ASGI_POLLER_BIND", "a:1, unix:/b", "bind", ("a:1", "unix:/b")),
        ("ASGI_POLLER_HEADER", "A: 1, 2\nB: 3", "headers", ((b"a", b"1, 2"), (b"b", b"3"))),
        ("ASGI_POLLER_HEADERS", "A: 1", "headers", ((b"a", b"1"),)),
        ("ASGI_POLLER_RELOAD_DIR", "x,y", "reload_dirs", ("x", "y")),
        ("ASGI_POLLER_RELOAD_DIRS", "x", "reload_dirs", ("x",)),
        ("ASGI_POLLER_PID", "/run/p", "pid_file", "/run/p"),
        ("ASGI_POLLER_UDS_MODE", "660", "uds_mode", 0o660),
        ("ASGI_POLLER_WS", "websockets", "ws", "websockets"),
    ],
)
def test_values_from_the_environment(variable: str, text: str, name: str, expected: object) -> None:
    assert sources.from_environment({variable: text}) == ({name: expected}, [])


def test_a_bad_variable_is_named_in_the_error() -> None:
    with pytest.raises(ConfigError) as fault:
        sources.from_environment({"ASGI_POLLER_PORT": "eighty"})
    assert fault.value.option == "--port"
    assert "'eighty' (from ASGI_POLLER_PORT)" in fault.value.problem


def test_an_unknown_variable_is_told_with_the_nearest_name() -> None:
    values, notices = sources.from_environment({"ASGI_POLLER_PROT": "1", "OTHER": "x"})
    assert values == {}
    assert notices == [
        "ASGI_POLLER_PROT is set, but is no option; did you mean 'ASGI_POLLER_PORT'?"
    ]


def test_variables_of_kubernetes_are_passed_over() -> None:
    environ = {
        "ASGI_POLLER_PORT": "tcp://10.0.0.1:80",
        "ASGI_POLLER_SERVICE_HOST": "10.0.0.1",
        "ASGI_POLLER_SERVICE_PORT": "80",
        "ASGI_POLLER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "ASGI_POLLER_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert sources.from_environment(environ) == ({}, [])


def test_one_line_tells_of_uvicorn_s_variables() -> None:
    environ = {
        "UVICORN_PORT": "9000",
        "UVICORN_WS_MAX_SIZE": "1",
        "UVICORN_APP": "a:b",
        "UVICORN_NONE_SUCH": "x",
        "UVICORN_SERVICE_PORT": "80",  # of Kubernetes
        "UVICORN_PORT_80_TCP": "tcp://10.0.0.1:80",
    }
    assert sources.from_environment(environ) == (
        {},
        [
            "uvicorn's variables are not read: UVICORN_PORT (set ASGI_POLLER_PORT),"
            " UVICORN_WS_MAX_SIZE (set ASGI_POLLER_WS_MAX_SIZE),"
            " UVICORN_APP (set ASGI_POLLER_APP), UVICORN_NONE_SUCH (we have none like it)"
        ],
    )


def write(directory: Path, text: str) -> str:
    path = directory / "server.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_toml_file_with_both_spellings(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        app = "main:app"
        port = 9000
        ws-max-size = "2MiB"
        ws_ping_interval = 0
        reload-dir = ["a", "b"]
        pid = "/run/p"
        access-log = false
        uds_mode = 0o660
        workers = "auto"
        [headers]
        X-Served-By = "me"
        [log_config]
        version = 1
        """,
    )
    app, values = sources.from_toml(path)
    assert app == "main:app"
    assert values == {
        "port": 9000,
        "ws_max_size": 2 * 1024**2,
        "ws_ping_interval": None,
        "reload_dirs": ("a", "b"),
        "pid_file": "/run/p",
        "access_log": False,
        "uds_mode": 0o660,
        "workers": "auto",
        "headers": ((b"x-served-by", b"me"),),
        "log_config": {"version": 1},
    }


@pytest.mark.parametrize(
    ("text", "option", "problem"),
    [
        ("prot = 1", "prot", "there is no such option (in {path}); did you mean 'port'?"),
        ("port = '1a'", "--port", "must be a whole number, not '1a' (in {path})"),
        ("ws_max_size = true", "--ws-max-size", "such as 64k, 16MiB or 1g, not True (in {path})"),
        ("app = 3", "app", "must be text such as 'module:app' (in {path})"),
        ("pid='a'\npid_file='b'", "pid_file", "says the same as pid: give one (in {path})"),
        ("ws-max-size = 1\nws_max_size = 2", "ws_max_size", "is given twice, with - and with _"),
        ("port = ", "--config", "{path} is not valid TOML: "),
        ("ssl_context_factory = 'x'", "ssl_context_factory", "there is no such option (in {path})"),
    ],
)
def test_faults_in_a_toml_file(tmp_path: Path, text: str, option: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as fault:
        sources.from_toml(path)
    assert fault.value.option == option
    assert problem.format(path=path) in fault.value.problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        sources.from_toml(str(tmp_path / "missing.toml"))
    (tmp_path / "binary.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        sources.from_toml(str(tmp_path / "binary.toml"))


def test_an_env_file_is_read_without_being_applied(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("ASGI_POLLER_TEST_ONLY=1\nEMPTY=\nBARE\n", encoding="utf-8")
    assert sources.env_file_values(str(path)) == {"ASGI_POLLER_TEST_ONLY": "1", "EMPTY": ""}
    assert "ASGI_POLLER_TEST_ONLY" not in os.environ


def test_an_env_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--env-file: there is no file"):
        sources.env_file_values(str(tmp_path / "none.env"))


def test_an_env_file_without_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dotenv", None)
    with pytest.raises(ConfigError, match="needs python-dotenv: pip install"):
        sources.env_file_values(str(tmp_path / ".env"))


def test_a_binary_env_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"A=\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        sources.env_file_values(str(path))
