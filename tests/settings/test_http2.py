"""Which versions of HTTP are spoken, and the bounds of HTTP/2's settings."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.settings import http2
from tests.support.server import serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Nothing is asked of it."""


@pytest.fixture
def without_h2(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "h2" else find(name)
    )


def test_without_the_library_auto_is_http1(without_h2: None) -> None:
    assert not http2.is_http2_spoken("auto")
    with serving(app, lifespan="off") as site:
        assert site.ask(PREFACE).startswith(b"HTTP/1.1 505 ")


def test_without_the_library_2_is_one_line(without_h2: None) -> None:
    with pytest.raises(ConfigError) as error:
        Config("main:app", http="2")
    assert str(error.value) == "--http: 2 needs h2: pip install 'asgi-poller[http2]'"


def test_without_the_library_http2_is_one_line(without_h2: None) -> None:
    with pytest.raises(ConfigError, match="--http2: needs h2: pip install"):
        Config("main:app", http2=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"http": "1", "http2": True}, "--http2: contradicts --http 1"),
        ({"http": "2", "http2": False}, "--no-http2: contradicts --http 2"),
        ({"http": "1", "ssl_alpn": ["h2"]}, "--ssl-alpn: h2 is not spoken"),
    ],
)
def test_contradictions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config("main:app", **options)


def test_uvicorns_option_chooses() -> None:
    assert Config("main:app", http2=True).http == "auto"
    assert Config("main:app", http2=True, http="2").http == "2"
    assert Config("main:app", http2=False, http="auto").http == "1"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("http2_initial_stream_window_size", 65534),
        ("http2_initial_stream_window_size", 2**31),
        ("http2_initial_connection_window_size", 2**31),
        ("http2_max_concurrent_streams", 0),
        ("http2_keep_alive_timeout", 0),
    ],
)
def test_bounds(name: str, wrong: int) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: "):
        Config("main:app", **{name: wrong})  # type: ignore[arg-type]


def test_a_bound_is_shown_with_all_its_digits() -> None:
    with pytest.raises(ConfigError, match="from 1 to 2147483647, not 2147483648"):
        Config("main:app", http2_max_concurrent_streams=2**31)
