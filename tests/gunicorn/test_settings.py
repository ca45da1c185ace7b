"""Which wins where gunicorn's settings and our variables say different things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError

gunicorn_config = pytest.importorskip("gunicorn.config", reason="gunicorn is not for Windows")

from asgi_poller.gunicorn.settings import SHARED, notices, worker_config  # noqa: E402  # see above


def cfg(**given: Any) -> Any:
    """gunicorn's configuration with some settings given."""
    made = gunicorn_config.Config()
    for name, value in given.items():
        made.set(name, value)
    return made


def config(environ: dict[str, str] | None = None, **given: Any) -> Config:
    return worker_config(cfg(**given), "app:app", environ or {})


def test_all_shared_settings_are_gunicorns_and_options_of_ours() -> None:
    ours = config()
    for name, (option, _) in SHARED.items():
        assert name in cfg().settings
        assert hasattr(ours, option)


def test_gunicorns_defaults_hold() -> None:
    ours = config()
    assert ours.timeout_keep_alive == 2
    assert ours.timeout_graceful_shutdown == pytest.approx(27.0)
    assert ours.limit_request_line == 4094
    assert ours.limit_max_requests is None
    assert ours.notices == ()


def test_what_was_given_to_gunicorn_goes_first() -> None:
    ours = config({"ASGI_POLLER_TIMEOUT_KEEP_ALIVE": "9"}, keepalive=4)
    assert ours.timeout_keep_alive == 4


def test_our_variables_go_before_gunicorns_defaults() -> None:
    ours = config({"ASGI_POLLER_TIMEOUT_KEEP_ALIVE": "9", "ASGI_POLLER_POLLERS": "5"})
    assert (ours.timeout_keep_alive, ours.pollers) == (9, 5)


def test_a_toml_file_goes_before_gunicorns_defaults(tmp_path: Any) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('timeout_keep_alive = 9\nws_max_size = "1MiB"\nworkers = 7\nreload = true\n')
    ours = config({"ASGI_POLLER_CONFIG": str(file)})
    assert (ours.timeout_keep_alive, ours.ws_max_size) == (9, 1024 * 1024)
    assert (ours.workers, ours.reload) == (1, False)


@pytest.mark.parametrize(
    ("given", "spoken"), [("h1", "1"), ("h1,h2", "auto"), ("h2,h1", "auto"), ("h2", "2")]
)
def test_versions_of_http(given: str, spoken: str) -> None:
    ours = config(
        http_protocols=given, http2_max_concurrent_streams=7, http2_initial_window_size=70_000
    )
    assert ours.http == spoken
    assert ours.http2_max_concurrent_streams == 7
    assert ours.http2_initial_stream_window_size == 70_000
    assert config().http == "1"
    assert config({"ASGI_POLLER_HTTP": "auto"}).http == "auto"


def test_zero_means_unlimited_where_it_does_for_gunicorn() -> None:
    ours = config(
        websocket_max_message_size=0,
        limit_request_line=0,
        limit_request_field_size=0,
        limit_request_fields=0,
        max_requests=0,
    )
    assert min(ours.ws_max_size, ours.limit_request_line, ours.limit_request_field_size) >= 2**30
    assert ours.limit_request_fields == 32768
    assert ours.limit_max_requests is None


@pytest.mark.parametrize(("mode", "on"), [("off", False), ("auto", True), ("v2", True)])
def test_proxy_protocol(mode: str, on: bool) -> None:
    assert config(proxy_protocol=mode).proxy_protocol is on


def test_processes_and_addresses_are_gunicorns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "8")
    environ = {"ASGI_POLLER_WORKERS": "4", "ASGI_POLLER_PORT": "9", "ASGI_POLLER_LOOPS": "2"}
    ours = config(environ)
    assert (ours.workers, ours.port, ours.loops) == (1, 8000, 2)
    assert notices(cfg(), environ) == [
        "ASGI_POLLER_PORT is not used under gunicorn",
        "ASGI_POLLER_WORKERS is not used under gunicorn",
    ]


def test_a_reloading_worker_does_not_keep_anyone_waiting() -> None:
    assert config(reload=True).timeout_graceful_shutdown == 1.0


def test_misspelt_variables_are_noticed() -> None:
    (line,) = notices(cfg(), {"ASGI_POLLER_POLERS": "3"})
    assert "ASGI_POLLER_POLLERS" in line


def test_mistakes_name_the_option() -> None:
    with pytest.raises(ConfigError, match="--pollers"):
        notices(cfg(), {"ASGI_POLLER_POLLERS": "0"})


def test_the_monitor_is_not_for_workers_of_gunicorn(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text("metrics = 9100\ndrain_delay = 5\n")
    ours = config({"ASGI_POLLER_CONFIG": str(file), "ASGI_POLLER_METRICS_TOKEN": "x"})
    assert (ours.metrics, ours.metrics_token) == (None, None)
    assert notices(cfg(), {"ASGI_POLLER_METRICS": "9100"}) == [
        "ASGI_POLLER_METRICS is not used under gunicorn"
    ]
