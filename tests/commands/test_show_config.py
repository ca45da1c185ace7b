"""`asgi-poller config`: each value, where it comes from, and a TOML that means the same."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller import cli
from asgi_poller.config import Config
from asgi_poller.settings import sources
from asgi_poller.settings.option import Option
from asgi_poller.settings.sources import from_toml
from asgi_poller.settings.table import OPTIONS, SETTINGS
from asgi_poller.settings.written import as_toml, as_typed
from tests.support.command import run_python

pytestmark = pytest.mark.usefixtures("plain_environment", "no_password")

#: Typed values that are no defaults, for kinds of which the metavar says too little.
OTHERS = {
    "host": ["::1"],
    "port": ["1"],
    "uds_owner": ["root:root"],
    "bind": ["[::1]:0", "unix:/run/a, b"],
    "bind_tls": ["a:1"],
    "headers": ["A: b, c", 'x: "é'],
    "poller_nice": ["-3"],
    "log_level": ["trace"],
    "ssl_cert_reqs": ["1"],
    "worker_max_memory": ["1500m"],
    "h11_max_incomplete_event_size": ["4k"],
    "topics_history": ["10,5s", "a*=1,1m"],
    "static_path_mount": ["/static:web", "/media:files"],
}
BY_METAVAR = {
    "N": ["3"],
    "N|auto": ["3"],
    "[HOST:]PORT": ["1"],
    "NUMBER": ["2.5"],
    "SECONDS": ["1234567.125"],
    "SIZE": ["3MiB"],
    "MODE": ["600"],
    "PATH": ["a 'b' \"c\" \\d\x7f é"],
    "GLOB": ["*.a", "b"],
    "ADDRESSES": ["10.0.0.0/8,::1"],
    "HOST": ["a.example", "*.b.example"],
    "ORIGIN": ["https://a.example"],
    "NAME": ["http/1.1", "h2"],
}


@pytest.fixture
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """No password that another command of this process has taken out of the environment."""
    monkeypatch.setattr(sources, "taken_secrets", {})


def show(*arguments: str, environ: Mapping[str, str] | None = None) -> Result:
    """`asgi-poller config`, in this process."""
    return CliRunner().invoke(cli.command, ["config", *arguments], env=environ)


def in_json(*arguments: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    done = show(*arguments, "--format", "json", environ=environ)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def typed(option: Option) -> list[str]:
    """A command line that gives an option another value than its default."""
    if option.kind.flag:
        return [f"--no-{option.flag}" if option.default else option.switch]
    texts = OTHERS.get(option.name) or BY_METAVAR.get(option.kind.metavar)
    if texts is None:
        choices = [word for word in option.kind.choices if word != option.default]
        texts = [choices[-1] if choices else "x"]
    return [word for text in texts for word in (option.switch, text)]


#: Some options contradict others: each of these is what is left out.
LEFT_OUT = (
    ("reload", "log_config", "access_log_format"),
    ("preload", "log_format", "access_log_format"),
)


def a_value_for_every_option(*left_out: str) -> list[str]:
    return [
        word
        for option in SETTINGS.values()
        if option.name not in (*left_out, "env_file") and not option.kind.secret
        for word in typed(option)
    ]


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_the_table_of_typed_values_has_no_defaults(left_out: tuple[str, ...]) -> None:
    shown = in_json("web:app", *a_value_for_every_option(*left_out))
    for name, about in shown["options"].items():
        if name != "workers" or "reload" in left_out:  # with --reload there is one
            assert about["value"] != SETTINGS[name].default, name
        assert about["origin"].startswith("command line"), name


@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize("every", [(), ("--all",)])
def test_the_toml_means_the_same(
    tmp_path: Path, left_out: tuple[str, ...], every: tuple[str, ...]
) -> None:
    done = show("web:app", *a_value_for_every_option(*left_out), "--format", "toml", *every)
    assert done.exit_code == 0, done.stderr
    file = tmp_path / "shown.toml"
    file.write_text(done.stdout, encoding="utf-8")
    first = in_json("web:app", *a_value_for_every_option(*left_out), "--all")
    again = in_json("--config", str(file), "--all")
    assert again["app"] == {"value": "web:app", "origin": f"file {file}"}
    values = {name: about["value"] for name, about in first["options"].items()}
    assert {name: about["value"] for name, about in again["options"].items()} == values


def test_the_toml_of_the_defaults_means_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "shown.toml"
    file.write_text(show("web:app", "--all", "--format", "toml").stdout, encoding="utf-8")
    assert Config.from_sources(file=str(file)) == Config("web:app")


def test_none_in_a_file_is_none(tmp_path: Path) -> None:
    """What the command line can take off, a file can."""
    file = tmp_path / "shown.toml"
    options = ["--ws-ping-interval", "none", "--log-config", "none", "--timeout-write", "none"]
    file.write_text(show("web:app", *options, "--format", "toml").stdout, encoding="utf-8")
    config = Config.from_sources(file=str(file))
    assert (config.ws_ping_interval, config.log_config, config.timeout_write) == (None, None, None)


def test_a_logging_configuration_in_a_file_is_kept(tmp_path: Path) -> None:
    file, again = tmp_path / "a.toml", tmp_path / "b.toml"
    file.write_text('[log_config]\nversion = 1\n[log_config.loggers."a b"]\nhandlers = ["é"]\n')
    again.write_text(show("--config", str(file), "--format", "toml").stdout, encoding="utf-8")
    assert from_toml(str(again)) == from_toml(str(file))
    assert "--log-config (a table)" in show("--config", str(file)).stdout


def test_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('app = "file:app"\nport = 1\nhost = "a"\nuds-mode = 0o600\n')
    environ = {
        "ASGI_POLLER_PORT": "2",
        "ASGI_POLLER_UDS_PERMISSIONS": "640",
        "ASGI_POLLER_CONFIG": str(file),
        "WEB_CONCURRENCY": "3",
    }
    shown = in_json("--port", "3", "--h11-max-incomplete-event-size", "4k", environ=environ)
    assert shown["app"] == {"value": "file:app", "origin": f"file {file}"}
    assert shown["options"] == {
        "host": {"value": "a", "origin": f"file {file}"},
        "port": {"value": 3, "origin": "command line"},
        "uds_mode": {
            "value": "640",
            "origin": "environment variable ASGI_POLLER_UDS_PERMISSIONS",
        },
        "workers": {"value": 3, "origin": "environment variable WEB_CONCURRENCY"},
        "limit_request_head": {
            "value": 4096,
            "origin": "command line, as --h11-max-incomplete-event-size",
        },
    }
    app = in_json(environ={**environ, "ASGI_POLLER_APP": "env:app"})["app"]
    assert app == {"value": "env:app", "origin": "environment variable ASGI_POLLER_APP"}
    assert in_json("web:app", environ=environ)["app"]["origin"] == "command line"


def test_a_value_that_a_rule_has_changed_says_what_was_given() -> None:
    workers = in_json("web:app", "--reload", "--workers", "4")["options"]["workers"]
    assert workers == {"value": 1, "origin": "command line, given as 4"}


def test_the_table_has_the_options_as_they_are_typed() -> None:
    done = show("web:app", "--header", "A: b c", "--no-access-log", "--ws-max-size", "65536")
    assert done.stdout.splitlines() == [
        "web:app                command line",
        "",
        "HTTP",
        "  --header 'a: b c'    command line",
        "",
        "WebSockets",
        "  --ws-max-size 64KiB  command line",
        "",
        "Logging",
        "  --no-access-log      command line",
        "",
        f"{len(SETTINGS) - 3} other options have their defaults: --all shows them.",
    ]


def test_all_is_all() -> None:
    text = show("--all").stdout
    for option in SETTINGS.values():
        assert f"  {option.switch} " in text or f"  --no-{option.flag} " in text, option.name
    assert "--all shows them" not in text


@pytest.mark.parametrize("form", ["text", "toml", "json"])
@pytest.mark.parametrize("every", [(), ("--all",)])
def test_a_password_is_not_shown(form: str, every: tuple[str, ...]) -> None:
    environ = {"ASGI_POLLER_SSL_KEYFILE_PASSWORD": "hunter2"}
    done = show("web:app", "--format", form, *every, environ=environ)
    assert "hunter2" not in done.output
    assert "environment variable ASGI_POLLER_SSL_KEYFILE_PASSWORD" in done.stdout
    typed_one = show("web:app", "--format", form, "--ssl-keyfile-password", "hunter2")
    assert "hunter2" not in typed_one.output


def test_mistakes_and_warnings_are_those_of_serving() -> None:
    done = show("web:app", "--port", "x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("asgi-poller: error: --port: must be a whole number")
    done = show("web:app", "--reload-dir", "a")
    assert done.exit_code == 0
    assert done.stderr == "asgi-poller: warning: --reload-dir does nothing without --reload\n"


def test_it_imports_no_application_and_needs_none(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text("raise SystemExit('imported')\n")
    for app in (["web:app"], []):
        done = run_python("-m", "asgi_poller", "config", *app, "--port", "1", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "--port 1" in done.stdout


def test_a_byte_that_is_no_text(tmp_path: Path) -> None:
    typed_bytes = b"\xff".decode("utf-8", "surrogateescape")
    done = run_python("-m", "asgi_poller", "config", "--pid", typed_bytes, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("udcff")) == (0, 1)
    done = run_python(
        *("-m", "asgi_poller", "config", "--pid", typed_bytes, "--format", "toml"), cwd=tmp_path
    )
    assert done.returncode == 2
    assert "asgi-poller: error: --pid: has bytes that are no UTF-8" in done.stderr


PLAIN = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]))
VALUES = {
    "root_path": PLAIN,
    "reload_dirs": st.lists(PLAIN, unique=True).map(tuple),
    "timeout_keep_alive": st.floats(0, 1e300),
    "limit_accept_rate": st.floats(1e-300, 1e300),
    "ws_max_size": st.integers(1, 1 << 60),
    "uds_mode": st.integers(0, 0o777),
    "headers": st.lists(
        st.tuples(
            st.from_regex(r"[!#-'*+.^_`|~0-9a-z-]+", fullmatch=True).map(str.encode),
            st.text(
                st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
            ).map(lambda text: text.encode("latin-1").strip(b" \t")),
        )
    ).map(tuple),
}


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda n: st.tuples(st.just(n), VALUES[n])))
def test_what_is_written_is_read_as_the_same(case: tuple[str, Any]) -> None:
    name, value = case
    option = OPTIONS[name]
    written = tomllib.loads(f"{name} = {as_toml(option, value)}")
    assert option.kind.check(written[name]) == value
    texts = as_typed(option, value)
    back = option.kind.check(texts) if option.kind.repeatable else option.kind.parse(texts[0])
    assert back == value
