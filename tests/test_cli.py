"""The command line: by click's runner with a stand-in for the server, and as a real process."""

from __future__ import annotations

import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asgi_poller import cli
from asgi_poller.commands import SUBCOMMANDS
from asgi_poller.commands.table_command import WIDEST_HELP
from asgi_poller.config import Config
from asgi_poller.errors import ListenError, StartupError
from asgi_poller.protocols.http1 import parser
from asgi_poller.settings.table import GROUPS, OPTIONS, SETTINGS, UVICORN_GROUP
from tests.support.command import run_python

SERVER_MODULE = "asgi_poller.serve_main"
SUCCESS = 0

pytestmark = pytest.mark.usefixtures("plain_environment")


class Served:
    """Stands in for the server: keeps the settings that it was given and returns `exit_code`."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.exit_code = SUCCESS
        self.fault: Exception | None = None

    def serve(self, config: Config, *, owns_process: bool) -> int:
        """What the command calls."""
        assert owns_process
        self.configs.append(config)
        if self.fault is not None:
            raise self.fault
        return self.exit_code


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """The stand-in, in place of the server."""
    stand_in = Served()
    module = types.ModuleType(SERVER_MODULE)
    module.__dict__["serve"] = stand_in.serve
    monkeypatch.setitem(sys.modules, SERVER_MODULE, module)
    return stand_in


def run(*arguments: str, environ: dict[str, str] | None = None) -> Result:
    """The command's result, in this process."""
    return CliRunner().invoke(cli.command, arguments, env=environ)


def config_of(served: Served, *arguments: str, environ: dict[str, str] | None = None) -> Config:
    """The settings that a command line amounts to."""
    result = run(*arguments, environ=environ)
    assert result.exit_code == SUCCESS, result.stderr
    return served.configs[-1]


def process(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """A real `python -m asgi_poller`."""
    return run_python("-m", "asgi_poller", *arguments, cwd=directory)


def test_without_options_the_settings_are_the_defaults(served: Served) -> None:
    assert config_of(served, "main:app") == Config("main:app")


def test_a_value_for_every_option(served: Served) -> None:
    """Each option is typed with its own default: no notice, no other setting than the default."""
    texts = {
        "uds_owner": "root:root",
        "bind": "a:1",
        "bind_tls": "a:1",
        "headers": "A: b",
        "topics_history": "9,1s",
        "static_path_mount": "/static:web",
    }
    for option in OPTIONS.values():
        if option.kind.flag:
            typed = [option.switch if option.default else f"--no-{option.flag}"]
        elif option.default in (None, ()):
            text = texts.get(option.name)
            typed = [option.switch, text or "none"]
        else:
            typed = [option.switch, option.shown_default.replace("empty", "")]
        if option.name in ("bind_tls", "allow_hosts", "ws_allow_origins", "direct_handshake"):
            typed += ["--ssl-certfile", "cert.pem"]
        result = run("main:app", *typed)
        assert result.exit_code == SUCCESS, (typed, result.stderr)
    assert len(served.configs) == len(OPTIONS)


def test_options_of_every_kind(served: Served) -> None:
    config = config_of(
        served,
        "main:app",
        *("--port", "0"),
        *("--bind", "[::1]:0", "--bind", "unix:/run/a"),
        *("--ws-max-size", "1MiB"),
        *("--timeout-keep-alive", "250ms"),
        *("--ws-ping-interval", "none"),
        *("--ws-per-message-deflate", "false"),
        *("--header", "X-A: 1, 2", "--header", "x-a:3"),
        *("--allow-hosts", "a.example,b.example", "--allow-hosts", "c.example"),
        "--no-access-log",
        "--direct-handshake",
        *("--workers", "auto"),
        *("--loops", "auto"),
        *("--uds-permissions", "600"),
        *("--reload-dir", "a,b", "--reload-dirs", "c"),
        *("--log-level", "TRACE"),
        *("--pid", "/run/pid"),
        *("--limit-accept-rate", "0.5"),
    )
    assert config.port == 0
    assert config.bind == ("[::1]:0", "unix:/run/a")
    assert config.ws_max_size == 1024**2
    assert config.timeout_keep_alive == 0.25
    assert config.ws_ping_interval is None
    assert config.ws_per_message_deflate == "off"
    assert config.headers == ((b"x-a", b"1, 2"), (b"x-a", b"3"))
    assert config.allow_hosts == ("a.example", "b.example", "c.example")
    assert config.access_log is False
    assert config.direct_handshake is True
    assert config.workers >= 1
    assert config.loops == "auto"
    assert config.uds_mode == 0o600
    assert config.reload_dirs == ("a,b", "c"), "a directory's name may hold a comma"
    assert config.log_level == 5
    assert config.pid_file == "/run/pid"
    assert config.limit_accept_rate == 0.5


def test_command_line_before_environment_before_file(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('app = "file:app"\nport = 1\npollers = 1\nbacklog = 1\nworkers = 2\n')
    environ = {
        "ASGI_POLLER_PORT": "2",
        "ASGI_POLLER_POLLERS": "2",
        "ASGI_POLLER_ACCESS_LOG": "0",
        "WEB_CONCURRENCY": "9",
    }
    config = config_of(served, "--config", str(path), "--port", "3", environ=environ)
    assert config.app == "file:app"
    assert (config.port, config.pollers, config.backlog, config.workers) == (3, 2, 1, 2)
    assert config.access_log is False
    config = config_of(served, "--config", str(path), "--access-log", environ=environ)
    assert config.access_log is True, "a flag that is typed goes before the environment"
    environ["ASGI_POLLER_CONFIG"] = str(path)
    environ["ASGI_POLLER_APP"] = "environment:app"
    config = config_of(served, environ=environ)
    assert (config.app, config.backlog) == ("environment:app", 1)
    assert config_of(served, "typed:app", environ=environ).app == "typed:app"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "APP: is missing: give the application as MODULE:ATTRIBUTE"),
        (["main:app", "--port", "x"], "--port: must be a whole number, not 'x'"),
        (["main:app", "--port"], "Option '--port' requires an argument"),
        (["main:app", "--ws-max-sizes", "1"], "--ws-max-size"),
        (["main:app", "other:app"], "unexpected extra argument (other:app)"),
        (["main:app", "--ws", "rabbit"], "--ws: must be one of auto, wsproto, none"),
        (["main:app", "--http", "h11"], "--http: h11 is not used here: leave it out"),
        (["main:app", "--header", "no colon"], "--header: must be 'Name: value'"),
        (["main:app", "--config", "/no/such.toml"], "--config: /no/such.toml cannot be read"),
        (["main:app", "--bind", "nowhere"], "--bind: must be HOST:PORT"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    served: Served, arguments: list[str], message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("asgi-poller: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert served.configs == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [(StartupError("no\napp"), 3), (ListenError("port taken"), 1)],
)
def test_faults_of_the_server_are_one_line_too(served: Served, fault: Exception, code: int) -> None:
    served.fault = fault
    result = run("main:app")
    assert result.exit_code == code
    assert result.stderr == f"asgi-poller: error: {' '.join(str(fault).split())}\n"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_server_s_exit_code_is_the_command_s(served: Served, code: int) -> None:
    served.exit_code = code
    assert run("main:app").exit_code == code


def test_a_bug_is_not_dressed_up_as_a_mistake(served: Served) -> None:
    served.fault = ZeroDivisionError()
    assert isinstance(run("main:app").exception, ZeroDivisionError)


def test_help_has_every_option_under_its_heading() -> None:
    shown = run("--help")
    assert shown.exit_code == SUCCESS
    position = 0
    for title in [*(title for title, _ in GROUPS), UVICORN_GROUP]:
        position = shown.output.index(f"\n{title}:\n", position)
        for option in OPTIONS.values():
            if option.group == title:
                assert shown.output.index(f"  {option.switch} ", position) > position
    assert "[16MiB]" in shown.output, "defaults are shown as they are typed"
    assert "[none]" not in shown.output


def test_help_names_the_subcommands() -> None:
    shown = run("--help").output
    assert all(f"\n  {name} " in shown for name in SUBCOMMANDS)
    assert f"asgi-poller {'|'.join(SUBCOMMANDS)} [APP] [OPTIONS]" in shown


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommand_is_the_first_argument_exactly(served: Served, name: str) -> None:
    shown = run(name, "--help")
    assert shown.exit_code == SUCCESS
    assert shown.output.startswith(f"Usage: asgi-poller {name} ")
    config_of(served, f"{name}:app")
    config_of(served, "--port", "0", name)
    assert [config.app for config in served.configs] == [f"{name}:app", name]


def test_no_line_of_help_is_too_wide() -> None:
    assert max(map(len, run("--help").output.splitlines())) <= WIDEST_HELP


def test_help_and_version_load_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SERVER_MODULE, None)
    for flag in ("--help", "-h", "--version"):
        assert run(flag).exit_code == SUCCESS


def test_the_name_in_brackets_of_an_option_has_its_variable() -> None:
    assert SETTINGS["ws_max_size"].variable == "ASGI_POLLER_WS_MAX_SIZE"
    assert SETTINGS["pid_file"].variable == "ASGI_POLLER_PID"


def test_the_process_version(tmp_path: Path) -> None:
    done = process("--version", directory=tmp_path)
    assert done.returncode == SUCCESS
    assert done.stdout.startswith("asgi-poller ")
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in done.stdout
    is_compiled = not str(parser.__file__).endswith(".py")
    assert f"({'compiled' if is_compiled else 'pure'})" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["main:app", "--prot", "1"], ["main:app", "--port", "x"], []]
)
def test_the_process_fails_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    done = process(*arguments, directory=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("asgi-poller: error: ")
    assert done.stderr.count("\n") == 1


def test_an_application_that_cannot_be_loaded_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "web_app.py").write_text("import there_is_no_such_package\n")
    done = process("web_ap:app", "--port", "0", directory=tmp_path)
    assert done.returncode == 3
    assert "asgi-poller: error: there is no module 'web_ap'; did you mean 'web_app'?" in done.stderr
    assert "Traceback" not in done.stderr
    done = process("web_app:app", "--port", "0", directory=tmp_path)
    assert done.returncode == 3
    assert 'web_app.py", line 1' in done.stderr, "where the user's own module fails is shown"
    last = done.stderr.splitlines()[-1]
    assert last.startswith("asgi-poller: error: 'web_app' cannot be imported: ModuleNotFoundError")


def test_an_address_that_is_taken_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "web_app.py").write_text("async def app(scope, receive, send): ...\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = process("web_app:app", "--port", str(port), directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("asgi-poller: error: ")
    assert str(port) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_main_ends_the_process(served: Served) -> None:
    served.exit_code = 3
    with pytest.raises(SystemExit) as ended:
        cli.main(["main:app"])
    assert ended.value.code == 3


def test_arguments_of_the_process_are_used(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["asgi-poller", "main:app", "--port", "5"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == SUCCESS
    assert served.configs[0].port == 5
