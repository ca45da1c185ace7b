"""Which event loop is used."""

from __future__ import annotations

import asyncio
import sys

import pytest

from asgi_poller.errors import ConfigError
from asgi_poller.loops.loop_factory import loop_factory


def module_of(name: str) -> str:
    loop = loop_factory(name)()
    try:
        return type(loop).__module__.partition(".")[0]
    finally:
        loop.close()


def test_asyncio_is_asyncio() -> None:
    assert loop_factory("asyncio") is asyncio.new_event_loop


def test_uvloop_is_uvloop() -> None:
    pytest.importorskip("uvloop")
    assert module_of("uvloop") == "uvloop"
    assert module_of("auto") == "uvloop"


def test_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory("auto") is asyncio.new_event_loop
    with pytest.raises(ConfigError, match="pip install uvloop"):
        loop_factory("uvloop")
