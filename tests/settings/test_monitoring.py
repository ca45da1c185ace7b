"""--metrics, --metrics-token and --drain-delay: what they accept and refuse, alone and beside other
options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (9100, "127.0.0.1:9100"),
        ("9100", "127.0.0.1:9100"),
        (" 0 ", "127.0.0.1:0"),
        ("0.0.0.0:9100", "0.0.0.0:9100"),
        ("[::1]:9100", "[::1]:9100"),
        (":9100", ":9100"),
        ("localhost:9100", "localhost:9100"),
        (None, None),
        ("none", "none"),
    ],
)
def test_where_it_may_be(given: Any, address: str | None, tmp_path: Path) -> None:
    if given == "none":  # as text, of a file that has an environment over it
        file = tmp_path / "app.toml"
        file.write_text('metrics = "9100"\n')
        environ = {"ASGI_POLLER_METRICS": "none"}
        assert Config.from_sources("main:app", file=str(file), environ=environ).metrics is None
        return
    assert Config("main:app", metrics=given).metrics == address


@pytest.mark.parametrize(
    "given",
    ["", "x", "65536", "1.2.3.4", "::1:9100", "unix:/run/m", "fd://3", "h:x", True, 1.5, -1],
)
def test_where_it_may_not_be(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^--metrics: must be PORT, HOST:PORT or \[IPV6\]:PORT"):
        Config("main:app", metrics=given)


@pytest.mark.parametrize(
    "options",
    [
        {"port": 9100, "metrics": 9100},
        {"host": "0.0.0.0", "port": 9100, "metrics": "0.0.0.0:9100"},
        {"bind": ["127.0.0.1:9100"], "metrics": 9100},
    ],
)
def test_the_server_s_own_address_is_no_other_one(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is where the server listens: give another port"):
        Config("main:app", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"port": 0, "metrics": 0},
        {"port": 9100, "metrics": 9101},
        {"port": 9100, "uds": "/run/app.sock", "metrics": 9100},
        {"bind": ["127.0.0.1:0"], "metrics": 0},
    ],
)
def test_another_address_is_one(options: dict[str, Any]) -> None:
    assert Config("main:app", **options).metrics


@pytest.mark.parametrize("token", ["", "two words", "ä", "a;b", "a\r\nb", 5])
def test_a_token_fits_a_header_and_is_not_shown(token: Any) -> None:
    with pytest.raises(ConfigError, match=r"^--metrics-token: must") as refused:
        Config("main:app", metrics=1, metrics_token=token)
    assert not token or str(token) not in str(refused.value)


def test_a_token_is_a_secret() -> None:
    environ = {"ASGI_POLLER_METRICS_TOKEN": "s3cret", "ASGI_POLLER_METRICS": "1"}
    config = Config.from_sources("main:app", environ=environ)
    assert config.metrics_token == "s3cret"
    assert "s3cret" not in repr(config)


def test_what_does_nothing_is_said() -> None:
    assert Config("main:app", metrics_token="x").notices == (
        "--metrics-token does nothing without --metrics",
    )
    assert Config("main:app", drain_delay="5s", reload=True).notices == (
        "--drain-delay does nothing with --reload",
    )
    assert Config("main:app", drain_delay="5s").notices == ()
