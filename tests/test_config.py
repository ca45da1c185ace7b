"""Config: what it accepts, what it refuses and how, and the order of its sources."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.settings import sources
from asgi_poller.settings.option import ENVIRONMENT_PREFIX
from asgi_poller.settings.table import BY_SPELLING, OPTIONS, SETTINGS
from tests.support.command import run_python

pytestmark = pytest.mark.usefixtures("plain_environment")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Never called here."""


def test_defaults_are_those_of_the_table() -> None:
    config = Config("main:app")
    for option in SETTINGS.values():
        assert getattr(config, option.name) == option.default, option.name
    assert config.app == "main:app"
    assert config.notices == ()


def test_every_field_is_an_option_of_the_table() -> None:
    names = {field.name for field in dataclasses.fields(Config)}
    assert names == {*SETTINGS, "app", "notices"}


def test_no_two_options_share_a_spelling() -> None:
    spellings = [spelling for option in OPTIONS.values() for spelling in option.spellings]
    assert len(spellings) == len(set(spellings)) == len(BY_SPELLING)


def test_it_is_frozen_and_has_no_room_for_more() -> None:
    config = Config("main:app")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1  # type: ignore[misc]  # the refusal is what is tested
    assert not hasattr(config, "__dict__")


def test_values_take_their_normal_form() -> None:
    config = Config(
        "main:app",
        ws_max_size="1MiB",
        timeout_keep_alive="500ms",
        ws_ping_interval=0,
        ws_per_message_deflate=False,
        headers=[("X-A", "1"), (b"x-a", b"2")],
        forwarded_allow_ips=["10.0.0.0/8", "::1"],
        reload=True,
        reload_dirs="src",
        uds_mode="660",
        env_file=None,
        pid_file=Path("run") / "pid",
        log_level="WARN",
        user=1000,
        ssl_cert_reqs=0,
    )
    assert config.ws_max_size == 1024**2
    assert config.timeout_keep_alive == 0.5
    assert config.ws_ping_interval is None
    assert config.ws_per_message_deflate == "off"
    assert config.headers == ((b"x-a", b"1"), (b"x-a", b"2"))
    assert config.forwarded_allow_ips == "10.0.0.0/8,::1"
    assert config.reload_dirs == ("src",)
    assert config.uds_mode == 0o660
    assert config.pid_file == str(Path("run") / "pid")
    assert config.log_level == 30
    assert config.user == "1000"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(True, "on"), (False, "off"), ("true", "on"), ("0", "off"), ("takeover", "takeover")],
)
def test_deflate_modes(mode: object, expected: str) -> None:
    assert Config("main:app", ws_per_message_deflate=mode).ws_per_message_deflate == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prot": 1}, "prot: there is no such option; did you mean 'port'?"),
        ({"ws_maxsize": 1}, "ws_maxsize: there is no such option; did you mean 'ws_max_size'?"),
        ({"qqqqqqqq": 1}, "qqqqqqqq: there is no such option"),
        ({"port": "80a"}, "--port: must be a whole number, not '80a'"),
        ({"port": 70000}, "--port: must be a whole number from 0 to 65535, not 70000"),
        ({"loop": "trio"}, "--loop: must be one of auto, uvloop, asyncio, not 'trio'"),
        ({"host": None, "port": object}, "--port: must be a whole number, not <class 'object'>"),
        ({"headers": [("a b", "c")]}, "--header: has no valid header name: 'a b'"),
        ({"headers": [("a", "b\r\nc: d")]}, "--header: has control characters in a header's value"),
        ({"headers": [("a", "\u20ac")]}, "--header: must be Latin-1 text"),
        ({"headers": [("a", 1)]}, "--header: must be 'Name: value' or (name, value), not 1"),
        ({"headers": [("a",)]}, "--header: must be 'Name: value' or (name, value), not ('a',)"),
        ({"headers": 1}, "--header: must be a list of (name, value), not 1"),
        ({"uds_mode": 0o1777}, "--uds-mode: must be a mode such as 0o660 or '660'"),
        ({"uds_mode": "rw"}, "--uds-mode: must be octal digits such as 660"),
        ({"bind": ["8000"]}, "--bind: must be HOST:PORT"),
        (
            {"timeout_request_header": 0},
            "--timeout-request-header: must be seconds, at least 0.001",
        ),
        ({"ssl_alpn": ["x" * 256]}, "--ssl-alpn: must be protocol names"),
        ({"user": True}, "--user: must be text"),
        ({"user": ""}, "--user: must be a name or a number"),
        ({"log_level": "loud"}, "--log-level: must be one of critical"),
        ({"log_config": 3}, "--log-config: must be a path or a dictionary"),
        ({"reload_dir": "a", "reload_dirs": "b"}, "reload_dirs: says the same as reload_dir"),
    ],
)
def test_refusals_name_the_option_and_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as fault:
        Config("main:app", **options)
    assert str(fault.value).startswith(message)
    assert "\n" not in str(fault.value)
    assert fault.value.exit_code == 2


@pytest.mark.parametrize(
    ("app", "message"),
    [("", "is empty"), ("  ", "is empty"), (3, "or an application, not 3"), (None, "not None")],
)
def test_what_is_no_application(app: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(app)


def test_an_application_object_needs_one_process() -> None:
    assert Config(application).app is application
    with pytest.raises(ConfigError, match="--workers: needs the application as text"):
        Config(application, workers=2)
    with pytest.raises(ConfigError, match="--reload: needs the application as text"):
        Config(application, reload=True)
    assert Config(application, workers=2, preload=True).workers == 2, "a fork inherits the object"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ssl_keyfile": "k"}, "--ssl-keyfile: needs a certificate"),
        ({"bind_tls": ["a:1"]}, "--bind-tls: needs a certificate"),
        ({"ssl_certfile": "c", "ssl_cert_reqs": 2}, "--ssl-cert-reqs: needs --ssl-ca-certs"),
        ({"reload": True, "preload": True}, "--preload: cannot be combined with --reload"),
    ],
)
def test_contradictions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config("main:app", **options)


@pytest.mark.parametrize(
    ("options", "notice"),
    [
        ({"reload": True, "workers": 2}, "--workers is ignored with --reload"),
        ({"reload_include": "*.html"}, "--reload-include does nothing without --reload"),
        ({"uds": "/s", "port": 1}, "--port is not used, as --uds says where to listen: add --bind"),
        ({"fd": 0, "host": "a"}, "--host is not used, as --fd says where to listen: add --bind"),
        ({"preload": True}, "--preload does nothing without --workers 2 or more"),
        ({"drain_spread": 5}, "--drain-spread does nothing without --workers or --drain-delay"),
        ({"ssl_ciphers": "x"}, "--ssl-ciphers does nothing without --ssl-certfile"),
    ],
)
def test_settings_without_effect_are_told(options: dict[str, Any], notice: str) -> None:
    assert Config("main:app", **options).notices == (notice,)


def test_reload_has_one_worker() -> None:
    assert Config("main:app", reload=True, workers=4).workers == 1


def test_auto_workers_are_as_many_as_the_cores_that_may_be_used() -> None:
    expected = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert Config("main:app", workers="auto").workers == expected
    assert Config("main:app", loops="auto").loops == "auto"


def test_a_copy_with_changes_stays_checked() -> None:
    config = Config("main:app", headers=[("A", "b")], uds="/s", port=1, bind=["a:1"])
    copy = dataclasses.replace(config, port=2)
    assert copy.port == 2
    assert dataclasses.replace(copy, port=1) == config
    assert len(copy.notices) == 1, "told once, however often it is copied"
    with pytest.raises(ConfigError):
        dataclasses.replace(config, port=-1)


def test_it_can_be_sent_to_a_worker() -> None:
    config = Config("main:app", port=1, headers=[("A", "b")], log_config={"version": 1})
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_pickled_config_ignores_the_worker_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(Config("main:app"))
    monkeypatch.setenv("WEB_CONCURRENCY", "7")
    assert pickle.loads(pickled).workers == 1


def test_the_password_is_not_shown() -> None:
    config = Config("main:app", ssl_certfile="c", ssl_keyfile_password="hunter2")
    assert config.ssl_keyfile_password == "hunter2"
    assert "hunter2" not in repr(config)


def test_uvicorn_s_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert (Config("main:app").workers, Config("main:app").forwarded_allow_ips) == (3, "*")
    given = Config("main:app", workers=1, forwarded_allow_ips="10.0.0.1")
    assert (given.workers, given.forwarded_allow_ips) == (1, "10.0.0.1")
    assert Config("main:app", workers=None).workers == 3, "None is uvicorn's way not to say"
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    assert Config("main:app").workers >= 1
    monkeypatch.setenv("WEB_CONCURRENCY", "")
    assert Config("main:app").workers == 1
    monkeypatch.setenv("WEB_CONCURRENCY", "x")
    with pytest.raises(ConfigError, match=r"--workers: .* not 'x' \(from WEB_CONCURRENCY\)"):
        Config("main:app")


def test_uvicorn_s_variables_may_be_in_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.write_text("WEB_CONCURRENCY=5\nFORWARDED_ALLOW_IPS=10.0.0.1\nASGI_POLLER_PORT=1\n")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.2")
    config = Config("main:app", env_file=path)
    assert config.workers == 5
    assert config.forwarded_allow_ips == "10.0.0.2", "a variable that is set goes first"
    assert config.port == 8000
    assert "WEB_CONCURRENCY" not in os.environ, "the application's variables are loaded with it"


def test_sources_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('app = "toml:app"\nport = 1\npollers = 1\nbacklog = 1\nloops = 3\n')
    environ = {
        "ASGI_POLLER_CONFIG": str(path),
        "ASGI_POLLER_PORT": "2",
        "ASGI_POLLER_POLLERS": "2",
    }
    config = Config.from_sources(environ=environ, port=3, loops=None)
    assert config.app == "toml:app"
    assert (config.port, config.pollers, config.backlog, config.loops) == (3, 2, 1, 3)
    environ["ASGI_POLLER_APP"] = "env:app"
    assert Config.from_sources(environ=environ).app == "env:app"
    assert Config.from_sources("given:app", environ=environ).app == "given:app"


def test_none_in_a_call_takes_off_what_the_environment_sets() -> None:
    environ = {"ASGI_POLLER_WS_PING_INTERVAL": "5", "ASGI_POLLER_PORT": "1"}
    config = Config.from_sources("main:app", environ=environ, ws_ping_interval=None, port=None)
    assert config.ws_ping_interval is None, "None is a value here: no pings"
    assert config.port == 1, "None is no port"


def test_load_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASGI_POLLER_PORT", "1234")
    monkeypatch.setenv("ASGI_POLLER_PROT", "1")
    config = Config.from_sources("main:app")
    assert config.port == 1234
    assert len(config.notices) == 1
    assert Config("main:app").port == 8000, "the constructor does not"


def test_a_password_in_the_environment_is_read_and_left_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = f"{ENVIRONMENT_PREFIX}SSL_KEYFILE_PASSWORD"
    monkeypatch.setattr(sources, "taken_secrets", {})
    monkeypatch.setenv(variable, "secret")
    for _ in range(2):  # a second server in the same program has it too
        assert Config.from_sources("main:app").ssl_keyfile_password == "secret"
        assert variable not in os.environ
    code = f"import os; print({variable!r} in os.environ)"
    shown = run_python("-c", code)
    assert shown.stdout == "False\n"  # what an application starts


def test_load_without_an_application() -> None:
    with pytest.raises(ConfigError, match="APP: is missing: give the application"):
        Config.from_sources(environ={})


def test_it_acts_on_nothing() -> None:
    """In a fresh process: no application, asyncio, socket or handler comes with a Config."""
    code = (
        "import sys, logging, asgi_poller.config as c;"
        "c.Config('no_such_module:app', uds='/nowhere/s', log_config='/nowhere.ini');"
        "print([m for m in ('asyncio', 'socket', 'ssl', 'click', 'uvloop') if m in sys.modules],"
        " logging.getLogger().handlers, logging.getLogger('asgi_poller').handlers)"
    )
    shown = run_python("-c", code)
    assert shown.stdout.strip() == "[] [] []"


def test_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    Config("main:app", workers=2)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("words", ["nginx", "10.0.0.1, proxy.example", "locahost"])
def test_words_that_match_no_proxy_are_told(words: str) -> None:
    (notice,) = Config("main:app", forwarded_allow_ips=words).notices
    assert notice.startswith("--forwarded-allow-ips: ")
    assert repr(words.split(", ")[-1]) in notice
    assert "10.0.0.1" not in notice


def test_words_that_match_a_proxy_are_not_told() -> None:
    for words in ("*", "unix", "", "10.0.0.0/8, ::1,127.0.0.1", "unix,*"):
        assert Config("main:app", forwarded_allow_ips=words).notices == ()
    assert Config("main:app", forwarded_allow_ips="nginx", proxy_headers=False).notices == ()
