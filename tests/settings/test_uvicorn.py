"""A drop-in for uvicorn: its keywords and options are understood, or refused with advice."""

from __future__ import annotations

import inspect
from typing import Any

import click
import pytest

from asgi_poller.cli import command
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.settings.table import BY_SPELLING
from asgi_poller.settings.uvicorn import IGNORED, REFUSED_OBJECTS

uvicorn = pytest.importorskip("uvicorn")


def keywords_of_uvicorn() -> dict[str, Any]:
    """The parameters of uvicorn.run besides the application, with their defaults."""
    parameters = inspect.signature(uvicorn.run).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "app"}


def test_every_keyword_of_uvicorn_is_known() -> None:
    known = {*BY_SPELLING, *REFUSED_OBJECTS, *IGNORED}
    config_keywords = set(inspect.signature(uvicorn.Config).parameters) - {"app"}
    assert {*keywords_of_uvicorn(), *config_keywords} <= known


def test_uvicorn_s_own_defaults_are_accepted() -> None:
    config = Config("main:app", **keywords_of_uvicorn())
    assert config.notices == ()


def test_every_option_of_uvicorn_s_command_line_is_known() -> None:
    from uvicorn.main import main as theirs

    def switches(of: click.Command) -> set[str]:
        return {
            switch
            for parameter in of.params
            if isinstance(parameter, click.Option)
            for switch in (*parameter.opts, *parameter.secondary_opts)
        }

    assert switches(theirs) <= switches(command)


@pytest.mark.parametrize("name", ["websockets", "websockets-sansio"])
def test_websocket_implementations_of_uvicorn(name: str) -> None:
    config = Config("main:app", ws=name)
    assert config.ws == "auto"
    assert config.notices == (f"--ws {name} is uvicorn's; using auto",)


def test_wsproto_and_none_stay() -> None:
    assert Config("main:app", ws="wsproto").ws == "wsproto"
    assert Config("main:app", ws="none").ws == "none"


def test_loop_none() -> None:
    config = Config("main:app", loop="none")
    assert config.loop == "asyncio"
    assert config.notices == ("--loop none is uvicorn's; using asyncio",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"http": "h11"}, "--http: h11 is not used here: leave it out"),
        ({"http": object}, "--http: must be one of auto, 1, 2"),
        ({"interface": "asgi2"}, "guarantee_single_callable"),
        ({"interface": "wsgi"}, "a2wsgi"),
        ({"loop": "my:loop"}, "--loop: must be one of"),
        ({"ws": object}, "--ws: must be one of"),
        ({"ssl_context_factory": lambda: None}, "ssl_context_factory: is not supported"),
        ({"callback_notify": lambda: None}, "callback_notify: is not supported"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config("main:app", **options)
    with pytest.raises(ConfigError, match=message):
        Config.from_sources("main:app", environ={}, **options)


def test_accepted_without_effect() -> None:
    config = Config("main:app", http="httptools", http2=False, interface="asgi3", timeout_notify=5)
    assert config == Config("main:app", http="1")
    assert Config("main:app", http2=True) == Config("main:app")


def test_the_head_s_size() -> None:
    assert Config("main:app", h11_max_incomplete_event_size=4096).limit_request_head == 4096
    both = Config("main:app", h11_max_incomplete_event_size=4096, limit_request_head=8192)
    assert both.limit_request_head == 8192


def test_a_health_check_s_limit_only_ever_raises_ours() -> None:
    low = Config("main:app", timeout_worker_healthcheck=5)
    assert (low.timeout_worker_startup, low.timeout_worker_heartbeat) == (60, 60)
    high = Config("main:app", timeout_worker_healthcheck=90)
    assert (high.timeout_worker_startup, high.timeout_worker_heartbeat) == (90, 90)
    ours = Config("main:app", timeout_worker_healthcheck=90, timeout_worker_startup=30)
    assert (ours.timeout_worker_startup, ours.timeout_worker_heartbeat) == (30, 90)
