"""What holds for every test."""

from __future__ import annotations

import compileall
import inspect
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

import asgi_poller
from asgi_poller.settings.option import ENVIRONMENT_PREFIX
from asgi_poller.system.build import build_kind
from tests.support.processes import ROOT
from tests.support.waiting import run

# An example's time is the machine's matter: a loaded one would fail what is right.
settings.register_profile("asgi_poller", deadline=None)
settings.load_profile("asgi_poller")

# pytest keeps its byte code of the tests: compiling them takes longer than some of them do
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--build", choices=("pure", "compiled"), help="fail unless this build is what is tested"
    )
    parser.addoption(
        "--pictures", metavar="DIR", help="write the documentation's pictures of the dashboard"
    )


def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("--build")
    if wanted not in (None, build_kind()):
        raise pytest.UsageError(
            f"--build {wanted}: the {build_kind()} build is what `import asgi_poller` finds, in "
            f"{asgi_poller.__file__}"
        )
    if not hasattr(config, "workerinput"):  # else it is pytest-xdist's worker
        compile_once()


def compile_once() -> None:
    """Hundreds of programs are started, and where PYTHONDONTWRITEBYTECODE is set each would compile
    all modules again.
    """
    for folder in ("asgi_poller", "tests", "examples"):
        compileall.compile_dir(ROOT / folder, quiet=2)


def pytest_report_header() -> str:
    return f"asgi_poller: {build_kind()}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine runs on an event loop of its own, with a deadline."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for 2,000 connections, for this process and those it starts."""
    resource = pytest.importorskip("resource", reason="not for Windows")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2500
    if before[1] != resource.RLIM_INFINITY and before[1] < wanted:
        pytest.skip(f"the hard limit of descriptors is {before[1]}, {wanted} are needed")
    if before[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """`--loop` asyncio and uvloop."""
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop")
    return name


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this process sets an option."""
    for name in list(os.environ):
        if name.startswith((ENVIRONMENT_PREFIX, "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")):
            monkeypatch.delenv(name)
