"""What holds for every test."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import settings

from tests.support.waiting import run

# An example's time is the machine's matter: a loaded one would fail what is right.
settings.register_profile("asgi_poller", deadline=None)
settings.load_profile("asgi_poller")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine runs on an event loop of its own, with a deadline."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
