"""Loading applications from real modules, and what is said of those that fail."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError, StartupError
from asgi_poller.importer import load_application
from tests.support.command import run_python

GOOD = """
    async def app(scope, receive, send): ...

    class Holder:
        class inner:
            app = app

    class ByCall:
        async def __call__(self, scope, receive, send): ...

    class ByAwait:
        def __init__(self, scope, receive, send): ...
        def __await__(self): yield

    by_call = ByCall()
    number = 3

    def create(): return app
    def create_with_defaults(debug=False): return by_call
    async def create_async(): return app
    def create_nothing(): return None
    def create_badly(): raise RuntimeError("no\\nbase")
    def create_exit(): raise SystemExit(7)

    def asgi2(scope): ...
    class Asgi2:
        def __init__(self, scope): ...
    def wsgi(environ, start_response): ...
    def four(a, b, c, d): ...
    def anything(*arguments): ...
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of modules to load from; sys.path and sys.modules are put back."""
    sources = {
        "good_app.py": "\n".join(line[4:] for line in GOOD.splitlines()),
        "needs_missing.py": "import there_is_no_such_package\n",
        "broken_syntax.py": "def (\n",
        "raises.py": "def deep():\n    raise ValueError('two\\nlines')\ndeep()\napp = None\n",
        "exits.py": "import sys\nsys.exit(4)\n",
        "a_package/__init__.py": "",
        "a_package/web.py": "async def app(scope, receive, send): ...\n",
        "reads_environment.py": "import os\nvalue = os.environ['ASGI_POLLER_TEST_APP']\n"
        "async def app(scope, receive, send): ...\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def load(app: Any, **options: Any) -> Any:
    """The application for these settings."""
    return load_application(Config(app, **options))


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("path", ["good_app:app", "good_app:Holder.inner.app", "a_package.web:app"])
def test_applications_by_name(path: str) -> None:
    assert load(path).__name__ == "app"


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("name", ["by_call", "ByAwait", "anything"])
def test_everything_that_takes_scope_receive_send_is_an_application(name: str) -> None:
    load(f"good_app:{name}")


def test_an_object_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    assert load(app) is app
    partial = functools.partial(app, send=None)
    assert load(lambda scope, receive, send: partial(scope, receive)) is not None
    assert sys.path == before, "nothing is imported, so nothing is looked for"


def test_the_directory_goes_first(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = modules / "elsewhere"
    other.mkdir()
    (other / "only_here.py").write_text("async def app(scope, receive, send): ...\n")
    load("only_here:app", app_dir="elsewhere")
    load("only_here:app", app_dir="elsewhere")
    assert sys.path[0] == str(other)
    assert sys.path[1] != str(other), "put there once"
    load("good_app:app")
    assert sys.path[0] == str(modules)
    with pytest.raises(StartupError, match="--app-dir: there is no directory 'nowhere'"):
        load("good_app:app", app_dir="nowhere")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("name", ["create", "create_with_defaults", "ByCall"])
def test_factories(name: str, caplog: pytest.LogCaptureFixture) -> None:
    load(f"good_app:{name}", factory=True)
    assert caplog.records == []


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("name", ["create", "create_with_defaults", "ByCall"])
def test_a_factory_without_the_flag_is_used_with_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load(f"good_app:{name}")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "--factory" in caplog.text


@pytest.mark.usefixtures("modules")
def test_a_factory_is_called_for_every_loop() -> None:
    first, second = (load("good_app:ByCall", factory=True) for _ in range(2))
    assert first is not second
    assert type(first) is type(second), "but its module is imported once"


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("path", "factory", "message"),
    [
        ("good_app", False, "'good_app' must be MODULE:ATTRIBUTE, such as 'good_app:app'"),
        ("good_app:", False, "'good_app:' must be MODULE:ATTRIBUTE, such as 'main:app'"),
        (":app", False, "must be MODULE:ATTRIBUTE"),
        (".good_app:app", False, "must be MODULE:ATTRIBUTE"),
        ("good_app:a..b", False, "must be MODULE:ATTRIBUTE"),
        ("good_app.py:app", False, "is a file, give the module: 'good_app:app'"),
        ("good_app.py", False, "'good_app.py' is a file, give the module: 'good_app:app'"),
        ("./good_app.py", False, "is a file, give the module: 'good_app:app'"),
        ("a_package/web", False, "is a file, give the module: 'a_package.web:app'"),
        ("a_package/web.py:app", False, "is a file, give the module: 'a_package.web:app'"),
        ("/srv/x/good.py", False, "is a file, give the module: --app-dir /srv/x 'good:app'"),
        ("../good.py:api", False, "is a file, give the module: --app-dir .. 'good:api'"),
        ("god_app:app", False, "there is no module 'god_app'; did you mean 'good_app'?"),
        ("a_packag:app", False, "there is no module 'a_packag'; did you mean 'a_package'?"),
        ("qqqqqqqq.x:app", False, "there is no module 'qqqqqqqq' (looked in "),
        ("a_package.wob:app", False, "there is no module 'a_package.wob'"),
        ("good_app.x:app", False, "there is no module 'good_app.x'"),
        ("good_app:ap", False, "'good_app' has no attribute 'ap'; did you mean 'app'?"),
        ("good_app:Holder.inner.zz", False, "'good_app' has no attribute 'Holder.inner.zz'"),
        ("good_app:number", False, "'good_app:number' is no ASGI application: int cannot be"),
        ("good_app:number", True, "'good_app:number' is no factory: int cannot be called"),
        ("good_app:app", True, "is no factory, it needs arguments: leave --factory out"),
        ("good_app:wsgi", True, "is no factory, it needs arguments: a factory takes none"),
        ("good_app:create_async", True, "must be a plain function, not async"),
        ("good_app:create_nothing", True, "is no ASGI application: NoneType cannot be called"),
        ("good_app:asgi2", False, "is an ASGI 2 application: wrap it in asgiref"),
        ("good_app:Asgi2", False, "is an ASGI 2 application: wrap it in asgiref"),
        ("good_app:wsgi", False, "is a WSGI application: wrap it in a2wsgi.WSGIMiddleware"),
        ("good_app:four", False, "does not take (scope, receive, send)"),
    ],
)
def test_mistakes_are_one_line_and_no_traceback(
    path: str, factory: bool, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError) as fault:
        load(path, factory=factory)
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)
    assert fault.value.exit_code == 3
    assert caplog.records == []


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("path", "message", "logged"),
    [
        ("needs_missing:app", "ModuleNotFoundError: No module named 'there_is", "needs_missing.py"),
        ("broken_syntax:app", "'broken_syntax' cannot be imported: SyntaxError", "def ("),
        ("raises:app", "'raises' cannot be imported: ValueError: two lines", "in deep"),
        ("exits:app", "'exits' cannot be imported: SystemExit: 4", "sys.exit(4)"),
        ("good_app:create_badly", "failed: RuntimeError: no base", "in create_badly"),
        ("good_app:create_exit", "failed: SystemExit: 7", "in create_exit"),
    ],
)
def test_code_of_the_user_s_that_fails_is_shown_from_its_first_frame(
    path: str, message: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError) as fault:
        load(path, factory=path.startswith("good_app"))
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)
    assert logged in caplog.text
    assert "importlib" not in caplog.text, "the import system's frames help no one"
    assert f"asgi_poller{os.sep}importer.py" not in caplog.text


def test_ctrl_c_while_importing_is_no_fault_of_the_application(modules: Path) -> None:
    (modules / "interrupted.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load("interrupted:app")


def test_the_env_file_is_there_before_the_application(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASGI_POLLER_TEST_APP", "")  # so that it is put back afterwards
    monkeypatch.delenv("ASGI_POLLER_TEST_APP")
    (modules / "my.env").write_text("ASGI_POLLER_TEST_APP=from file\n")
    load("reads_environment:app", env_file="my.env")
    assert sys.modules["reads_environment"].value == "from file"
    monkeypatch.setenv("ASGI_POLLER_TEST_APP", "set before")
    load("reads_environment:app", env_file="my.env")
    assert os.environ["ASGI_POLLER_TEST_APP"] == "set before"


def test_a_missing_env_file(modules: Path) -> None:
    config = Config("good_app:app", env_file="gone.env", workers=1, forwarded_allow_ips="*")
    with pytest.raises(ConfigError, match=r"--env-file: there is no file gone\.env"):
        load_application(config)


def test_frameworks() -> None:
    """Real applications are no factories, and no ASGI 2 by mistake."""
    fastapi = pytest.importorskip("fastapi")
    starlette = pytest.importorskip("starlette.applications")
    for app in (fastapi.FastAPI(), starlette.Starlette()):
        assert load(app) is app


def test_a_clean_process_finds_modules_in_its_directory(modules: Path) -> None:
    code = (
        "from asgi_poller.config import Config\n"
        "from asgi_poller.importer import load_application\n"
        "print(load_application(Config('a_package.web:app')).__name__)\n"
    )
    shown = run_python("-P", "-c", code, cwd=modules)
    assert shown.stdout == "app\n"
